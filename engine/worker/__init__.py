"""Runs one partition of a step: reads its rows, calls the operator, writes objects and a receipt."""
