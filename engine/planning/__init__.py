"""Computes step keys, and plans what a run would do and cost."""
