"""Collects the warnings of the training libraries for the run's summary instead of printing them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_LIBRARIES = ("trl", "transformers", "peft", "accelerate")
_MOST = 20
_LONGEST = 700
_RANK = re.compile(r"^\[RANK \d+\] ")


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect warnings while the block runs, each once, as `library: text`."""
    found: list[str] = []

    def collect(library: str, text: str) -> None:
        warning = f"{library}: {_RANK.sub('', ' '.join(text.split())).rstrip('.')}"
        warning = warning if len(warning) <= _LONGEST else warning[:_LONGEST] + "..."
        if warning not in found and len(found) < _MOST:
            found.append(warning)

    _reset_one_time_warnings()
    with ExitStack() as restored:
        for library in _LIBRARIES:
            restored.enter_context(_listening(library, collect))
        restored.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", FutureWarning)
        for quiet in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", quiet)

        def show(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
            library = _library(filename)
            # TRL's FutureWarnings are about the user's settings; those of the other libraries are about calls that TRL makes.
            if library == "trl" or (library is not None and not issubclass(category, FutureWarning)):
                collect(library, str(message))

        warnings.showwarning = show
        yield found


def _library(filename: str) -> str | None:
    """The library that a warning comes from, by its file; a warning in our own files is TRL's warning to its caller."""
    parts = Path(filename).parts
    package = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else "trl"
    return package if package in _LIBRARIES else None


@contextmanager
def _listening(library: str, collect: object) -> Iterator[None]:
    """Redirect a library's log messages of level WARNING and above, so that they appear nowhere else."""
    logger = logging.getLogger(library)
    before = logger.level, logger.handlers, logger.propagate

    class Handler(logging.Handler):
        """Forwards texts."""

        def emit(self, record: logging.LogRecord) -> None:
            collect(library, record.getMessage())  # type: ignore[operator]

    logger.handlers, logger.propagate = [Handler(logging.WARNING)], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.level, logger.handlers, logger.propagate = before
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


def _reset_one_time_warnings() -> None:
    """`warning_once` warns once per process, but this may be the second training in it."""
    with suppress(ImportError, AttributeError):
        from accelerate.logging import MultiProcessAdapter  # type: ignore[import-untyped]

        MultiProcessAdapter.warning_once.cache_clear()
    with suppress(ImportError, AttributeError):
        from transformers.utils.logging import warning_once

        warning_once.cache_clear()
