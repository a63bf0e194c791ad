"""The operators that train models."""
