"""What operators, clients and providers pass to each other: requests, completions, errors, model settings."""
