"""What is served at which address. A route asks for facts and renders them; it decides nothing."""
