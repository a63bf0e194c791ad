"""The log file of a run, which operators write to through `ctx.log`."""

from __future__ import annotations

import logging
from pathlib import Path


def run_log(file: Path, name: str) -> logging.Logger:
    """A logger that appends to a run's log file; the workers of a cluster share the file line by line.

    Loggers live as long as their process. If an earlier run in this process used the logger, its file is closed.
    """
    log = logging.getLogger(f"engine.operators.{name}")
    log.propagate = False
    log.setLevel(logging.INFO)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    new = logging.FileHandler(file, delay=True)
    new.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    log.addHandler(new)
    return log
