"""What goes wrong in a registry, in words for its user."""


class QueryError(ValueError):
    """A query that is refused or that DuckDB could not run; the message is for the user."""
