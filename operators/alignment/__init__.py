"""Operators of Dialectical Alignment: training models to stay truthful when some of their contexts are false."""
