"""What pages say about the rows of a version."""
