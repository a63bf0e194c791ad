"""Writes versions from the registry into folders that other tools can open."""
