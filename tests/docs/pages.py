"""The project's Markdown pages, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# (\S+\.(?:yaml|py))\n")


class Block(NamedTuple):
    """A block of code on a page; a first line such as `# tickets.yaml` names the file that it is."""

    page: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file's name."""
        found = _NAME.match(self.text)
        return found[1] if found else None


def blocks(language: str, page: str = "") -> list[Block]:
    """The blocks in a language (empty: in any), of all pages or of one."""
    return [
        Block(str(file.relative_to(ROOT)), kind, text)
        for file in PAGES
        if not page or file == ROOT / page
        for kind, text in _BLOCK.findall(file.read_text())
        if language in ("", kind)
    ]


def shell_lines(page: str = "") -> Iterator[tuple[str, str]]:
    """(page, line) of all shell blocks, without comments."""
    for block in blocks("sh", page):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield block.page, line.strip()


def engine_lines(page: str = "") -> list[tuple[str, str]]:
    """(page, line) of all shell lines that call the engine."""
    return [(where, line) for where, line in shell_lines(page) if line.startswith("engine ")]


def named_files(page: str) -> dict[str, str]:
    """The files that a page shows: blocks that name themselves, and JSON Lines after a line that ends with "`NAME.jsonl`...:"."""
    files = {block.file: block.text for language in ("yaml", "python") for block in blocks(language, page) if block.file}
    text = (ROOT / page).read_text()
    files |= dict(re.findall(r"`(\S+\.jsonl)`[^\n`]*:\n\n```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return files
