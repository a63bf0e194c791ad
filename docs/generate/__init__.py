"""Writes the reference pages that are made from the code: the YAML keys, the operators, the formats, the commands."""
