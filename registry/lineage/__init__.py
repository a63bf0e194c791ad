"""Which rows a row came from, and which rows and models came from it."""
