"""Proves that a registry holds what was written to it, and removes what nothing refers to."""
