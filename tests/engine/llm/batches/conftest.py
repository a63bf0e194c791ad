"""Batches are sent and looked at without delay, and their answers go to a journal of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.llm.batches import provider
from engine.llm.journal.answers import Journal


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "LINGER_SECONDS", 0.03)
    monkeypatch.setenv("ENGINE_BATCH_POLL_SECONDS", "0.02")


@pytest.fixture
async def journal(workdir: Path) -> AsyncIterator[Journal]:
    """An empty journal."""
    journal = Journal(workdir / "journal")
    yield journal
    journal.close()
