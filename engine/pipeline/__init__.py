"""From a pipeline file to a checked, typed graph of datasets and steps."""
