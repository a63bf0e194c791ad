"""The addresses of the page. A route asks for facts and renders them; it decides nothing."""
