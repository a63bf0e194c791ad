"""What people decided about rows: which rows a review asks for, and the decisions, each durable as it is made."""
