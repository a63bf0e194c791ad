"""Prompt templates: checked before anything runs, filled for each row."""
