"""What an operator's code does, as one hash: independent of comments, docstrings and formatting."""
