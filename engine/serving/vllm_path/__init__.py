"""On the PYTHONPATH of vLLM's servers: one module, of Python's own library only, with a name that nothing else has."""
