"""How hard a model may be driven: rates, requests in flight, budgets, outages."""
