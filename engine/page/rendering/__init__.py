"""From facts to HTML: Jinja templates that escape everything, and filters for numbers, times and texts."""
