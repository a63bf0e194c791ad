"""Finds near duplicates: texts that are similar to an earlier text that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.operator import Encoder

Progress = Callable[[int, int], None]
"""Called with the number of texts done and the number of all texts."""

_PERMUTATIONS = 128
_RECALL = 0.95
_BLOCK = 1024
_DIGITS = 5


class SimilarText(NamedTuple):
    """A kept text, by its place, and its similarity to another text."""

    place: int
    similarity: float


def shingles(passages: Sequence[str], size: int) -> set[str]:
    """All runs of `size` tokens within a passage; a shorter passage is a single shingle.

    Args:
        passages: tokens separated by blanks.
        size: the number of tokens in a shingle.
    """
    found = set()
    for passage in passages:
        tokens = passage.split()
        if tokens:
            found |= {" ".join(tokens[start : start + size]) for start in range(max(1, len(tokens) - size + 1))}
    return found


def by_minhash(texts: Sequence[Sequence[str]], threshold: float, size: int, progress: Progress) -> dict[int, SimilarText]:
    """Texts whose set of shingles has at least this Jaccard similarity with that of an earlier, kept text.

    MinHash proposes candidates: at least 95 of 100 pairs whose similarity equals the threshold, and more of those above it. The
    similarity of candidates is then computed exactly, so there are no false duplicates.

    Args:
        texts: passages of tokens, see `shingles`; each text has at least one token.
        threshold: the smallest similarity, above 0.
        size: the number of tokens in a shingle.
        progress: called after every 1,024 texts.

    Returns:
        By the place of a text, the most similar kept text (the first of several).
    """
    from datasketch import MinHash, MinHashLSH

    blank = MinHash(num_perm=_PERMUTATIONS, seed=1, scheme="affine64", hashfunc=int)
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=bands(threshold))
    kept: dict[int, NDArray[np.uint64]] = {}
    near: dict[int, SimilarText] = {}
    for place, text in enumerate(texts):
        hashes = _hashes(shingles(text, size))
        sketch = blank.copy()
        sketch.update_batch(hashes.tolist())
        if (best := _most_similar(hashes, kept, sorted(index.query(sketch)))) and best.similarity >= threshold:
            near[place] = best
        else:
            kept[place] = hashes
            index.insert(place, sketch, check_duplication=False)
        if place % _BLOCK == 0:
            progress(place, len(texts))
    return near


def bands(threshold: float) -> tuple[int, int]:
    """(number, width) of the LSH bands with the fewest false candidates that still reach the recall."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):
        number = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** number >= _RECALL:
            return number, rows
    return _PERMUTATIONS, 1


async def by_embedding(texts: Sequence[str], threshold: float, encoder: Encoder, progress: Progress) -> dict[int, SimilarText]:
    """Texts whose vector has at least this cosine similarity with that of an earlier, kept text.

    All pairs are compared, in blocks. Similarities are rounded to five decimals, so that the last digits of vectors make no
    difference.

    Returns:
        By the place of a text, the most similar kept text (the first of several).
    """
    import numpy as np

    near: dict[int, SimilarText] = {}
    kept: list[tuple[NDArray[np.intp], NDArray[np.float32]]] = []
    for start in range(0, len(texts), _BLOCK):
        progress(start, len(texts))
        vectors = await encoder.embed(texts[start : start + _BLOCK])
        best = np.full(len(vectors), -1.0)
        places = np.full(len(vectors), -1)
        for known, earlier in kept:
            similar = vectors @ earlier.T
            top = similar.argmax(axis=1)
            value = _rounded(similar[np.arange(len(vectors)), top])
            places = np.where(value > best, known[top], places)
            best = np.maximum(best, value)
        own = _rounded(vectors @ vectors.T)
        stays: list[int] = []
        for row in range(len(vectors)):
            if stays and (value := own[row, stays]).max() > best[row]:
                best[row], places[row] = value.max(), start + stays[int(value.argmax())]
            if best[row] >= threshold:
                near[start + row] = SimilarText(int(places[row]), float(best[row]))
            else:
                stays.append(row)
        if stays:
            kept.append((np.array(stays) + start, vectors[stays]))
    return near


def _rounded(similarities: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    return np.minimum(np.round(similarities.astype(np.float64), _DIGITS), 1.0)


def _hashes(shingles: set[str]) -> NDArray[np.uint64]:
    """Hashes in ascending order. Two shingles have the same hash in one of 10**15 pairs of sets."""
    import numpy as np

    digests = b"".join(blake2b(shingle.encode(), digest_size=8).digest() for shingle in shingles)
    return np.sort(np.frombuffer(digests, "<u8"))


def _most_similar(
    hashes: NDArray[np.uint64], kept: dict[int, NDArray[np.uint64]], candidates: Sequence[int]
) -> SimilarText | None:
    """The candidate with the highest Jaccard similarity."""
    import numpy as np

    if not candidates:
        return None
    sets = [kept[place] for place in candidates]
    sizes = np.array([len(each) for each in sets])
    every = np.concatenate(sets)
    found = hashes[np.minimum(np.searchsorted(hashes, every), len(hashes) - 1)] == every
    shared = np.add.reduceat(found, np.cumsum(sizes) - sizes, dtype=np.int64)
    jaccard = shared / (len(hashes) + sizes - shared)
    top = int(jaccard.argmax())
    return SimilarText(candidates[top], float(jaccard[top]))
