"""How operators are called: for each row, with a batch of rows, or once for all of them."""
