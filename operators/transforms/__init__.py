"""Operators on rows of any type that have texts."""
