"""Near duplicates among texts, in order: which texts are like one before them that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.llm.encoder import Encoder

Tell = Callable[[int, int], None]
"""Called with how many texts are done, and of how many."""

_PERMUTATIONS = 128
_RECALL = 0.95
_BLOCK = 1024
_DIGITS = 5


class Near(NamedTuple):
    """The kept text that a text is like, by its place, and how much."""

    place: int
    similarity: float


def shingles(passages: Sequence[str], size: int) -> set[str]:
    """All runs of `size` tokens; a shorter passage is one as a whole, and none goes beyond its passage.

    Args:
        passages: tokens with blanks between them.
    """
    found = set()
    for passage in passages:
        tokens = passage.split()
        if tokens:
            found |= {" ".join(tokens[start : start + size]) for start in range(max(1, len(tokens) - size + 1))}
    return found


def by_minhash(texts: Sequence[Sequence[str]], threshold: float, size: int, tell: Tell) -> dict[int, Near]:
    """Texts whose sets of shingles have at least this Jaccard similarity with that of a kept text before them.

    MinHash proposes candidates, at least 95 of 100 that are as similar as the threshold and more of those that are more
    similar; their similarity is then counted, so that what is found is right.

    Args:
        texts: passages of tokens, see `shingles`; each text has a token.
        threshold: above 0.

    Returns:
        By the text's place the most similar kept text, the first of several.
    """
    from datasketch import MinHash, MinHashLSH

    blank = MinHash(num_perm=_PERMUTATIONS, seed=1, scheme="affine64", hashfunc=int)
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=bands(threshold))
    kept: dict[int, NDArray[np.uint64]] = {}
    near: dict[int, Near] = {}
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
            tell(place, len(texts))
    return near


def bands(threshold: float) -> tuple[int, int]:
    """The number and the width of the bands with the fewest false candidates that still has the recall."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):
        number = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** number >= _RECALL:
            return number, rows
    return _PERMUTATIONS, 1


async def by_embedding(texts: Sequence[str], threshold: float, encoder: Encoder, tell: Tell) -> dict[int, Near]:
    """Texts whose vectors have at least this cosine similarity with that of a kept text before them.

    All pairs are compared, a block of texts with a block of texts. Similarities are rounded to five decimals, so that the
    last digits of vectors decide nothing.

    Returns:
        By the text's place the most similar kept text, the first of several.
    """
    import numpy as np

    near: dict[int, Near] = {}
    kept: list[tuple[NDArray[np.intp], NDArray[np.float32]]] = []
    for start in range(0, len(texts), _BLOCK):
        tell(start, len(texts))
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
                near[start + row] = Near(int(places[row]), float(best[row]))
            else:
                stays.append(row)
        if stays:
            kept.append((np.array(stays) + start, vectors[stays]))
    return near


def _rounded(similarities: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    return np.minimum(np.round(similarities.astype(np.float64), _DIGITS), 1.0)


def _hashes(shingles: set[str]) -> NDArray[np.uint64]:
    """In ascending order. A pair of sets in 10**15 has two shingles with one hash."""
    import numpy as np

    digests = b"".join(blake2b(shingle.encode(), digest_size=8).digest() for shingle in shingles)
    return np.sort(np.frombuffer(digests, "<u8"))


def _most_similar(hashes: NDArray[np.uint64], kept: dict[int, NDArray[np.uint64]], candidates: Sequence[int]) -> Near | None:
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
    return Near(candidates[top], float(jaccard[top]))
