"""What steps share in a process: a model is loaded once, and freed when no step uses it and another one is loaded."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.jobs.messages import ModelBinding
from engine.llm.local import transformers
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.weights import LocalWeights, ModelWeights
from engine.worker.shared_models import SharedModels
from registry import Registry


@pytest.fixture
async def shared(registry: Registry, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharedModels]:
    models = SharedModels(registry)
    monkeypatch.setattr(models, "weights", lambda weights: LocalWeights(tiny_model, None, "tiny"))
    yield models
    await models.close()


def binding(name: str, **spec: Any) -> ModelBinding:
    whole = ModelSpec.model_validate({"provider": "transformers", "model": name} | spec)
    weights = ModelWeights.model_construct(name=name) if whole.provider == "transformers" else None
    return ModelBinding.model_construct(name=name, spec=whole, weights=weights, identity=name)


async def ask(shared: SharedModels, step: str, name: str) -> None:
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 2, "stop": (), "seed": None}
    request = Request("transformers", name, ({"role": "user", "content": "q"},), sampling)
    await shared.provider(step, binding(name), 1).complete([request])


async def test_a_model_makes_room_when_no_step_uses_it(shared: SharedModels, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = transformers.load, list[str]()
    networks: dict[str, weakref.ref[Any]] = {}
    there: list[set[str]] = []

    def watch(name: str, *rest: Any) -> Any:
        loaded.append(name)
        there.append({each for each, network in networks.items() if network() is not None})
        model = load(name, *rest)
        networks[name] = weakref.ref(model.network)
        return model

    monkeypatch.setattr(transformers, "load", watch)
    await ask(shared, "one", "a")
    await ask(shared, "two", "a")
    await ask(shared, "two", "b")
    await shared.release("one")
    await ask(shared, "three", "c")  # `two` still uses a and b
    await shared.release("two")
    await ask(shared, "four", "b")  # not loaded again, because nothing needed its place
    await ask(shared, "four", "d")
    assert loaded == ["a", "b", "c", "d"]
    assert there == [set(), {"a"}, {"a", "b"}, {"b", "c"}]


async def test_batches_are_closed_with_their_step(shared: SharedModels) -> None:
    model = binding("m", provider="openai", base_url="http://127.0.0.1:1/v1", mode="batch", price={"input": 1, "output": 1})
    one, two = (shared.provider(step, model, 1) for step in ("one", "two"))
    await shared.release("one")
    sessions = [provider._service.http._session for provider in (one, two)]  # type: ignore[attr-defined]
    assert [session.closed for session in sessions] == [True, False]
    await shared.close()
    assert sessions[1].closed
