"""Every answer that was paid for, durable before it is used."""
