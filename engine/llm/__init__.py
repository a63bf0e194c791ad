"""Calls to models: a client with a journal, limits and retries in front of API servers and in-process models."""
