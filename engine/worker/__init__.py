"""Runs the partitions of a step: reads rows, calls the operator, writes objects and receipts."""
