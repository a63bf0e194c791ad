"""The command line."""

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point. The command parser is imported here, because other code uses this package without it."""
    try:
        from engine.cli.app import main
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr)
        sys.exit(130)

    main()
