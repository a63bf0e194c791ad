"""Measures the diversity of texts, in words and in meaning."""

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
        tokens: the number of words; numbers do not count.
        types: the number of different words.
        first: the number of words that are compared with other sets.
        types_in_first: the number of different words among them.
    """

    tokens: int
    types: int
    first: int
    types_in_first: int

    @property
    def type_token_ratio(self) -> float:
        """types / tokens. It falls as texts get longer; for sets of different sizes, compare `types_in_first`."""
        return self.types / self.tokens if self.tokens else 0.0


def lexical(texts: Sequence[str], first: int) -> Lexical:
    """Count words, ignoring case. Texts are taken in a fixed random order, so that the first words are a fair sample."""
    order = random.Random(0).sample(range(len(texts)), len(texts))
    words = [word.casefold() for place in order for word in _WORD.findall(texts[place])]
    return Lexical(len(words), len(set(words)), min(first, len(words)), len(set(words[:first])))


def word_count(texts: Sequence[str]) -> int:
    """The number of words in all texts, as counted by `lexical`."""
    return sum(len(_WORD.findall(text)) for text in texts)


def mean_nearest_distance(vectors: NDArray[np.float32]) -> float:
    """The mean cosine distance from each text to the most similar other text: 0 for copies, 1 for unrelated texts.

    Args:
        vectors: (texts, width), with rows of length 1, for at least two texts.
    """
    import numpy as np

    nearest = []
    for start in range(0, len(vectors), _BLOCK):
        similarity = vectors[start : start + _BLOCK] @ vectors.T
        places = np.arange(len(similarity))
        similarity[places, start + places] = -np.inf  # a text is not its own neighbour
        nearest.append(similarity.max(axis=1))
    return float(1 - np.concatenate(nearest).mean())


def sample(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the texts, drawn at random but always the same."""
    return list(texts) if len(texts) <= count else random.Random(0).sample(list(texts), count)
