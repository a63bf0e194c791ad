"""How different are texts from each other? In their words, and in their meaning."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_BLOCK = 1024


@dataclass(frozen=True)
class Lexical:
    """Lexical diversity of a set of texts.

    Attributes:
        tokens: words; numbers are none.
        types: different words.
        first: how many words a comparison with other sets is about.
        types_in_first: different words among so many.
    """

    tokens: int
    types: int
    first: int
    types_in_first: int

    @property
    def type_token_ratio(self) -> float:
        """types / tokens. It falls as texts get more: compare `types_in_first` between sets of different size."""
        return self.types / self.tokens if self.tokens else 0.0


def lexical(texts: Sequence[str], first: int) -> Lexical:
    """Count words, whatever their case. Texts are taken in a fixed random order, so that `first` words are a fair sample."""
    order = random.Random(0).sample(range(len(texts)), len(texts))
    words = [word.casefold() for place in order for word in _WORD.findall(texts[place])]
    return Lexical(len(words), len(set(words)), min(first, len(words)), len(set(words[:first])))


def word_count(texts: Sequence[str]) -> int:
    """Words in all texts, as `lexical` counts them."""
    return sum(len(_WORD.findall(text)) for text in texts)


def mean_nearest_distance(vectors: NDArray[np.float32]) -> float:
    """The mean cosine distance from a text to the most similar other one: 0 for copies, 1 for what has nothing in common.

    Args:
        vectors: (texts, width), rows of length 1, of at least two texts.
    """
    import numpy as np

    nearest = []
    for start in range(0, len(vectors), _BLOCK):
        similarity = vectors[start : start + _BLOCK] @ vectors.T
        places = np.arange(len(similarity))
        similarity[places, start + places] = -np.inf  # not to itself
        nearest.append(similarity.max(axis=1))
    return float(1 - np.concatenate(nearest).mean())


def sample(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the texts, always the same ones."""
    return list(texts) if len(texts) <= count else random.Random(0).sample(list(texts), count)
