"""What the page of a row says: how it came about, and what it became."""
