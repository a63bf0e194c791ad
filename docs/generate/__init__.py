"""Writes the reference pages that are made from the code (YAML keys, operators, formats, commands), and the page's pictures."""
