"""Models in this process: texts, log-probabilities and vectors from weights on this machine."""
