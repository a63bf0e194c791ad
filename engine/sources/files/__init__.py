"""Finds the files of a dataset and reads their rows, or only the first or the added ones."""
