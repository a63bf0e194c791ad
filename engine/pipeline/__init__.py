"""Checks a pipeline file and turns it into a typed graph of datasets and steps."""
