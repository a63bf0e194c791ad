"""Detects that operators' code was edited after this process loaded it.

Python keeps the code that it has imported. A command is a new process, but a notebook lives on: after an edit, its steps would
still count as up to date.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from engine.errors import EngineError

_known: dict[str, tuple[int, int]] = {}
_lock = threading.Lock()


def remember_code() -> None:
    """Note the state of all files of operators that are loaded now, unless it is noted already."""
    with _lock:
        for file in _loaded_files():
            if file not in _known and (state := _state(file)) is not None:
                _known[file] = state


def refuse_changed_code() -> None:
    """Raise EngineError if a file of operators has changed since it was noted first."""
    with _lock:
        changed = sorted(file for file, state in _known.items() if _state(file) != state)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise EngineError(
            f"{changed[0]}{more} has changed, but this process still has the code from before. Restart the kernel of the "
            "notebook, or the program, and run again"
        )


def _loaded_files() -> list[str]:
    from engine.packages.definitions import packages

    roots = packages()
    modules = [
        module
        for name, module in list(sys.modules.items())
        if any(name == root or name.startswith(f"{root}.") for root in roots)
    ]
    return [file for module in modules if isinstance(file := getattr(module, "__file__", None), str)]


def _state(file: str) -> tuple[int, int] | None:
    try:
        about = Path(file).stat()
    except OSError:  # in an archive, or removed
        return None
    return about.st_mtime_ns, about.st_size
