"""What the page of a row says: how it was made, and what it became."""
