"""Files: written whole, verified when read, locked while they change, in a folder or at a URL."""
