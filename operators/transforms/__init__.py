"""The operators for rows of any type with text fields."""
