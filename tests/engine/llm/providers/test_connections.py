"""Where requests go and what they carry: queries, headers, keys from a file, proxies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from engine.errors import PipelineError
from engine.llm.providers.http import credentials, session
from engine.llm.types.errors import EndpointError, RequestError
from engine.llm.types.model_spec import ModelSpec
from engine.pipeline.check import check
from engine.spec.dot_env import load_dot_env
from tests.chat_server import ChatServer, completion
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
    """The chat server can serve as a proxy, because it answers for any host."""
    monkeypatch.setenv("HTTP_PROXY", chat_server.base_url.removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await model(base_url="http://llm.corp.test/v1").chat("hello")).text == "You said: hello"


# -- failures to connect ------------------------------------------------------------------------------------------


class Answering:
    """A server that reads a request, always gives the same response, and hangs up."""

    def __init__(self, reply: bytes, context: ssl.SSLContext | None = None) -> None:
        self._reply = reply
        self._socket = socket.create_server(("127.0.0.1", 0))
        if context:
            self._socket = context.wrap_socket(self._socket, server_side=True)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(self._reply)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def answering() -> Iterator[Callable[..., Answering]]:
    made: list[Answering] = []

    def make(*args: Any) -> Answering:
        made.append(Answering(*args))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_password_stops_the_step_and_shows_none(
    model: Make, answering: Callable[..., Answering], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    proxy = answering(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://ada:{SECRET}@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(EndpointError, match=r"407.*the proxy requires a user name and a password") as error:
        await model(base_url=f"{scheme}://llm.corp.test/v1").chat("hello")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("http://ada:{secret}@127.0.0.1:9", "cannot connect to the proxy at 127.0.0.1:9"),
        ("ada:{secret}@127.0.0.1:9", "the proxy in HTTPS_PROXY or HTTP_PROXY is not a URL like"),
    ],
)
async def test_an_invalid_proxy_stops_the_step(model: Make, monkeypatch: pytest.MonkeyPatch, proxy: str, why: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.format(secret=SECRET))
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(EndpointError, match=why) as error:
        await model(base_url="http://llm.corp.test/v1", retries=0).chat("hello")
    assert SECRET not in str(error.value)


async def test_a_server_that_accepts_no_connection_is_reported_in_time(model: Make) -> None:
    """If nobody accepts connections of a socket, its queue is full after two, and Linux drops the others."""
    with socket.socket() as busy, contextlib.ExitStack() as waiting:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(busy.getsockname())
        address = f"http://127.0.0.1:{busy.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"cannot connect to .* within 0\.2 s \(connect_timeout\)"):
            await model(base_url=address, connect_timeout=0.2, retries=0).chat("hello")


@pytest.mark.parametrize(
    "reply", [b'Content-Length: 5000\r\n\r\n{"id": "x"', b'Transfer-Encoding: chunked\r\n\r\n1388\r\n{"id": "x"']
)
async def test_an_answer_that_breaks_off_is_explained(model: Make, answering: Callable[..., Answering], reply: bytes) -> None:
    server = answering(b"HTTP/1.1 200 OK\r\n" + reply)
    with pytest.raises(RequestError, match=r"completions: the connection closed before the end of the answer$"):
        await model(base_url=f"http://127.0.0.1:{server.port}/v1", retries=0).chat("hello")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a self-signed certificate for 127.0.0.1."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - dt.timedelta(days=1), now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "own.pem"
    file.write_bytes(own + made.public_bytes(serialization.Encoding.PEM))
    return file


ASK = """
import asyncio, sys
from pathlib import Path
from engine.llm.journal.answers import Journal
from engine.llm.providers.openai import OpenAIProvider
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, as_messages

async def main():
    spec = ModelSpec(provider="openai", model="m", base_url=sys.argv[1])
    provider = OpenAIProvider(spec, Journal(Path(sys.argv[2])))
    try:
        print((await provider.complete([Request(spec.endpoint, "m", as_messages("hello"), spec.sampling())]))[0].text)
    except Exception as error:
        print(type(error).__name__, error)
    await provider.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_of_an_own_authority_can_be_trusted(
    answering: Callable[..., Answering], certificate: Path, workdir: Path, trusted: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = json.dumps(completion("4")).encode()
    server = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), context)
    env = {**os.environ, **({"SSL_CERT_FILE": str(certificate)} if trusted else {})}
    command = [sys.executable, "-c", ASK, f"https://127.0.0.1:{server.port}/v1", "journal"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    if trusted:
        assert done.stdout.strip() == "4"
    else:
        assert "EndpointError" in done.stdout
        assert "the server's certificate is not trusted" in done.stdout
        assert "SSL_CERT_FILE" in done.stdout
