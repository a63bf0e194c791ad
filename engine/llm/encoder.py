"""An encoder as an operator sees it: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.llm.local.sentence_transformers import LocalEncoder
from engine.llm.types.model_spec import ModelSpec

if TYPE_CHECKING:
    from engine.llm.local.sentence_transformers import Vectors


class Encoder:
    """An encoder in a role of an operator.

    Its vectors are not kept in the journal: they cost about a millisecond each, and other weights make another step key.

    Args:
        role: the operator's word for it (`encoder`).
        model: the model that fills it.
        name: what the model is called where it must be found again.
        identity: what determines its vectors.
    """

    def __init__(self, role: str, model: LocalEncoder, name: str, identity: str = "") -> None:
        self.role = role
        self.name = name
        self.identity = identity
        self._model = model

    @property
    def spec(self) -> ModelSpec:
        """The model as the pipeline names it."""
        return self._model.spec

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors, one a row, of length 1: `vectors @ vectors.T` has their cosine similarities.

        The same call gives the same bits on the same kind of machine with as many threads. What a text is encoded with
        may change the last digits (differences of about 1e-7), nothing else. Texts that occur several times are encoded
        once. Of a text that is longer than the encoder takes (`all-minilm-l6-v2`: 256 tokens) only the beginning counts.
        One call for many texts is several times as fast as a call for each.

        Args:
            texts: any number of them; of none, the result has no rows and as many columns as ever.

        Raises:
            TypeError: `texts` is a text, or has something else than texts in it.
            EndpointError: the model cannot be loaded, or the GPU's memory does not hold `batch_size` texts.
        """
        import numpy as np

        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("embed takes a list of texts")
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = await self._model.encode(tuple(place))
        return vectors[np.fromiter((place[text] for text in texts), np.intp, len(texts))]
