"""Typed rows: record types, their Arrow columns, and the hash of what they say."""
