"""API servers: what is sent to them, what comes back, and how they fail."""
