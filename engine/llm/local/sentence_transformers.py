"""Texts as vectors: an encoder as an operator sees it, and the sentence-transformers model behind it, in this process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.library_noise import quiet_transformers
from engine.llm.types.errors import EndpointError, ModelError
from engine.llm.types.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

_FEW_TEXTS = 64
_CALLS_KEPT = 64


class LocalEncoder:
    """A sentence-transformers model in a thread of its own, loaded when it is first asked, on the GPU where there is one.

    Calls are served one after another and never joined, so that what a call gives does not depend on others.

    Args:
        spec: the model; `batch_size` texts are encoded together.
        weights: gives the folder or id of the model; called in the thread.
        threads: of the CPU, for a model that runs there; None leaves torch's choice.
    """

    def __init__(self, spec: ModelSpec, weights: Callable[[], Path], threads: int | None = None) -> None:
        self.spec = spec
        self._weights = weights
        self._threads = threads
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._stopped: ModelError | None = None
        # Operators on rows hold each row against the same few texts. Whole calls are remembered, not texts: a text's last
        # digits must not depend on the call that met it first.
        self._encode_few = functools.lru_cache(_CALLS_KEPT)(self._encode)

    async def encode(self, texts: tuple[str, ...]) -> Vectors:
        """The vectors of texts that differ from each other, not to be changed; see Encoder.embed for the rest."""
        encode = self._encode_few if len(texts) <= _FEW_TEXTS else self._encode
        return await asyncio.get_running_loop().run_in_executor(self._thread, encode, texts)

    def stop(self, why: ModelError) -> None:
        """Encode no further batch: calls that need one raise `why`."""
        self._stopped = why

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _encode(self, texts: tuple[str, ...]) -> Vectors:
        import numpy as np
        import torch

        network, size = self._network, self.spec.batch_size
        width = network.get_embedding_dimension() or network.encode([""]).shape[1]  # some do not say
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # like lengths together: little padding
        vectors = np.empty((len(texts), width), np.float32)
        for start in range(0, len(order), size):
            if self._stopped:
                raise self._stopped
            batch = order[start : start + size]
            try:
                vectors[batch] = network.encode(
                    [texts[number] for number in batch], batch_size=size, normalize_embeddings=True, show_progress_bar=False
                )
            except torch.cuda.OutOfMemoryError as error:
                raise EndpointError(
                    f"the GPU's memory does not hold {len(batch)} texts in the encoder {self.spec.model}; lower batch_size"
                ) from error
        return vectors

    @functools.cached_property
    def _network(self) -> Any:
        return load(self.spec.model, self._weights(), self._threads)


def load(name: str, folder: Path, threads: int | None) -> Any:
    """A SentenceTransformer from its folder, in 32 bits, on the GPU where there is one.

    Args:
        name: as the pipeline names it.
        folder: folder or Hugging Face id.
        threads: of the CPU, for the calling thread; None leaves torch's choice.

    Raises:
        EndpointError: it cannot be loaded, or is no sentence-transformers model.
    """
    import torch

    quiet_transformers()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    device, here = "cuda" if torch.cuda.is_available() else "cpu", folder.is_dir()
    if device == "cpu" and threads:
        torch.set_num_threads(threads)
    try:
        network = SentenceTransformer(str(folder), device=device, local_files_only=here, model_kwargs={"dtype": torch.float32})
        meant = is_sentence_transformer_model(str(folder), local_files_only=here)
    except Exception as error:  # files that are missing or damaged come to light in many ways
        raise EndpointError(f"cannot load the encoder {name}: {error}") from error
    if not meant:
        raise EndpointError(f"{name} is no sentence-transformers model: it has no modules.json")
    return network
