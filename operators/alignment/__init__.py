"""The operators of Dialectical Alignment, which trains models to stay truthful when some of their contexts are false."""
