"""The command line."""

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point. What parses commands is imported here, because others use rooms of the command line without it."""
    from engine.cli.app import main

    main()
