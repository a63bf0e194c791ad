"""The commands, grouped by subject. Each parses its arguments, calls the library and prints the result."""
