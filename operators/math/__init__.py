"""The operators for maths problems and their solutions."""
