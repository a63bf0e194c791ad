"""A cheap hash of each row, computed for many rows at a time, and the size of each row.

It decides where objects end, nothing else: it is stable, but not made to tell all rows apart. Of a text it takes the length and
a few words of eight bytes, evenly spread.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.records.arrays import zero

_WORDS = 4
"""Words that are taken from a text."""
_WORD = 8
"""Bytes of a word."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
"""Of SplitMix64 (Steele, Lea and Flood 2014)."""

_NULL = np.uint64(0x6E756C6C)

Numbers = npt.NDArray[np.uint64]


class Hashed(NamedTuple):
    """The hash of each row (uint64), and its bytes in memory (int64), together no more than those of the table."""

    hashes: Numbers
    bytes: npt.NDArray[np.int64]


def hashed(table: pa.Table) -> Hashed:
    """The hash and the size of each row of a table, from the values alone."""
    hashes, sizes = np.zeros(table.num_rows, np.uint64), np.zeros(table.num_rows, np.int64)
    for column in table.combine_chunks().columns:
        if column.num_chunks:
            [array] = column.chunks
            _combine(hashes, sizes, _of(array))
    return Hashed(_mixed(hashes), sizes)


def _of(array: pa.Array) -> Hashed:
    kind = array.type
    if pa.types.is_struct(kind):
        found = Hashed(np.zeros(len(array), np.uint64), np.zeros(len(array), np.int64))
        for child in array.flatten():
            _combine(*found, _of(child))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        found = _of_lists(array)
    elif kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        found = _of_texts(array)
    else:
        found = _of_numbers(array)
    if array.null_count:
        found.hashes[_numbers(array.is_null().cast(pa.uint8())).astype(bool)] = _NULL
    return found


def _of_lists(array: pa.Array) -> Hashed:
    import pyarrow.compute as pc

    lengths = _numbers(_filled(pc.list_value_length(array))).astype(np.int64)
    items = _of(array.flatten())
    stops = np.cumsum(lengths)
    # Differences of running sums; unsigned ones wrap around, which cancels out.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(items.hashes), dtype=np.uint64)])
    sizes = np.concatenate([np.zeros(1, np.int64), np.cumsum(items.bytes)])
    starts = stops - lengths
    return Hashed(sums[stops] - sums[starts] + lengths.astype(np.uint64), sizes[stops] - sizes[starts] + 4)


def _of_texts(array: pa.Array) -> Hashed:
    raw = array.cast(pa.large_binary())
    raw = _filled(raw)
    offsets = np.frombuffer(raw.buffers()[1], np.int64)[raw.offset : raw.offset + len(raw) + 1]
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    content = np.frombuffer(raw.buffers()[2] or b"", np.uint8)
    if len(long := np.flatnonzero(lengths >= _WORD)):
        words = np.ndarray(len(content) - _WORD + 1, "<u8", content.data, strides=(1,))  # one that begins at each byte
        firsts, room = offsets[long], lengths[long] - _WORD
        for number in range(_WORDS):
            hashes[long] = hashes[long] * _ODD + words[firsts + room * number // (_WORDS - 1)]
    if len(short := np.flatnonzero((lengths > 0) & (lengths < _WORD))):
        # The last byte of a text that is shorter than a word counts several times.
        places = np.minimum(offsets[short, None] + np.arange(_WORD), offsets[short + 1, None] - 1)
        hashes[short] = hashes[short] * _ODD + content[places].view("<u8")[:, 0]
    return Hashed(hashes, lengths + 8)


def _of_numbers(array: pa.Array) -> Hashed:
    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    values = _numbers(_filled(array))
    bits = values.astype(np.uint64)
    return Hashed(bits, np.full(len(array), kind.bit_width // 8, np.int64))


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """The bits of numbers without nulls, as unsigned integers: `to_numpy` would import pandas."""
    bits = np.frombuffer(array.buffers()[1], f"<u{array.type.bit_width // 8}")
    return bits[array.offset : array.offset + len(array)]


def _filled(array: pa.Array) -> pa.Array:
    return array.fill_null(zero(array.type)) if array.null_count else array


def _combine(hashes: Numbers, sizes: npt.NDArray[np.int64], column: Hashed) -> None:
    """Add a column to the hashes and sizes of rows, in place."""
    hashes *= _ODD
    hashes += _mixed(column.hashes)
    sizes += column.bytes


def _mixed(hashes: Numbers) -> Numbers:
    """Every bit of a result depends on all bits of its number."""
    mixed = hashes + _ODD
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
