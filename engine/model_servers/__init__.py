"""The servers of a run's models: started when a step needs them, and asked what they support."""
