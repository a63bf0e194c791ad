"""The facts on the page of a row: how it was made, and what was made from it."""
