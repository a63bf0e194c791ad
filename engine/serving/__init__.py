"""Starts the servers of models on this machine, watches them, and ends them with all their children."""
