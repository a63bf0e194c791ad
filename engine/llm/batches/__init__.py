"""Requests that are answered in batches, within a day and for half the price. Open batches survive a restart of the engine."""
