"""Rows from files, URLs, hubs and generators, with their types checked."""
