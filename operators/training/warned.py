"""What the training libraries warn of, for the people who run the pipeline. The libraries themselves would print it."""

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
def heard() -> Iterator[list[str]]:
    """Collects warnings while the block runs, each once, as `library: text`."""
    found: list[str] = []

    def hear(library: str, text: str) -> None:
        said = f"{library}: {_RANK.sub('', ' '.join(text.split())).rstrip('.')}"
        said = said if len(said) <= _LONGEST else said[:_LONGEST] + "..."
        if said not in found and len(found) < _MOST:
            found.append(said)

    _forget_what_was_said_once()
    with ExitStack() as restored:
        for library in _LIBRARIES:
            restored.enter_context(_listening(library, hear))
        restored.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", FutureWarning)
        for quiet in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", quiet)

        def show(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
            library = _library(filename)
            # TRL says so of settings that a user chose; the others of calls that TRL makes.
            if library == "trl" or (library is not None and not issubclass(category, FutureWarning)):
                hear(library, str(message))

        warnings.showwarning = show
        yield found


def _library(filename: str) -> str | None:
    """Whose warning it is, by the file; one that names its caller names us."""
    parts = Path(filename).parts
    package = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else "trl"
    return package if package in _LIBRARIES else None


@contextmanager
def _listening(library: str, hear: object) -> Iterator[None]:
    """The library's log goes to us alone, from warnings on."""
    logger = logging.getLogger(library)
    before = logger.level, logger.handlers, logger.propagate

    class Handler(logging.Handler):
        """Passes texts on."""

        def emit(self, record: logging.LogRecord) -> None:
            hear(library, record.getMessage())  # type: ignore[operator]

    logger.handlers, logger.propagate = [Handler(logging.WARNING)], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.level, logger.handlers, logger.propagate = before
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


def _forget_what_was_said_once() -> None:
    """`warning_once` is once per process, and this may be its second training."""
    with suppress(ImportError, AttributeError):
        from accelerate.logging import MultiProcessAdapter  # type: ignore[import-untyped]

        MultiProcessAdapter.warning_once.cache_clear()
    with suppress(ImportError, AttributeError):
        from transformers.utils.logging import warning_once

        warning_once.cache_clear()
