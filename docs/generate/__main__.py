"""`python -m docs.generate` writes the generated pages; with `--check` it fails when one of them is out of date.

`make pages` writes them, `make docs` and the tests check them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate import commands, formats, operators, yaml_keys

FOLDER = Path(__file__).parents[1] / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "yaml.md": yaml_keys.page,
    "operators.md": operators.page,
    "commands.md": commands.page,
    "formats.md": formats.page,
}


def stale() -> list[str]:
    """The names of pages that differ from what the code says now."""
    return [name for name, page in PAGES.items() if not _same(FOLDER / name, page())]


def _same(file: Path, text: str) -> bool:
    return file.exists() and file.read_text() == text


def main() -> int:
    """Write the pages, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is out of date")
    if parser.parse_args().check:
        names = stale()
        for name in names:
            print(f"docs/reference/{name} is out of date; run `make pages` and commit the result", file=sys.stderr)
        return 1 if names else 0
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
