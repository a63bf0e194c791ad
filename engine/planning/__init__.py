"""Step keys, and what a run would do and cost."""
