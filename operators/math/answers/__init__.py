"""Reads answers to maths problems, and decides whether two of them are equal."""
