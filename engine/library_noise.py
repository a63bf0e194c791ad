"""Keeps messages of libraries out of the engine's output."""

from __future__ import annotations

import logging
import os
import warnings


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
