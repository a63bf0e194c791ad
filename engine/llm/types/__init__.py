"""What passes between operators, clients and providers: requests, completions, failures, model settings."""
