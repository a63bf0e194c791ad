"""Executes the partitions of a run: on a Ray cluster, or in this process."""
