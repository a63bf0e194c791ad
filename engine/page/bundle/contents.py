"""What a bundle contains, written file by file, and how much of its limit is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.page.bundle.file_links import STATIC
from engine.page.bundle.finished import NOTE_BYTES
from engine.page.bundle.rendered import Page
from engine.page.static_files import FOLDER, static_files


@dataclass
class Contents:
    """The files of a bundle.

    Args:
        folder: where they are written.
        limit: the maximum bytes of all files together.
        pages: the files of pages, in the order in which they were added.
        static: the names of style sheets, scripts and licences.
        used: the maximum bytes that the files take.
    """

    folder: Path
    limit: int
    pages: dict[str, None] = field(default_factory=dict)
    static: dict[str, None] = field(default_factory=dict)
    used: int = 0

    @property
    def room(self) -> int:
        """Bytes that may still be added."""
        return self.limit - self.used

    def cost(self, pages: Iterable[Page]) -> int:
        """The maximum bytes that pages take, with style sheets and scripts that no earlier page uses."""
        fresh = {page.file: page for page in pages if page.file not in self.pages}
        static = {name for page in fresh.values() for name in _static_of(page) if name not in self.static}
        return sum(map(size_of, fresh.values())) + sum(len(_content(name)) for name in static)

    def add(self, pages: Iterable[Page]) -> None:
        """Write pages, and the style sheets and scripts that they use. Existing pages stay as they are."""
        for page in pages:
            if page.file in self.pages:
                continue
            self._write(page.file, page.text.encode(errors="replace"))
            self.pages[page.file] = None
            self.used += size_of(page)
            self.add_static(page)

    def add_static(self, page: Page) -> None:
        """Write the style sheets and scripts that a page uses."""
        for name in _static_of(page):
            if name not in self.static:
                self._write(name, _content(name))
                self.static[name] = None
                self.used += len(_content(name))

    def _write(self, file: str, content: bytes) -> None:
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def size_of(page: Page) -> int:
    """The maximum bytes that a page takes, with the note that is added at the end."""
    return len(page.text.encode(errors="replace")) + NOTE_BYTES


def _static_of(page: Page) -> Iterator[str]:
    """The files that a page uses, with the licences that must accompany the libraries among them."""
    for name in page.asked:
        if name.startswith(f"{STATIC}/"):
            yield name
            licence = name.replace(".min.js", ".LICENSE.txt")
            if licence != name and (FOLDER / licence.removeprefix(f"{STATIC}/")).exists():
                yield licence


def _content(name: str) -> bytes:
    own = name.removeprefix(f"{STATIC}/")
    known = static_files().get(own)
    return known.content if known else (FOLDER / own).read_bytes()
