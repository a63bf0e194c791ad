"""Environment variables from a file `.env` beside the pipeline file, where people keep their keys."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from engine.errors import PipelineError, Problem

MAX_BYTES = 1 << 20


def load_dot_env(folder: Path, names: Iterable[str]) -> None:
    """Set those of the named variables that the environment lacks and the file `.env` has. Others in the file are ignored.

    Raises:
        PipelineError: the file cannot be read. Nothing of its content is shown.
    """
    missing = [name for name in names if not os.environ.get(name)]
    file = folder / ".env"
    if not missing or not file.is_file():
        return
    from dotenv import dotenv_values

    try:
        if file.stat().st_size > MAX_BYTES:
            raise PipelineError([Problem(f"{file} has more than {MAX_BYTES >> 20} MiB; it should only have variables")])
        found = dotenv_values(file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PipelineError([Problem(f"cannot read {file}: {why}")]) from None
    os.environ.update({name: value for name in missing if (value := found.get(name))})
