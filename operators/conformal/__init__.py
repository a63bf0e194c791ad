"""LofreeCP: prediction sets with a guarantee for models without logits (arXiv 2403.01216)."""
