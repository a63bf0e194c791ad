"""What pages say about runs: all of them, one of them, and what they cost."""
