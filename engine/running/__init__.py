"""Runs a pipeline: decides which step may start, and commits what it made."""
