"""Finishes the pages of a bundle, once it is known which pages exist and how many rows are left out."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Set
from pathlib import Path

from markupsafe import escape

NOTE_BYTES = 600
"""Room for the sentence about what a bundle contains."""

_HREF = re.compile(r' href="([^"]*)"')
_IN_GRAPH = re.compile(r'"href":"([^"]*)"')
_PLACE = '<p class="copy"></p>'


def finished(text: str, file: str, files: Set[str], note: str, hidden: re.Pattern[str] | None) -> str:
    """A page with the note, without links to pages that do not exist, and without text that has to be hidden.

    In the text of a page, quotation marks are escaped, so everything that looks like an attribute is one.

    Args:
        file: of the page.
        files: of the bundle.
    """
    folder = posixpath.dirname(file)

    def leads(target: str) -> bool:
        return target.startswith("#") or posixpath.normpath(posixpath.join(folder, target)) in files

    text = _HREF.sub(lambda found: found[0] if leads(found[1]) else "", text)
    text = _IN_GRAPH.sub(lambda found: found[0] if leads(found[1]) else '"href":""', text)
    if hidden:
        text = hidden.sub("…", text)
    return text.replace(_PLACE, f'<p class="copy">{escape(note)}</p>', 1)


def places(found: Iterable[str]) -> re.Pattern[str] | None:
    """Matches paths and addresses of this machine, as pages write them; None if there are none.

    A path with one part, such as `/root`, reveals nothing about a machine, and may be a word in a row.
    """
    wanted = {each for each in found if "://" in each or len(Path(each).parts) > 2}
    written = {form for each in wanted for form in (each, str(escape(each)), json.dumps(each)[1:-1])}
    if not written:
        return None
    longest_first = sorted(written, key=lambda each: (-len(each), each))
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")
