"""What the driver and its workers exchange, and what a finished partition leaves behind."""
