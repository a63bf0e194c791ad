"""Verifies and cleans up the engine's files in a registry."""
