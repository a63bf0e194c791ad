"""The commands, one module for what they are about; each parses, calls the library and prints."""
