"""Queries that the user writes."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import pytest

from engine.page.facts.datasets.queries import ROWS
from registry import Registry
from tests.engine.page.conftest import Visit
from tests.engine.page.stored import store


def test_a_result_is_a_table(shipped: Path, visit: Visit) -> None:
    text = visit(shipped).get("/sql", params={"q": "select pipeline, count(*) as runs from runs group by 1 order by 1"}).text
    assert "<bdi>pipeline</bdi>" in text
    assert "judge-and-filter" in text
    assert "3 rows" in text


def test_a_long_result_is_cut_and_csv_has_all_of_it(registry: Registry, visit: Visit) -> None:
    rows = [{"n": number, "text": f'line "{number}"\nwith, commas', "list": [number, None]} for number in range(ROWS + 500)]
    store(registry, "many", rows)
    client = visit(registry.root)
    assert f"the first {ROWS:,} rows" in client.get("/sql", params={"q": "from many"}).text
    answer = client.get("/sql", params={"q": "from many order by row", "as": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.reader(io.StringIO(answer.text)))
    assert found[0] == ["row", "n", "text", "list"]
    assert found[8] == ["7", "7", 'line "7"\nwith, commas', "[7, null]"]
    assert len(found) == 1 + len(rows)


@pytest.mark.parametrize(
    "query",
    [
        "drop table runs",
        "select 1; select 2",
        "select * from read_text('/etc/passwd')",
        "copy (select 1) to '/tmp/x'",
        "attach 'x.duckdb'",
        "install httpfs",
        "set memory_limit='1TB'",
        "from nowhere",
        "selec",
        "select '\ud800'",
    ],
)
def test_a_refused_query_is_explained_beside_it(shipped: Path, visit: Visit, query: str) -> None:
    client = visit(shipped)
    for how in ("", "csv"):
        answer = client.get("/sql", params={"q": query.encode(errors="surrogatepass"), "as": how})
        assert answer.status_code == 400
        assert 'class="message"' in answer.text
        assert "Traceback" not in answer.text
        assert "root:" not in answer.text


def test_a_query_that_takes_too_long_is_stopped(shipped: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.page.facts.datasets.queries.SECONDS", 0.2)
    began = time.monotonic()
    answer = visit(shipped).get("/sql", params={"q": "select count(*) from range(100000000) a, range(100000000) b"})
    assert answer.status_code == 400
    assert "stopped after 0.2 s" in answer.text
    assert time.monotonic() - began < 60  # it would take hours


def test_a_download_that_is_not_read_to_its_end_gives_its_session_back(registry: Registry, visit: Visit) -> None:
    from engine.page.sessions import AT_ONCE

    store(registry, "many", [{"n": number, "text": "x" * 500} for number in range(20_000)])
    client = visit(registry.root)
    for _ in range(AT_ONCE + 2):
        with client.stream("GET", "/sql", params={"q": "from many", "as": "csv"}) as answer:
            assert answer.status_code == 200
    assert client.get("/").status_code == 200


def test_the_query_stays_in_its_box_character_by_character(shipped: Path, visit: Visit) -> None:
    text = visit(shipped).get("/sql", params={"q": "select '</textarea><script>x' as \u200ba, 1 < 2"}).text
    assert "&lt;/textarea&gt;&lt;script&gt;x" in text
    assert "\u200ba, 1 &lt; 2</textarea>" in text
