"""Operators on maths problems and their solutions."""
