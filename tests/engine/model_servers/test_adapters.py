"""Adapters that steps make while servers run, on a program that replaces vLLM (tests/vllm_stand_in.py).

tests/e2e/test_vllm.py does the same with the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.execution.in_process import InProcessServer
from registry import Registry
from tests.engine.model_servers.adapted import WORDS, made, noted, prepare, servers_of
from tests.engine.run_pipelines import outcomes, run_text, texts

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(autouse=True)
def _prepared(workdir: Path) -> None:
    prepare()


def tell_after_a_change(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Tell the servers, as soon as they are to load another adapter, what to do at the next call: see tests/vllm_stand_in.py."""
    change = InProcessServer.change

    def change_and_tell(self: InProcessServer, models: Any) -> None:
        change(self, models)
        (Path("notes") / what).touch()

    monkeypatch.setattr(InProcessServer, "change", change_and_tell)


def test_an_adapter_that_is_made_later_is_served_by_the_process_that_runs(registry: Registry) -> None:
    document = made("a", "b", "a", b={"r": 20, "foretold": 20})
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    [start] = noted("starts")
    assert "--lora-modules" not in start
    assert start[start.index("--max-lora-rank") + 1] == "32"
    assert start[start.index("--max-loras") + 1] == "2"
    assert servers_of("a") == servers_of("b") == {start[0]}
    assert texts(registry, "demo/ask_a@1")[:1] == ["I am a: Say 0"]
    assert texts(registry, "demo/ask_b@1")[:1] == ["I am b: Say I am a: Say 0"]
    assert set(outcomes(run_text(json.dumps(document), registry)).values()) == {"hit"}


def test_who_serves_an_adapter_changes_no_key(registry: Registry) -> None:
    """Here, each server has one adapter, because it is not known which adapters will be made."""
    document = made("a", "b", a={"foretold": None}, b={"foretold": None})
    assert run_text(json.dumps(document), registry).state == "succeeded"
    assert [("--lora-modules" in start, "--middleware" in start) for start in noted("starts")] == [(True, False)] * 2
    calls = len(noted("calls"))
    together = run_text(json.dumps(made("a", "b", replicas=2)), registry, force="ask_a ask_b")
    assert outcomes(together) == {"make_a": "ran", "make_b": "ran", "ask_a": "ran", "ask_b": "ran"}
    assert len(noted("calls")) == calls, "all answers are in the journal"


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_server_that_is_killed_after_it_has_loaded_an_adapter_has_it_again(
    registry: Registry, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_after_a_change(monkeypatch, "die")  # the server that gets the next call ends, and that call is for b
    result = run_text(json.dumps(made("a", "b", "a", replicas=replicas)), registry)
    assert result.state == "succeeded", result.error
    assert not (Path("notes") / "die").exists()
    assert len(noted("starts")) == replicas + 1
    assert texts(registry, "demo/ask_b@1")[:1] == ["I am b: Say I am a: Say 0"]
    assert texts(registry, "demo/ask_a_2@1")[:1] == ["I am a: Say I am b: Say I am a: Say 0"]
    prompts = [prompt for _, *prompt in noted("calls")]
    assert len(prompts) == len(set(map(tuple, prompts))) == 3 * WORDS


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_call_that_reaches_a_server_which_has_yet_to_load_its_adapter_again_is_sent_again(
    registry: Registry, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may hear of a restart only after the new server listens at the old one's port."""
    tell_after_a_change(monkeypatch, "forget")
    result = run_text(json.dumps(made("a", "b", replicas=replicas)), registry)
    assert result.state == "succeeded", result.error
    assert not (Path("notes") / "forget").exists()
    assert texts(registry, "demo/ask_b@1")[:1] == ["I am b: Say I am a: Say 0"]


def test_an_adapter_of_a_larger_rank_than_was_expected_gets_a_server_of_its_own(registry: Registry) -> None:
    result = run_text(json.dumps(made("a", "b", b={"r": 64})), registry)
    assert result.state == "succeeded", result.error
    shared, own = noted("starts")
    assert own[own.index("--max-lora-rank") + 1] == "64"
    assert "--lora-modules" in own
    assert (servers_of("a"), servers_of("b")) == ({shared[0]}, {own[0]})


def test_a_broken_adapter_fails_only_its_own_steps(registry: Registry) -> None:
    """All three are known when the servers start."""
    document = made("a", "b", "c", b={"r": "none"})
    for name in list(document["steps"]):
        if name.startswith("ask"):
            del document["steps"][name]
    for step in document["steps"].values():
        step["in"] = "words"
    assert run_text(json.dumps(document), registry).state == "succeeded"
    document = made("a", "c", "b")
    for name in "abc":
        document["models"][name]["model"] = f"registry:demo/make_{name}@1"
        del document["steps"][f"make_{name}"]
    result = run_text(json.dumps(document), registry)
    assert outcomes(result) == {"ask_a": "ran", "ask_c": "ran", "ask_b": "failed"}
    assert "the server of model 'b' cannot be used" in str(result.error)
    assert len({process for process, *_ in noted("calls")}) == 1


def test_an_adapter_that_ends_its_server_does_so_at_most_twice(registry: Registry) -> None:
    result = run_text(json.dumps(made("a", "b", b={"deadly": True})), registry)
    assert outcomes(result) == {"make_a": "ran", "ask_a": "ran", "make_b": "ran", "ask_b": "failed"}
    shared = [start for start in noted("starts") if "--middleware" in start]
    assert len(shared) == 3
    assert len(noted("starts")) == 4, "and its own once"
