"""The formats in which others publish rows of the package's record types: how they are recognised, read and written.

Each is a pure function from a row to the fields of a record, and back. `table.py` lists them.
"""
