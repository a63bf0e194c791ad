"""`python -m engine.cli` is the command `engine`."""

from engine.cli import main

main()
