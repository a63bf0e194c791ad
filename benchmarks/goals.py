"""The end of a benchmark: which of its goals it missed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console


def exit_with(missed: Sequence[str], console: Console) -> NoReturn:
    """Print the goals that were missed, and exit: with 1 if there are any."""
    for line in missed:
        console.print(f"missed: {line}", soft_wrap=True)
    sys.exit(bool(missed))
