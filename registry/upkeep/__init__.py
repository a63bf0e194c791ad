"""Checks that a registry contains what was written to it, and removes what nothing refers to."""
