"""Attacks: hostile answers, servers, registries and files."""
