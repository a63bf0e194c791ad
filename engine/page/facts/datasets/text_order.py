"""Some rows in the order of a column of texts, found without ordering the others.

The first eight bytes of each text, as a number, tell where the wanted rows are: only rows with the same eight bytes as the
first or the last of these are looked at further (a quickselect by radix). Ordering a million texts takes more than a second;
this takes a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from registry.records.arrays import int64_array, numbers_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Keys = npt.NDArray[np.uint64]

_WORD = 8
"""Bytes of a text that are compared at a time."""

_FEW = 2048
"""Rows that are simply ordered."""

_PASSES = 8
"""All rows may be looked at so often, in sum. Where long texts begin alike, they are ordered instead."""


@dataclass(frozen=True)
class _Chunk:
    """Texts that lie one behind the other: `data` from `offsets[n]` to `offsets[n + 1]` is the n-th."""

    offsets: Numbers
    data: npt.NDArray[np.uint8]

    def lengths(self, rows: Numbers) -> Numbers:
        return self.offsets[rows + 1] - self.offsets[rows]

    def keys(self, rows: Numbers, depth: int) -> Keys:
        """The eight bytes from `depth` on, as a number in the order of the texts; zeros stand behind the end of a text."""
        starts = self.offsets[rows] + depth
        left = np.clip(self.offsets[rows + 1] - starts, 0, _WORD)
        if len(self.data) < _WORD:
            words = np.frombuffer(self.data.tobytes() + bytes(_WORD), ">u8", 1)
            return _without_rest(words[np.zeros(len(rows), np.int64)] << (8 * starts.astype(np.uint64)), left)
        # A number begins at each byte. For the last bytes, one that begins earlier is shifted.
        words = np.ndarray((len(self.data) - _WORD + 1,), ">u8", self.data, strides=(1,))
        first = np.clip(starts, 0, len(words) - 1)
        shift = np.where(left > 0, starts - first, 0).astype(np.uint64)
        return _without_rest(words[first].astype(np.uint64) << (8 * shift), left)


@dataclass(frozen=True)
class TextOrder:
    """The texts of a column.

    Args:
        chunks: arrays of strings, which together have a text or null for each row.
        kept: the result of `first_keys` for the same column, which saves half of the time; None if it is not known.
    """

    chunks: Sequence[pa.Array]
    kept: Keys | None = None

    def between(self, rows: Numbers, start: int, stop: int, *, descending: bool) -> Numbers:
        """Those of the rows that have the places `start` to `stop` in the order of their texts: by bytes, rows with the same
        text by their numbers, nulls last.

        Args:
            rows: in ascending order.
        """
        texts, nulls = rows[~self._nulls[rows]], rows[self._nulls[rows]]
        start, stop = (min(place, len(rows)) for place in (start, stop))
        inside = _Selection(self, descending, [_PASSES * len(texts)]).between(
            texts, min(start, len(texts)), min(stop, len(texts)), 0
        )
        return np.concatenate([inside, nulls[max(0, start - len(texts)) : max(0, stop - len(texts))]])

    @cached_property
    def _nulls(self) -> npt.NDArray[np.bool_]:
        return np.concatenate([_mask(chunk) for chunk in self.chunks])

    @cached_property
    def _parts(self) -> tuple[_Chunk, ...]:
        return tuple(map(_chunk, self.chunks))

    @cached_property
    def _stops(self) -> Numbers:
        return np.cumsum([len(chunk) for chunk in self.chunks])

    def _by_chunk(self, rows: Numbers) -> list[tuple[int, Numbers]]:
        """The rows by chunk, with their places in it."""
        ends = np.searchsorted(rows, self._stops)
        starts = np.concatenate([[0], ends[:-1]])
        firsts = self._stops - [len(chunk) for chunk in self.chunks]
        return [
            (place, rows[start:end] - first)
            for place, (start, end, first) in enumerate(zip(starts, ends, firsts, strict=True))
            if end > start
        ]

    def keys(self, rows: Numbers, depth: int) -> Keys:
        """See _Chunk."""
        if depth == 0 and self.kept is not None:
            return self.kept[rows]
        return np.concatenate([self._parts[place].keys(own, depth) for place, own in self._by_chunk(rows)])

    def first_keys(self) -> Keys:
        """The keys of all texts at their start."""
        return self.keys(np.arange(sum(map(len, self.chunks))), 0)

    def lengths(self, rows: Numbers) -> Numbers:
        """The lengths of the texts, in bytes."""
        return np.concatenate([self._parts[place].lengths(own) for place, own in self._by_chunk(rows)])

    def texts(self, rows: Numbers) -> pa.ChunkedArray:
        """The texts of the rows."""
        return pa.chunked_array([self.chunks[place].take(int64_array(own)) for place, own in self._by_chunk(rows)])


@dataclass(frozen=True)
class _Selection:
    """One search.

    Args:
        budget: how many rows may still be looked at.
    """

    of: TextOrder
    descending: bool
    budget: list[int]

    def between(self, rows: Numbers, start: int, stop: int, depth: int) -> Numbers:
        """The rows from place `start` to `stop`, if they all have the same bytes up to `depth`."""
        if start >= stop:
            return rows[:0]
        self.budget[0] -= len(rows)
        if len(rows) <= _FEW or self.budget[0] < 0:
            return self._ordered(rows)[start:stop]
        keys = self.of.keys(rows, depth)
        keys = ~keys if self.descending else keys
        low, high = np.partition(keys, (start, stop - 1))[[start, stop - 1]]
        before = int(np.count_nonzero(keys < low))
        first = rows[keys == low]
        if low == high:
            return self._alike(first, start - before, stop - before, depth)
        middle, last = rows[(keys > low) & (keys < high)], rows[keys == high]
        behind = stop - before - len(first) - len(middle)
        return np.concatenate([
            self._alike(first, start - before, len(first), depth), self._ordered(middle), self._alike(last, 0, behind, depth)
        ])  # fmt: skip

    def _alike(self, rows: Numbers, start: int, stop: int, depth: int) -> Numbers:
        """The same for rows that also have the next eight bytes in common."""
        lengths = self.of.lengths(rows)
        if lengths.max() > depth + _WORD:
            return self.between(rows, start, stop, depth + _WORD)
        # Whether a zero is a character or the end of the text follows from the lengths.
        return rows[np.argsort(-lengths if self.descending else lengths, kind="stable")][start:stop]

    def _ordered(self, rows: Numbers) -> Numbers:
        import pyarrow.compute as pc

        if len(rows) < 2:
            return rows
        direction = "descending" if self.descending else "ascending"
        table = pa.Table.from_arrays([self.of.texts(rows), int64_array(rows)], ["text", "row"])
        places: Numbers = numbers_of(pc.sort_indices(table, sort_keys=[("text", direction), ("row", "ascending")]))
        return rows[places]


def _without_rest(words: Keys, left: Numbers) -> Keys:
    """Words of which only the first `left` bytes count."""
    unused = (8 * (_WORD - left)).astype(np.uint64)
    # A shift by all bits is not defined.
    mask = np.where(left > 0, ~np.uint64(0) << np.minimum(unused, np.uint64(63)), np.uint64(0))
    return words.astype(np.uint64) & mask


def _chunk(chunk: pa.Array) -> _Chunk:
    _, offsets, data = chunk.buffers()
    kind = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
    places = np.frombuffer(offsets, kind, len(chunk) + 1, chunk.offset * np.dtype(kind).itemsize).astype(np.int64)
    return _Chunk(places, np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8))


def _mask(chunk: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = numbers_of(chunk.is_null())
    return found
