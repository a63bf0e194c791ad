"""Runs a pipeline: the cluster, the steps, the commits."""
