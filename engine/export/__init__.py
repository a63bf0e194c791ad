"""Takes versions out of the registry, as folders that other tools open."""
