"""An encoder as an operator sees it: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from engine.llm.types.model_spec import ModelSpec

if TYPE_CHECKING:
    from engine.llm.local.sentence_transformers import Vectors


class Encodes(Protocol):
    """A model that turns texts into vectors."""

    @property
    def spec(self) -> ModelSpec:
        """The model as the pipeline defines it."""

    async def encode(self, texts: tuple[str, ...]) -> Vectors:
        """The vectors of distinct texts, of length 1."""
        ...


class Encoder:
    """An encoder in a role of an operator.

    The journal does not keep its vectors: they cost about a millisecond each, and other weights change the step key.

    Args:
        role: the operator's name for it (`encoder`).
        model: the model that fills the role.
        name: identifies the model wherever it must be found again.
        identity: the values that determine the model's vectors.
    """

    def __init__(self, role: str, model: Encodes, name: str, identity: str = "") -> None:
        self.role = role
        self.name = name
        self.identity = identity
        self._model = model

    @property
    def spec(self) -> ModelSpec:
        """The model as the pipeline defines it."""
        return self._model.spec

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors, one per row, of length 1: `vectors @ vectors.T` contains their cosine similarities.

        The same call returns the same bits on the same kind of machine with the same number of threads. The other texts
        of a batch, and the division of a batch that does not fit into the memory, can change the last digits of a vector
        (by about 1e-7), nothing else. Repeated texts are encoded once. Texts beyond the encoder's maximum length
        (`all-minilm-l6-v2`: 256 tokens) are truncated. One call for many texts is several times as fast as a call for each.

        Args:
            texts: any number of texts; for none, the result has no rows and the usual number of columns.

        Raises:
            TypeError: `texts` is a single text, or contains something that is not a text.
            EndpointError: the model cannot be loaded, or not even one text fits into the memory.
        """
        import numpy as np

        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("embed takes a list of texts")
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = await self._model.encode(tuple(place))
        return vectors[np.fromiter((place[text] for text in texts), np.intp, len(texts))]
