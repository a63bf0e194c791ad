"""Who may use the page: requests with its token, under its name, from its own forms. All others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from engine.page.access import Access, Guard, RefusedError
from tests.engine.page.conftest import Visit, visitor

OWN = "http://127.0.0.1:7777"


def test_the_first_visit_sets_a_strict_cookie_and_leaves_the_token_behind(shipped: Path) -> None:
    answer = visitor(shipped).get("/sql", params={"token": "secret", "q": "select 'a&b'"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sql?q=select+%27a%26b%27"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("engine_page_7777=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_an_address_cannot_lead_to_another_host(shipped: Path) -> None:
    answer = visitor(shipped).get(f"{OWN}//example.com/", params={"token": "secret"})
    assert answer.headers["location"] == "/example.com/"


@pytest.mark.parametrize("path", ["/", "/sql?q=from+runs", "/versions/distil/rows", "/static/page.css", "/no/such/page"])
def test_without_the_token_everything_is_refused_with_advice(shipped: Path, path: str) -> None:
    answer = visitor(shipped).get(path)
    assert answer.status_code == 403
    assert "engine ui" in answer.text
    assert "distil" not in answer.text


@pytest.mark.parametrize("token", ["", "Secret", "secre", "secrets", "sécret", "secret\x00"])
def test_a_wrong_token_is_refused(shipped: Path, token: str) -> None:
    client = visitor(shipped)
    assert client.get("/", params={"token": token}).status_code == 403
    assert "set-cookie" not in client.get("/", params={"token": token}).headers
    assert client.get("/", headers={"cookie": f"engine_page_7777={token}".encode()}).status_code == 403


def test_the_token_is_not_shown_and_not_in_any_page(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    for path in ("/", "/sql", "/versions/distil/rows@1", "/nowhere"):
        assert "secret" not in client.get(path).text
    assert "secret" not in repr(Access("127.0.0.1", 1, "secret"))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7777", "127.0.0.1.evil.example", "", "127.0.0.2", "[::2]:7777"])
def test_another_name_for_this_machine_is_refused_even_with_the_token(shipped: Path, visit: Visit, host: str) -> None:
    client = visit(shipped)
    for path in ("/", "/?token=secret", "/static/page.css"):
        assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:7777", "127.0.0.1:9000", "[::1]:7777", "LOCALHOST"])
def test_the_names_of_loopback_are_served_at_any_port_because_tunnels_change_it(shipped: Path, host: str) -> None:
    answer = visitor(shipped).get("/", headers={"host": host, "cookie": "engine_page_7777=secret"})
    assert answer.status_code == 200


def test_a_page_for_other_machines_is_served_by_address_but_not_by_a_strangers_name() -> None:
    everywhere, one = Access("0.0.0.0", 7777), Access("192.0.2.7", 7777)
    assert everywhere.serves("192.0.2.7:7777")
    assert everywhere.serves("[2001:db8::1]:7777")
    assert not everywhere.serves("evil.example:7777")
    assert one.serves("192.0.2.7:7777")
    assert not one.serves("192.0.2.8:7777")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:7777"},
        {"origin": OWN, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_request_that_may_change_something_must_come_from_the_page(
    shipped: Path, visit: Visit, headers: dict[str, str]
) -> None:
    client = visit(shipped)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/", headers=headers).status_code == 403


def test_a_request_from_the_page_passes_and_its_form_needs_a_token_too() -> None:
    access = Access("127.0.0.1", 7777, "secret")

    async def change(request: Request) -> Response:
        async with request.form() as form:
            access.check_form(form)
        return PlainTextResponse("changed")

    def refuse(request: Request, error: RefusedError) -> Response:
        return PlainTextResponse(str(error), error.status)

    app = Starlette(
        routes=[Route("/change", change, methods=["POST"])],
        exception_handlers={RefusedError: lambda request, error: PlainTextResponse(str(error), 403)},
    )
    client = TestClient(Guard(app, access, refuse), base_url=OWN, cookies={access.cookie: "secret"})
    own = {"origin": OWN, "sec-fetch-site": "same-origin"}
    assert client.post("/change", headers=own, data={"form_token": access.form_token}).text == "changed"
    assert client.post("/change", headers={"origin": OWN}, data={"form_token": access.form_token}).text == "changed"
    assert client.post("/change", headers=own, data={"form_token": "x"}).status_code == 403
    assert client.post("/change", headers=own).status_code == 403


def test_every_answer_forbids_what_a_page_of_data_does_not_need(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    for answer in (client.get("/"), client.get("/nowhere"), visitor(shipped).get("/"), client.get("/static/page.css")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert client.get("/").headers["cache-control"] == "no-store"


def test_there_is_no_script_and_no_style_inside_the_pages(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    for path in ("/", "/sql?q=from+runs", "/versions/distil/rows@1?look=markdown", "/versions/distil/answers@1?view=charts"):
        text = client.get(path).text
        assert " style=" not in text
        assert "<style" not in text
        assert text.count("<script") == text.count("<script src=") + text.count('<script type="application/json">')


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%2fetc/passwd",
        "/static//etc/passwd",
        "/static/vendor/../../server.py",
        "/static/page.css%00",
        "/static/vendor/vendor.json",
        "/static/",
    ],
)
def test_only_listed_files_are_served(shipped: Path, visit: Visit, path: str) -> None:
    answer = visit(shipped).get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_a_static_file_may_be_kept_because_its_address_has_its_digest(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    [address] = {line.split('"')[3] for line in client.get("/").text.splitlines() if "page.css" in line}
    answer = client.get(address)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]


def test_head_answers_like_get_without_a_body(shipped: Path, visit: Visit) -> None:
    client = visit(shipped)
    for path in ("/", "/versions/distil/rows@1", "/static/page.css", "/nowhere"):
        head = client.head(path)
        assert head.status_code == client.get(path).status_code
        assert head.content == b""


def test_a_websocket_is_refused(shipped: Path, visit: Visit) -> None:
    with pytest.raises(WebSocketDisconnect), visit(shipped).websocket_connect("/"):
        pass
