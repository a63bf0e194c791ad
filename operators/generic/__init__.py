"""Operators for rows of any type: a pipeline says what they do, and needs no Python."""
