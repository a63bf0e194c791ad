"""Finds what packages define, and files beside the pipeline file: operators, record types and generators, by name."""
