"""Model clients: one interface over API servers and in-process models, with a journal in front of both."""
