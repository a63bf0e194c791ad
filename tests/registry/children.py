"""Child processes that start fast: forked from a server that has imported the registry, so that a kill costs little."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.registry.catalog.test_catalog", "pandas", "pyarrow.dataset"])


def started(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A child that runs a function of a module."""
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    return child


def exit_code(target: Callable[..., Any], *arguments: Any) -> int:
    """Run a function in a child; returns 0 or 1 for success or failure, or minus the number of the signal that killed it."""
    child = started(target, *arguments)
    child.join()
    assert child.exitcode is not None
    return child.exitcode
