"""Where requests go and what they carry: queries, headers, keys from a file, proxies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import ValidationError

from engine.errors import PipelineError
from engine.llm.providers.http import credentials, session
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import ModelSpec
from engine.pipeline.check import check
from engine.spec.dot_env import load_dot_env
from tests.chat_server import ChatServer
from tests.engine.conftest import Make

SECRET = "not-a-real-key-0123456789"


def spec(**more: object) -> ModelSpec:
    return ModelSpec.model_validate({"provider": "openai", "model": "m", **more})


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://x/v1", "http://x/v1/chat/completions"),
        ("http://x/v1/", "http://x/v1/chat/completions"),
        ("http://x/deployments/d?api-version=2024-06-01", "http://x/deployments/d/chat/completions?api-version=2024-06-01"),
        ("http://x/v1/?a=1&b=2", "http://x/v1/chat/completions?a=1&b=2"),
    ],
)
def test_the_query_of_an_endpoint_stays_at_the_end(base_url: str, url: str) -> None:
    assert spec(base_url=base_url).url("/chat/completions") == url


def test_a_fragment_is_refused() -> None:
    with pytest.raises(ValidationError, match="it has a fragment"):
        spec(base_url="http://x/v1#top")


async def test_headers_are_sent_and_their_secrets_hidden(
    model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", SECRET)
    teacher = model(headers={"api-key": "${env.GATEWAY_KEY}", "X-Team": "data"}, retries=0)
    await teacher.chat("hello")
    assert chat_server.headers[0]["api-key"] == SECRET
    assert chat_server.headers[0]["X-Team"] == "data"
    chat_server.reply = lambda body: web.json_response({"error": {"message": f"bad key {SECRET}"}}, status=401)
    with pytest.raises(EndpointError) as error:
        await teacher.chat("again")
    assert SECRET not in str(error.value)
    chat_server.reply = None
    chat_server.answer = lambda prompt, seen: f"your key is {SECRET}"
    with pytest.raises(Exception, match="contains the API key"):
        await model(headers={"api-key": "${env.GATEWAY_KEY}"}, retries=0).chat("third")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"api-key": SECRET}, "headers.api-key is a secret"),
        ({"Authorization": f"Bearer {SECRET}"}, "headers.Authorization is a secret"),
        ({"X-Note": "sk-ant-not-a-real-key-0123456789"}, "headers.X-Note is a secret"),
        ({"X-Note": "a\nb"}, "line break"),
        ({"X Note": "a"}, "headers"),
    ],
)
def test_headers_that_are_refused(headers: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        spec(headers=headers)


def test_headers_change_no_key() -> None:
    assert spec(headers={"X-Team": "data"}).sampling() == spec().sampling()


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    with pytest.raises(EndpointError, match="GATEWAY_KEY is not set"):
        credentials(spec(headers={"api-key": "${env.GATEWAY_KEY}"}))


def test_keys_come_from_a_file_beside_the_pipeline(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_KEY", "OTHER_VALUE", "SET_ALREADY"):
        monkeypatch.setenv(name, "before")
    monkeypatch.delenv("GATEWAY_KEY")
    monkeypatch.delenv("OTHER_VALUE")
    Path("there").mkdir()
    Path("there/.env").write_text(f"GATEWAY_KEY='{SECRET}'\nOTHER_VALUE=1\nSET_ALREADY=after\n")
    Path("p.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    Path("there/p.yaml").write_text(
        "{name: p, models: {teacher: {provider: openai, model: m, api_key_env: GATEWAY_KEY, headers: {X-S: '${env.SET_ALREADY}'}}},"
        " datasets: {d: {type: MathProblem, path: p.jsonl}}, steps: {s: {op: regenerate_cot, in: d}}}"
    )
    check(Path("there/p.yaml"), keys=True)
    assert os.environ["GATEWAY_KEY"] == SECRET
    assert os.environ["SET_ALREADY"] == "before"
    assert "OTHER_VALUE" not in os.environ  # the pipeline does not name it
    monkeypatch.delenv("GATEWAY_KEY")
    Path("there/.env").unlink()
    with pytest.raises(PipelineError, match=r"GATEWAY_KEY is not set\n.*or write it into a file \.env"):
        check(Path("there/p.yaml"), keys=True)


def test_a_file_that_cannot_be_read_is_an_error_without_its_content(workdir: Path) -> None:
    Path(".env").write_bytes(b"KEY=\xff" + SECRET.encode())
    with pytest.raises(PipelineError, match="it is not UTF-8") as error:
        load_dot_env(Path(), ["NO_SUCH_VARIABLE"])
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("base_url", "follows"),
    [("http://127.0.0.1:9/v1", False), ("http://localhost/v1", False), ("http://llm.corp.test/v1", True)],
)
async def test_proxies_of_the_environment_are_followed_but_not_to_this_machine(base_url: str, follows: bool) -> None:
    known = spec(base_url=base_url)
    from aiohttp import ClientTimeout

    async with session(known, credentials(known), ClientTimeout()) as client:
        assert client.trust_env is follows


async def test_a_request_goes_through_the_proxy(chat_server: ChatServer, model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat server is a proxy, too: it answers whatever host is asked for."""
    monkeypatch.setenv("HTTP_PROXY", chat_server.base_url.removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await model(base_url="http://llm.corp.test/v1").chat("hello")).text == "You said: hello"
