"""Tries a pipeline on a few rows of each source, and forecasts from them what the run will take."""
