"""Proves and cleans what the engine keeps in a registry."""
