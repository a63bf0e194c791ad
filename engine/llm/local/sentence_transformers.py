"""Texts as vectors, by a sentence-transformers model in this process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.library_noise import quiet_transformers
from engine.llm.local import memory
from engine.llm.local.loading import one_at_a_time
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import ModelSpec
from registry.counted import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

_FEW_TEXTS = 64
_CALLS_KEPT = 64


class LocalEncoder:
    """A sentence-transformers model in its own thread, loaded on first use, on the GPU if there is one.

    Calls are served one after another and never merged, so that a call's result does not depend on other calls.

    Args:
        spec: the model; `batch_size` texts are encoded together, fewer where that many do not fit into the memory.
        weights: returns the folder or id of the model; called in the thread.
        threads: number of CPU threads for a model on the CPU; None uses torch's default.
    """

    def __init__(self, spec: ModelSpec, weights: Callable[[], Path], threads: int | None = None) -> None:
        self.spec = spec
        self._weights = weights
        self._threads = threads
        self._most = spec.batch_size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        # Row operators compare each row with the same few texts. Whole calls are cached, not texts: the last digits of a
        # text's vector must not depend on the call that encoded it first.
        self._encode_few = functools.lru_cache(_CALLS_KEPT)(self._encode)

    async def encode(self, texts: tuple[str, ...]) -> Vectors:
        """The vectors of distinct texts; do not modify them. See Encoder.embed for the rest."""
        encode = self._encode_few if len(texts) <= _FEW_TEXTS else self._encode
        return await asyncio.get_running_loop().run_in_executor(self._thread, encode, texts)

    async def close(self) -> None:
        """Free the model. A call in progress ends; do not make another one."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._encode_few.cache_clear()
        self.__dict__.pop("_network", None)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _encode(self, texts: tuple[str, ...]) -> Vectors:
        import numpy as np

        network = self._network
        width = network.get_embedding_dimension() or network.encode([""]).shape[1]  # some models do not report it
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # similar lengths together, for little padding
        vectors = np.empty((len(texts), width), np.float32)
        done = 0
        while done < len(order):
            batch = order[done : done + self._most]
            try:
                vectors[batch] = network.encode(
                    [texts[number] for number in batch],
                    batch_size=len(batch),
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
                done += len(batch)
                continue
            except (RuntimeError, MemoryError) as error:
                if not memory.is_full(error):
                    raise
                detail = str(error).partition("\n")[0]
            memory.release()
            if len(batch) == 1:
                raise EndpointError(
                    f"one text of {counted(texts[batch[0]], 'character')} does not fit into the memory next to the encoder "
                    f"{self.spec.model}; {memory.ADVICE} ({detail})"
                )
            self._most = -(-len(batch) // 2)
        return vectors

    @functools.cached_property
    def _network(self) -> Any:
        with one_at_a_time:
            return load(self.spec.model, self._weights(), self._threads)


def load(name: str, folder: Path, threads: int | None) -> Any:
    """A SentenceTransformer from its folder, in float32, on the GPU if there is one.

    Args:
        name: the name in the pipeline.
        folder: folder or Hugging Face id.
        threads: number of CPU threads for the calling thread; None uses torch's default.

    Raises:
        EndpointError: it cannot be loaded, or is not a sentence-transformers model.
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
    except Exception as error:  # missing or damaged files raise many kinds of errors
        if memory.is_full(error):
            raise EndpointError(f"the encoder {name} does not fit into the memory; {memory.ADVICE} ({error})") from error
        raise EndpointError(f"cannot load the encoder {name}: {error}") from error
    if not meant:
        raise EndpointError(f"{name} is not a sentence-transformers model: it has no modules.json")
    return network
