"""Models in this process: they generate or encode texts from weights on this machine."""
