"""The executor of tests that run pipelines in their own process, and one that must not be used.

What Ray adds (processes, nodes, replacement of lost workers) is tested elsewhere.
"""

from __future__ import annotations

import pytest

from engine.execution.in_process import InProcess

__all__ = ["InProcess", "Unused"]


class Unused(InProcess):
    """Fails the test when it is started."""

    def start(self, *, shared_limits: bool) -> None:
        """Fail."""
        pytest.fail("a cluster was started")
