"""Generators: external datasets that a program makes."""
