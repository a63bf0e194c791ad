"""What an operator declares: read from its signature, checked, and asked about its parameters."""
