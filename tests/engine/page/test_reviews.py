"""The pages of reviews: who may decide, what is stored, and that it is stored before the page says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import Registry
from tests.engine.page.conftest import Visit
from tests.engine.run_pipelines import ask, run_text
from tests.operators.generic.steps import made, rows, step
from tests.operators.generic.test_review import ROWS, decide, ids

PAGE = "/reviews/demo/step"
ORIGIN = {"origin": "http://127.0.0.1:7777", "sec-fetch-site": "same-origin"}


@pytest.fixture
def client(registry: Registry, in_process: None, visit: Visit) -> TestClient:
    """The page over a registry with a review of five rows that waits."""
    rows(*ROWS)
    assert run_text(step("review", labels=["easy", "hard"], instructions="Is it *right*?"), registry).state == "waiting"
    return visit(registry.root)


def send(client: TestClient, action: str, headers: dict[str, str] = ORIGIN, **fields: Any) -> Any:
    """Send the form of the page as it is shown now."""
    shown = client.get(PAGE).text
    found = dict(
        re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', shown.partition('class="asked"')[2] or shown)
    )
    return client.post(PAGE, data={**found, "action": action, **fields}, headers=headers)


def begin(client: TestClient, name: str = "Ann") -> None:
    assert send(client, "name", reviewer=name).status_code == 303


def test_waiting_reviews_are_listed(client: TestClient) -> None:
    text = client.get("/reviews").text
    assert f'<a href="{PAGE}"><bdi>demo/step</bdi></a>' in text
    assert "5 more needed" in text


def test_rows_are_decided_one_after_another(client: TestClient, registry: Registry) -> None:
    found = ids(registry)
    assert "Who are you?" in client.get(PAGE).text
    assert 'class="asked"' not in client.get(PAGE).text
    begin(client, "Ann Ötting")
    first = client.get(PAGE).text
    assert "<em>right</em>" in first
    assert "What is 0 + 0?" in first
    done = send(client, "approve", label="easy")
    # It is on disk before the answer says so.
    [decision] = registry.reviews.decisions()
    assert (decision.reviewer, decision.row, decision.verdict, decision.labels) == (
        "Ann Ötting",
        found[0],
        "approve",
        ("easy",),
    )
    assert str(decision.source) == "demo/rows@1 row 0"
    assert done.status_code == 303
    after = client.get(done.headers["location"]).text
    assert "Stored." in after
    assert "What is 1 + 1?" in after
    send(client, "reject", reason=" too easy ")
    edited = {"field.question": "What is 2 + 2?\r\nAnd 3 + 3?", "field.persona": "", "field.n": "7"}
    send(client, "edit", **edited)
    send(client, "skip")
    assert "What is 4 + 4?" in client.get(PAGE).text
    send(client, "approve")
    # What was skipped comes again.
    assert "you skipped it" in client.get(PAGE).text
    stored = {each.row: each for each in registry.reviews.decisions()}
    assert stored[found[1]].reason == "too easy"
    assert stored[found[2]].fields == {"question": "What is 2 + 2?\nAnd 3 + 3?", "n": 7}
    send(client, "approve")
    assert "Enough rows are decided" in client.get(PAGE).text
    assert run_text(Path("p.yaml").read_text(), registry).state == "succeeded"
    assert [n for (n,) in made(registry, "n")] == [0, 7, 6, 8]


def test_undo_brings_back_what_was_decided_before(client: TestClient, registry: Registry) -> None:
    begin(client)
    row = ids(registry)[0]
    send(client, "approve", label="hard")
    done = send(client, "undo", row=row)
    assert done.headers["location"] == f"{PAGE}?row={row}"
    assert "you skipped it" in client.get(done.headers["location"]).text
    decide(registry, row, "reject", reason="no")
    send(client, "approve", row=row)
    send(client, "undo", row=row)
    last = registry.reviews.decisions()[-1]
    assert (last.verdict, last.reason) == ("reject", "no")
    assert len(registry.reviews.decisions()) == 5  # nothing is removed
    other = ids(registry)[1]
    assert send(client, "undo", row=other).status_code == 422


def test_what_does_not_fit_is_not_stored_and_what_was_typed_stays(client: TestClient, registry: Registry) -> None:
    begin(client)
    answer = send(client, "edit", **{"field.n": "many", "field.question": "Why?"}, reason="hm")
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "not JSON for int?" in answer.text
    assert "\nWhy?</textarea>" in answer.text
    assert 'value="hm"' in answer.text
    assert send(client, "edit", **{"field.n": "1.5"}).status_code == 422
    assert "No field was changed" in send(client, "edit").text
    assert send(client, "approve", label=["easy", "hard"]).status_code == 422
    assert send(client, "approve", label="eazy").status_code == 422
    assert send(client, "maybe").status_code == 400
    assert send(client, "approve", row="f" * 64).status_code == 422
    assert send(client, "name", reviewer=" ").status_code == 422
    assert registry.reviews.decisions() == []


def test_only_the_page_itself_decides(client: TestClient, registry: Registry) -> None:
    begin(client)
    assert send(client, "approve", {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}).status_code == 403
    assert send(client, "approve", {}).status_code == 403
    assert send(client, "approve", form_token="guess").status_code == 403
    assert client.put(PAGE, headers=ORIGIN).status_code == 405
    stranger = TestClient(client.app, base_url="http://127.0.0.1:7777", follow_redirects=False)
    assert stranger.post(PAGE, data={"action": "approve"}, headers=ORIGIN).status_code == 403
    assert registry.reviews.decisions() == []


def test_two_people_begin_at_different_rows(registry: Registry, in_process: None, visit: Visit) -> None:
    rows(*ROWS)
    run_text(step("review", all=True), registry)
    ann, ben = visit(registry.root), visit(registry.root)
    begin(ann, "Ann")
    send(ann, "approve")
    begin(ben, "Ben")
    assert "What is 1 + 1?" in ann.get(PAGE).text
    assert "What is 3 + 3?" in ben.get(PAGE).text


def test_rows_that_need_others_come_first(registry: Registry, in_process: None, visit: Visit) -> None:
    rows(*ROWS[:3])
    run_text(step("review", reviewers=2), registry)
    decide(registry, ids(registry)[2], "approve", "Ann")
    ann, ben = visit(registry.root), visit(registry.root)
    begin(ben, "Ben")
    assert "What is 2 + 2?" in ben.get(PAGE).text
    assert "1 other decided" in ben.get(PAGE).text
    begin(ann, "Ann")
    for _ in range(2):
        send(ann, "approve")
    assert "3 rows wait for other reviewers" in ann.get(PAGE).text
    assert "Ann" in ann.get(PAGE).text


def test_more_than_needed_can_be_reviewed(registry: Registry, in_process: None, visit: Visit) -> None:
    rows(*ROWS)
    run_text(step("review", n=1), registry)
    client = visit(registry.root)
    begin(client)
    send(client, "approve")
    shown = client.get(PAGE).text
    assert "Enough rows are decided" in shown
    assert "Review more of the other 4 rows" in shown
    assert 'class="asked"' in client.get(f"{PAGE}?more=1").text


def test_rows_of_strangers_are_only_text(registry: Registry, in_process: None, visit: Visit) -> None:
    rows({"question": "<script>alert(1)</script>\x1b[31m\u202e", "persona": "</textarea><b>", "n": None})
    run_text(step("review", instructions="<img src=x onerror=alert(1)>", labels=["<i>"]), registry)
    client = visit(registry.root)
    begin(client, "<u>Ann")
    for address in (PAGE, f"{PAGE}?look=markdown", "/reviews"):
        text = client.get(address).text
        for tag in ("<script>alert", "<b>", "<img", "<i>", "<u>", "\x1b"):
            assert tag not in text.replace("\x1b[31m\u202e</textarea>", "</textarea>"), (address, tag)
    send(client, "edit", **{"field.n": "1"})
    [decision] = registry.reviews.decisions()
    assert decision.fields == {"n": 1}  # control characters in other fields came back as they were


def test_the_page_of_a_row_says_who_decided(client: TestClient, registry: Registry) -> None:
    decide(registry, ids(registry)[0], "edit", "Ann <b>", fields={"n": 3}, labels=["easy"], reason="off")
    text = client.get("/rows/0/demo/rows@1").text
    assert f'<a href="{PAGE}"><bdi>demo/step</bdi></a>: edit of <bdi>n</bdi> by <bdi>Ann &lt;b&gt;</bdi>' in text
    # The session was idle between two requests, and shows what was decided in the meantime.
    decide(registry, ids(registry)[0], "reject", "Ben")
    assert "by <bdi>Ben</bdi>" in client.get("/rows/0/demo/rows@1").text
    assert "Ben" in client.get("/sql", params={"q": "select reviewer from reviews"}).text


def test_the_page_of_a_run_leads_to_its_reviews(client: TestClient, registry: Registry) -> None:
    [(run_id,)] = ask(registry, "select run_id from runs")
    assert '<a href="/reviews">waiting for reviewers</a>' in client.get(f"/runs/{run_id}").text


def test_an_unknown_review_is_not_found(client: TestClient) -> None:
    answer = client.get("/reviews/demo/stop")
    assert answer.status_code == 400
    assert "did you mean" in answer.text
