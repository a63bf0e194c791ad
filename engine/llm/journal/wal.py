"""SQLite's write-ahead log, frame by frame. SQLite reads it up to the first damaged frame and silently ignores the rest."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

_HEADER = 32
_FRAME_HEADER = 24
_BIG_ENDIAN = 1
"""The bit of the header's first word that gives the byte order of the words in checksums."""

Sums = tuple[int, int]


def first_damaged(log: Path) -> int | None:
    """The number of a log's first damaged frame, 0 for its header; None if all of it is intact.

    Frames of an earlier round follow those of the current one. They have different salts, and their checksums do not
    continue from the frame before. A frame that differs in only one of the two is damaged, or was being written when its
    process died.
    """
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _HEADER:
        return None  # nothing was committed to it yet
    magic, _, page, _, *_ = struct.unpack_from(">4I", data)
    little = not magic & _BIG_ENDIAN
    sums = _added(data[:24], (0, 0), little=little)
    if sums != struct.unpack_from(">2I", data, 24):
        return 0
    for number, frame in enumerate(_frames(data, page), 1):
        found = _added(frame[:8] + frame[_FRAME_HEADER:], sums, little=little)
        of_this_round, continues = frame[8:16] == data[16:24], found == struct.unpack_from(">2I", frame, 16)
        if of_this_round != continues:
            return number
        if not continues:
            return None
        sums = found
    return None


def _frames(data: bytes, page: int) -> Iterator[bytes]:
    size = _FRAME_HEADER + page
    for start in range(_HEADER, len(data) - size + 1, size):
        yield data[start : start + size]


def _added(data: bytes, sums: Sums, *, little: bool) -> Sums:
    """The checksums after more data, as https://sqlite.org/fileformat2.html#checksum_algorithm defines them."""
    words = array("I", data)
    if little != (array("H", b"\1\0")[0] == 1):
        words.byteswap()
    one, two = sums
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
