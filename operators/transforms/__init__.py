"""Operators on rows of any type with text fields."""
