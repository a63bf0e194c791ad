"""Models on the test's server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.llm.chat import CallLog, ChatModel, current_log
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.llm.providers.anthropic import AnthropicProvider
from engine.llm.providers.openai import OpenAIProvider
from engine.llm.types.model_spec import ModelSpec
from tests.chat_server import ChatServer

Make = Callable[..., ChatModel]


@pytest.fixture
async def model(workdir: Path, chat_server: ChatServer) -> AsyncIterator[Make]:
    """Make models on the test's server; all share one journal."""
    journal = Journal(workdir / "journal")
    made = []

    def make(**spec: Any) -> ChatModel:
        full = ModelSpec.model_validate(
            {"provider": "openai", "model": "test-model", "base_url": chat_server.base_url, "retries": 2, **spec}
        )
        provider = AnthropicProvider if full.provider == "anthropic" else OpenAIProvider
        shared = ModelClient(full, full.model, journal, Governor(full), lambda: provider(full, journal))
        made.append(shared)
        return ChatModel("teacher", shared)

    current_log.set(CallLog())
    yield make
    for each in made:
        await each.close()
    journal.close()
