"""The data that the driver and its workers exchange, and the files that finished partitions leave."""
