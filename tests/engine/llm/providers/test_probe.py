"""Missing capabilities of a server are discovered once, and reported before anything is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine.errors import EngineError
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.types.model_spec import ModelSpec
from engine.model_servers.requirements import ask_server
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.conftest import Cli
from tests.engine.run_pipelines import run_text, words

PIPELINE = """
{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, models: {teacher: %s},
 steps: {s: {op: sure, in: words, resources: {num_cpus: 0.5}}}}
"""


def able(body: dict[str, Any]) -> dict[str, Any]:
    """A server that supports everything."""
    if "response_format" in body:
        return completion('{"city": "Paris"}')
    able.counter += 1  # type: ignore[attr-defined]
    done = completion(*[f"{able.counter}.{place}" for place in range(body.get("n", 1))])  # type: ignore[attr-defined]
    if body.get("logprobs"):
        for choice in done["choices"]:
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
    return done


able.counter = 0  # type: ignore[attr-defined]


def spec(server: ChatServer, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"provider": "openai", "model": "m", "base_url": server.base_url, **more})


def test_a_server_that_supports_everything(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = able
    found = ask_server(spec(chat_server), registry)
    assert found.capabilities == KnownCapabilities(
        n=True, logprobs=True, response_format=True, sampling=True, images=True, tools=True
    )
    assert found.calls == len(chat_server.requests) == 9
    assert ask_server(spec(chat_server), registry) == (found.capabilities, 0)
    assert len(chat_server.requests) == 9


def test_a_server_that_ignores_unsupported_features(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion("always the same")
    assert ask_server(spec(chat_server), registry).capabilities.missing() == ["n", "logprobs", "response_format", "sampling"]


def test_a_server_that_refuses_unsupported_features(registry: Registry, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        unknown = [name for name in ("n", "logprobs", "response_format") if name in body]
        return error(400, f"{unknown[0]}: unknown") if unknown else able(body)

    chat_server.reply = reply
    assert ask_server(spec(chat_server), registry).capabilities.missing() == ["n", "logprobs", "response_format"]


def test_a_text_model_takes_no_images(registry: Registry, chat_server: ChatServer) -> None:
    words = "At most 0 image(s) may be provided in one prompt."
    chat_server.reply = lambda body: error(400, words) if isinstance(body["messages"][-1]["content"], list) else able(body)
    assert ask_server(spec(chat_server), registry).capabilities.missing() == ["images"]


def test_a_server_that_samples_by_seed_samples_where_the_model_has_one(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion(f"drawn with {body.get('seed', 'none')}")
    assert ask_server(spec(chat_server), registry, ["sampling"]).capabilities.sampling is False
    assert ask_server(spec(chat_server, model="seeded", seed=5), registry, ["sampling"]).capabilities.sampling is True


def test_only_what_is_needed_is_asked(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = able
    assert ask_server(spec(chat_server), registry, ["logprobs"]).calls == 1
    assert ask_server(spec(chat_server), registry, ["logprobs", "n"]).calls == 1


def test_a_wrong_key_is_reported_in_the_servers_words(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: error(401, "wrong key")
    with pytest.raises(EngineError, match="401: wrong key"):
        ask_server(spec(chat_server), registry)
    assert len(chat_server.requests) == 1


def test_a_step_whose_model_lacks_what_it_needs_fails_before_it_starts(
    registry: Registry, chat_server: ChatServer, no_cluster: None
) -> None:
    words(*[str(number) for number in range(100)])
    result = run_text(PIPELINE % chat_server.model(), registry)
    assert result.error
    assert "does not support `logprobs` (log-probabilities of tokens), which sure needs from its teacher" in result.error
    assert len(chat_server.requests) == 1


@pytest.mark.usefixtures("in_process")
def test_a_step_whose_model_has_it_runs(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = able
    words("a", "b")
    assert run_text(PIPELINE % chat_server.model(), registry).state == "succeeded"
    assert len(chat_server.requests) == 3


def test_the_command_shows_what_servers_can_do(workdir: Path, engine: Cli, chat_server: ChatServer) -> None:
    words("a")
    (workdir / "p.yaml").write_text(PIPELINE % chat_server.model())
    done = engine("probe", "p.yaml")
    assert done.returncode == 0, done.stderr
    assert "teacher" in done.stdout
    assert "logprobs: log-probabilities of tokens" in done.stdout
    chat_server.reply = able  # servers learn
    again = engine("probe", "p.yaml", "--json")
    assert '"logprobs": true' in again.stdout


def test_retry_after_is_respected_and_findings_are_stored(registry: Registry, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> web.Response | dict[str, Any]:
        place = len(chat_server.requests)
        if 2 <= place <= 7:
            return error(429, "busy", **{"Retry-After": "0"})
        return able(body) if place < 10 else error(401, "the key was revoked")

    chat_server.reply = reply
    with pytest.raises(EngineError, match="revoked"):
        ask_server(spec(chat_server, retries=6), registry)
    # n, six times busy, logprobs, response_format, and the first of the samples
    assert len(chat_server.requests) == 10
    chat_server.reply = able
    assert ask_server(spec(chat_server), registry, ["n", "logprobs", "response_format"]).calls == 0


def test_a_server_that_stays_busy_is_called_as_often_as_retries_allow(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(429, "busy", **{"Retry-After": "0"})
    with pytest.raises(EngineError, match="429: busy"):
        ask_server(spec(chat_server, retries=2), registry, ["n"])
    assert len(chat_server.requests) == 3


def test_a_server_that_fails_on_unsupported_features(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: (
        error(500, "internal error") if {"n", "logprobs", "response_format"} & body.keys() else able(body)
    )
    assert ask_server(spec(chat_server), registry).capabilities.missing() == ["n", "logprobs", "response_format"]
    assert len(chat_server.requests) == 3 * 3 + 4 + 2


def test_a_server_that_always_fails_shows_nothing_about_capabilities(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(500, "internal error")
    with pytest.raises(EngineError, match="500: internal error"):
        ask_server(spec(chat_server, retries=1), registry, ["n"])
    chat_server.reply = able
    assert ask_server(spec(chat_server), registry, ["n"]).capabilities.n is True


def test_a_missing_capability_is_checked_again_before_it_stops_a_step(
    registry: Registry, chat_server: ChatServer, no_cluster: None
) -> None:
    words("a")
    for asked in (1, 2):
        result = run_text(PIPELINE % chat_server.model(), registry)
        assert "does not support `logprobs`" in str(result.error)
        assert "`engine probe`" in str(result.error)
        assert len(chat_server.requests) == asked


@pytest.mark.usefixtures("in_process")
def test_a_server_that_has_gained_a_feature_is_used(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    assert run_text(PIPELINE % chat_server.model(), registry).error
    chat_server.reply = able
    assert run_text(PIPELINE % chat_server.model(), registry).state == "succeeded"


def test_capabilities_are_known_per_extra_body(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion("x") if body.get("thinking") else able(body)
    assert ask_server(spec(chat_server, extra_body={"thinking": True}), registry, ["n"]).capabilities.n is False
    assert ask_server(spec(chat_server), registry, ["n"]).capabilities.n is True


def test_samples_that_were_cut_off_say_nothing_about_sampling(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: completion("Sure! Here is a random number of", finish_reason="length")
    assert ask_server(spec(chat_server), registry, ["sampling"]).capabilities.sampling is None
