"""Keeps messages of libraries out of the engine's output."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_transformers() -> None:
    """Turn off the progress bars, advice and warnings of transformers and the Hugging Face hub."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|torch|accelerate)(\..*)?")
    for name in ("transformers", "accelerate", "trl", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_ray() -> None:
    """Silence Ray's warning about missing `ipywidgets` when it is imported in a notebook. Call this before the import."""
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")


@contextmanager
def silent_ray() -> Iterator[None]:
    """A Ray that is started in the block does not print its own messages to stdout.

    Ray prints a paragraph whenever a process dies, even with `log_to_driver=False`, and has no setting for it. The executor
    reports deaths itself.
    """
    from ray._private import worker

    listen = worker.listen_error_messages  # runs in a thread until Ray stops, and only prints
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = listen
