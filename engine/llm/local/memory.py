"""Errors for a model in this process that fills the memory of the GPU, or of the machine."""

from __future__ import annotations

import gc
import sys

_WORDS = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages of torch's RuntimeErrors that mean it."""

ADVICE = (
    "use a GPU or a machine with more memory, or fewer `workers` on it. Other models in the same process take some of it, too: "
    "run their steps one after another (`engine run --select STEP`)"
)
"""What users can do about it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception's class says that there is no memory left."""
    # Another thread may be importing torch just now.
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    return isinstance(error, (MemoryError, of_torch))


def is_full(error: BaseException) -> bool:
    """Whether what a model raised says that there is no memory left."""
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS))


def release() -> None:
    """Give back what is not used. Not in the handler of an error: it references the tensors that fill the memory."""
    gc.collect()
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_available():
        cuda.empty_cache()
