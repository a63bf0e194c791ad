"""Operators that draw rows by their content: samples, splits and mixtures."""
