"""The messages between the driver and its workers, and the files of finished partitions."""
