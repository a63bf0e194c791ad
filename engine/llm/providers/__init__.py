"""The models themselves: OpenAI-compatible servers, their batches, and models in this process."""
