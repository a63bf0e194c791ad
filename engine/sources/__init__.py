"""Rows from files, URLs, hubs and generators, typed as they come in."""
