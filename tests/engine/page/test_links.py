"""Addresses lead back to the names they were made from, whatever these are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from engine.page.links import Links, from_path, in_path
from registry import Registry
from tests.engine.page.conftest import Serve, Visit
from tests.engine.page.stored import store

NAMES = [
    "gsm/rows",
    "p/lr=1e-05,teacher=a/step",
    "a b/ü/日本",
    "what?/#half/%2F",
    "<script>alert(1)</script>",
    "\"quoted\" 'twice' \\",
    "a/./b",
    "a//b",
    "/leading",
    "trailing/",
    "~tilde/~",
    "sql; drop table runs --",
    "+plus&amp=1",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_its_address_even_when_a_browser_resolves_it(name: str) -> None:
    address = Links().version(name, 3)
    resolved = urlsplit(urljoin("http://127.0.0.1/", address))
    assert not resolved.query
    assert from_path(unquote(resolved.path).removeprefix("/versions/")) == f"{name}@3"


def test_two_names_have_two_addresses() -> None:
    assert len({in_path(name) for name in NAMES}) == len(NAMES)


def test_a_percent_sign_in_a_name_is_decoded_once(registry: Registry, serve: Serve) -> None:
    store(registry, "half/%2F", [{"text": "hello"}])
    address = serve(registry.root)
    opener = build_opener(HTTPCookieProcessor())
    opener.open(address).close()
    with opener.open(urljoin(address, Links().version("half/%2F", 1))) as answer:
        assert b"hello" in answer.read()


@pytest.mark.parametrize("name", [name for name in NAMES if "%" not in name])  # the test's client decodes twice
def test_a_version_of_any_name_has_its_pages(name: str, registry: Registry, visit: Visit) -> None:
    made = store(registry, name, [{"text": "hello"}])
    client = visit(registry.root)
    links = Links()
    for address in (
        links.version(name, made.version),
        links.version(name, made.version, where="length(text) = 5", sort="text"),
        links.version(name, made.version, view="charts"),
        links.version(name, made.version, view="schema"),
        links.version(name, made.version, view="card"),
        links.value(name, made.version, 0, "text"),
    ):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
    assert "hello" in client.get(links.version(name, made.version)).text
    assert "<script>alert" not in client.get("/").text
    redirected = client.get(links.latest(name))
    assert redirected.headers["location"] == links.version(name, made.version)


def test_an_unknown_name_gets_a_suggestion(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    answer = client.get("/versions/distil/row")
    assert answer.status_code == 404
    assert "Did you mean" in answer.text
    assert client.get("/versions/distil/rows@99").status_code == 404
    assert client.get("/versions/../../etc/passwd").status_code == 404
    assert client.get("/versions/distil/rows@1/..%2f..%2fx").status_code == 404
