"""Facts about the rows of a version."""
