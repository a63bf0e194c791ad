"""The limits of a model: requests and tokens per minute, requests in flight, budgets, outages."""
