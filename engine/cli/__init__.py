"""The command line."""

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point. The command parser is imported here, because other code uses this package without it."""
    from engine.cli.app import main

    main()
