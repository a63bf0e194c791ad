"""Operators for rows of any type that need no Python: what they do is written in the pipeline file."""
