"""The pages of a dataset: rows in pages, filtered and sorted, charts, changes, schema, card."""

from __future__ import annotations

import datetime as dt
import html
import re
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from engine.page.facts.datasets.charts import columns
from engine.page.facts.datasets.differences import pieces
from engine.page.facts.datasets.rows import Wanted, rows_page
from engine.page.sessions import Sessions
from registry import Draft, Manifest, ObjectStore, QueryError, Registry
from tests.engine.page.conftest import Visit
from tests.engine.page.stored import store

NUMBERS = [{"n": number, "word": f"w{number % 7}", "half": number / 2 if number % 3 else None} for number in range(2500)]


def numbers_of(text: str) -> list[int]:
    """The numbers of the rows on a page."""
    return [int(number.replace(",", "")) for number in re.findall(r'<th scope="row" class="n"><a[^>]*>([\d,]+)</a>', text)]


def get(client: TestClient, address: str, **query: str | int) -> str:
    answer = client.get(address, params=query or None)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry that tests only read."""
    registry = Registry(tmp_path_factory.mktemp("numbers") / ".engine")
    store(registry, "numbers", NUMBERS)
    return registry


def test_each_row_is_on_one_page_in_the_order_of_the_version(numbers: Registry, visit: Visit) -> None:
    client = visit(numbers.root)
    found = [number for page in range(1, 11) for number in numbers_of(get(client, "/versions/numbers@1", page=page, size=250))]
    assert found == list(range(2500))


@pytest.mark.parametrize("page", ["0", "-1", "x", "", "999999999999", "1e3", "٣"])
def test_a_page_that_does_not_exist_is_the_nearest_that_does(numbers: Registry, visit: Visit, page: str) -> None:
    found = numbers_of(get(visit(numbers.root), "/versions/numbers@1", page=page))
    assert found in (list(range(50)), list(range(2450, 2500)))


@pytest.mark.parametrize("where", ["", "n % 2 = 0", "half is null", "word in ('w1', 'w2') -- a comment"])
@pytest.mark.parametrize("sort", ["", "n", "word", "half", "row"])
@pytest.mark.parametrize("descending", [False, True])
def test_rows_are_filtered_and_sorted_like_by_sql(numbers: Registry, where: str, sort: str, descending: bool) -> None:
    direction = "desc" if descending else "asc"
    order = f'"{sort}" {direction} nulls last, row' if sort else "row"
    with Sessions(numbers.location).reader() as reader:
        manifest = reader.session.manifest("numbers", 1)
        expected = [
            row
            for (row,) in reader.session.ask(
                f"select row from numbers where {where.split(' --', maxsplit=1)[0] or 'true'} order by {order}"
            ).rows
        ]
        for size in (250, 2500):  # short pages come from the start of the order, long ones from all of it
            found: list[int] = []
            for page in range(1, -(-len(expected) // size) + 1):
                one = rows_page(reader, manifest, Wanted(where, sort, descending, page, size))
                assert one.matching == len(expected)
                found += [row.number for row in one.rows]
                assert all(row.values == {**NUMBERS[row.number]} for row in one.rows)
            assert found == expected


def test_a_wrong_condition_is_explained_beside_it(numbers: Registry, visit: Visit) -> None:
    answer = visit(numbers.root).get("/versions/numbers@1", params={"where": "nn > 3", "size": "100"})
    assert answer.status_code == 400
    assert "nn" in html.unescape(answer.text.partition('class="message"')[2])
    assert 'value="nn &gt; 3"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert '<input type="hidden" name="size" value="100">' in answer.text


@pytest.mark.parametrize(
    "where",
    [
        "true); drop table runs; --",
        "(select count(*) from read_csv('/etc/passwd')) > 0",
        "n in (select 1 from read_text('/etc/passwd'))",
        "n = getenv('HOME')",
        "1 = 1) union select content from read_blob('/etc/passwd') where (true",
        "row in (select row from duckdb_secrets())",
    ],
)
def test_a_condition_is_confined(numbers: Registry, visit: Visit, where: str) -> None:
    answer = visit(numbers.root).get("/versions/numbers@1", params={"where": where})
    assert answer.status_code == 400
    assert "root:" not in answer.text


def test_a_condition_may_ask_the_lineage(shipped: Path, visit: Visit) -> None:
    where = "row in (select parent_row from row_lineage where parent = 'judge-and-filter/judged' and parent_version = 2)"
    assert numbers_of(get(visit(shipped), "/versions/judge-and-filter/judged@2", where=where)) == [0, 1, 2, 3]


def test_an_unknown_column_to_sort_by_is_reported(numbers: Registry, visit: Visit) -> None:
    answer = visit(numbers.root).get("/versions/numbers@1", params={"sort": 'n" desc --'})
    assert answer.status_code == 400
    assert "no column" in answer.text


def test_an_empty_dataset_has_all_its_pages(registry: Registry, visit: Visit) -> None:
    store(registry, "empty", pa.table({"text": pa.array([], pa.string())}))
    client = visit(registry.root)
    for view in ("rows", "charts", "schema", "card", "diff"):
        get(client, "/versions/empty@1", view=view)
    assert "This version has no rows" in get(client, "/versions/empty@1")
    assert "No row matches" in get(client, "/versions/empty@1", where="text = 'x'")
    get(client, "/versions/empty@1", sort="text")


def test_a_dataset_of_500_columns_is_shown(registry: Registry, visit: Visit) -> None:
    store(registry, "wide", [{f"column {number}": number for number in range(500)}] * 3)
    client = visit(registry.root)
    assert get(client, "/versions/wide@1").count("<th scope=") == 1 + 500 + 3
    assert "460 more columns without charts" in get(client, "/versions/wide@1", view="charts")
    get(client, "/versions/wide@1", look="text")
    get(client, "/versions/wide@1", view="schema")


AWKWARD: list[dict[str, Any]] = [
    {
        "text": "a",
        "list": [1, None],
        "struct": {"x": None, "deep": {"y": ["z"]}},
        "when": dt.datetime(2026, 1, 2, 3, 4),
        "raw": b"\x00\xff",
    },
    {"text": None, "list": None, "struct": None, "when": None, "raw": None},
    {"text": "", "list": [], "struct": {"x": 1.5, "deep": None}, "when": dt.datetime(1, 1, 1), "raw": b""},
]


def test_nulls_lists_structs_times_and_bytes_are_shown_in_every_look(registry: Registry, visit: Visit) -> None:
    store(registry, "awkward", AWKWARD)
    client = visit(registry.root)
    for look in ("table", "text", "markdown"):
        assert "2026-01-02" in get(client, "/versions/awkward@1", look=look)
    for column in AWKWARD[0]:
        get(client, "/versions/awkward@1", sort=column, desc=1)
    get(client, "/versions/awkward@1", view="charts")
    assert "z" in get(client, "/values/0/awkward@1", path="struct/deep/y/0")


def test_columns_of_any_name_are_shown_sorted_and_charted(registry: Registry, visit: Visit) -> None:
    names = ['"quoted"', "<i>", "sp ace", "select", "ünï", "a/b", "%41", "\u202eevil"]
    store(registry, "names", [dict.fromkeys(names, f"v{number}") for number in range(3)])
    client = visit(registry.root)
    for name in names:
        assert numbers_of(get(client, "/versions/names@1", sort=name, desc="1")) == [2, 1, 0]
    assert "<i>" not in get(client, "/versions/names@1")
    assert "\u202e" not in get(client, "/versions/names@1", view="charts")


def test_hostile_rows_are_text_on_every_page(registry: Registry, visit: Visit) -> None:
    rows = [
        {"text": f"<script>alert({number})</script>\x1b[31m", "n": number, "tag": f"</script><script>alert({number % 2})"}
        for number in range(3)
    ]
    store(registry, "hostile", rows)
    store(registry, "hostile", [*rows[:2], {**rows[2], "text": "</script><script>alert(9)</script>"}])
    client = visit(registry.root)
    for address in (
        "/versions/hostile@2",
        "/versions/hostile@2?look=text",
        "/versions/hostile@2?look=markdown",
        "/versions/hostile@2?view=charts",
        "/versions/hostile@2?view=diff&key=n",
        "/values/2/hostile@2?path=text",
        "/sql?q=from+hostile",
        "/versions/hostile@2?where=text+%3D+'</script><script>alert(1)</script>'",
    ):
        text = get(client, address)
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "alert(" in text


def test_a_long_value_is_cut_and_shown_whole_on_a_page_of_its_own(registry: Registry, visit: Visit) -> None:
    long = "word " * 200_000
    store(registry, "long", [{"text": long}])
    client = visit(registry.root)
    page = get(client, "/versions/long@1", look="text")
    assert len(page) < 20_000
    [address] = [html.unescape(found) for found in re.findall(r'class="more" href="([^"]*)"', page)]
    assert long in client.get(address).text
    saved = client.get(f"{address}&as=file")
    assert saved.text == long
    assert saved.headers["content-type"] == "text/plain; charset=utf-8"
    assert saved.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "address",
    ["/values/1/numbers@1?path=nope", "/values/2500/numbers@1?path=n", "/values/1/numbers@1", "/values/-1/numbers@1?path=n"],
)
def test_a_value_that_does_not_exist_is_not_found(numbers: Registry, visit: Visit, address: str) -> None:
    assert visit(numbers.root).get(address).status_code == 404


def test_charts_say_how_long_texts_are_and_which_values_repeat(numbers: Registry) -> None:
    with Sessions(numbers.location).reader() as reader:
        n, word, half = columns(reader, reader.session.manifest("numbers", 1))
    assert (n.measure, n.least, n.most, n.median, n.nulls) == ("value", 0, 2499, 1249.5, 0)
    assert sum(each.count for each in n.bins) == 2500
    assert (word.measure, word.least, word.most, word.distinct) == ("characters", 2, 2, 7)
    assert {each.value: each.count for each in word.categories} == {f"w{k}": len(range(k, 2500, 7)) for k in range(7)}
    assert half.nulls == len(range(0, 2500, 3))


def test_a_histogram_is_not_squeezed_by_one_long_text(registry: Registry) -> None:
    store(registry, "texts", [{"text": "x" * (10 + number % 50)} for number in range(999)] + [{"text": "y" * 100_000}])
    with Sessions(registry.location).reader() as reader:
        [text] = columns(reader, reader.session.manifest("texts", 1))
    assert text.most == 100_000
    assert text.drawn is not None
    assert text.drawn < 100
    assert sum(each.count for each in text.bins) == 999


def test_charts_of_conversations_say_how_long_they_and_their_answers_are(registry: Registry) -> None:
    def chat(*turns: tuple[str, str]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    made = store(
        registry,
        "chats",
        [chat(("user", "Why?"), ("assistant", "So.")), chat(("user", "a"), ("assistant", "b"), ("user", "c"))],
    )
    sessions = Sessions(registry.location)
    with sessions.reader() as reader:
        [column] = columns(reader, made)
    sessions.close()
    assert [(each.measure, each.least, each.most) for each in (column, *column.more)] == [
        ("turns", 2, 3),
        ("characters of all turns", 3, 7),
        ("characters of the last answer", 1, 3),
    ]


def test_values_that_all_occur_equally_often_have_no_bars(registry: Registry, visit: Visit) -> None:
    store(registry, "even", [{"word": word, "n": n} for n, word in enumerate(["one", "three", "seven"] * 4)])
    text = get(visit(registry.root), "/versions/even@1", view="charts")
    assert "3 distinct values, 4 rows each" in text
    assert "word: values" not in text
    assert "characters of word" in text


def test_a_diff_pairs_rows_by_a_field_that_identifies_them(registry: Registry, visit: Visit) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}."} for n in range(30)]
    store(registry, "qa", rows)
    store(registry, "qa", [{**rows[0], "answer": "It is not 0."}, *rows[2:], {"question": "New?", "answer": "Yes."}])
    text = html.unescape(get(visit(registry.root), "/versions/qa@2", view="diff"))
    assert "compared by <code>question</code>" in text
    assert "<b>28</b> unchanged" in text
    assert "<ins>1 added</ins>" in text
    assert "<del>1 removed</del>" in text
    assert "<b>1</b> changed" in text
    assert "It is<ins> not</ins> 0." in text


def test_every_row_that_differs_is_on_a_page_of_its_kind(registry: Registry, visit: Visit) -> None:
    rows = [{"n": n, "text": f"text {n}"} for n in range(400)]
    store(registry, "many", rows)
    store(
        registry,
        "many",
        [
            *({**row, "text": "new"} if row["n"] < 130 else row for row in rows[:300]),
            *({"n": n, "text": "x"} for n in range(500, 560)),
        ],
    )
    client = visit(registry.root)

    def listed(part: str, page: int) -> list[int]:
        text = get(client, "/versions/many@2", view="diff", key="n", part=part, page=page)
        at = r'to <a href="[^"]*">row (\d+)' if part == "changed" else r'<h3><a href="[^"]*">row (\d+)'
        return [int(number) for number in re.findall(at, text)]

    pages = [
        [number for page in range(1, count + 1) for number in listed(part, page)]
        for part, count in (("changed", 3), ("removed", 2), ("added", 2))
    ]
    assert pages == [list(range(130)), list(range(300, 400)), list(range(300, 360))]
    assert listed("changed", 99) == list(range(100, 130))


def test_rows_that_differ_by_content_are_listed_with_their_copies(registry: Registry, visit: Visit) -> None:
    store(registry, "copies", [{"text": "a"}] * 3 + [{"text": "b"}])
    store(registry, "copies", [{"text": "b"}])
    text = get(visit(registry.root), "/versions/copies@2", view="diff")
    assert "compared by content" in text
    assert "3 times" in text


def test_a_diff_with_another_name_a_wrong_key_and_without_an_earlier_version(registry: Registry, visit: Visit) -> None:
    store(registry, "numbers", NUMBERS)
    store(registry, "others", NUMBERS[:10])
    client = visit(registry.root)
    assert "2,490 removed" in get(client, "/versions/others@1", **{"view": "diff", "with": "numbers@1"})
    assert "first version" in get(client, "/versions/others@1", view="diff")
    wrong = client.get("/versions/others@1", params={"view": "diff", "with": "numbers@1", "key": "word"})
    assert wrong.status_code == 400
    assert "more than one row" in wrong.text
    assert client.get("/versions/others@1", params={"view": "diff", "with": "nowhere"}).status_code == 400


def test_the_pieces_of_two_texts_give_both_texts_back() -> None:
    for old, new in [
        ("a b c", "a x c"),
        ("", "new"),
        ("old", ""),
        ("same", "same"),
        ("one\ntwo  three\n", "one\n2  three\n"),
        ("x " * 3000, "y"),
    ]:
        found = pieces(old, new)
        assert "".join(piece.text for piece in found if piece.kind in ("same", "old")) == old
        assert "".join(piece.text for piece in found if piece.kind in ("same", "new")) == new


def test_long_unchanged_parts_of_a_text_are_left_out() -> None:
    words = " ".join(f"w{number}" for number in range(500))
    found = pieces(f"{words} old {words}", f"{words} new {words}")
    assert [piece.kind for piece in found] == ["skipped", "same", "old", "new", "same", "skipped"] or [
        piece.kind for piece in found if piece.text
    ] == ["skipped", "same", "old", "new", "same", "skipped"]


def test_the_card_is_that_of_an_export(shipped: Path, visit: Visit) -> None:
    text = get(visit(shipped), "/versions/judge-and-filter/judged@2", view="card")
    assert "<h2>Reproduce</h2>" in text
    assert "mermaid" not in text


def test_a_version_without_a_latest_is_found_by_its_name(registry: Registry, visit: Visit) -> None:
    made: Manifest = store(registry, "old", [{"a": 1}])
    fields = made.model_dump(exclude={"version", "run_id", "created_at"})
    draft = Draft(**{**fields, "name": "failed", "step_key": "x"})
    run = registry.catalog.begin_run("made", {})
    registry.catalog.commit([draft], run, None)
    registry.catalog.end_run(run, "failed", "it failed")
    client = visit(registry.root)
    assert client.get("/versions/failed").headers["location"] == "/versions/failed@1"
    assert "failed" in get(client, "/")


def test_sorting_by_an_unknown_column_is_a_query_error(numbers: Registry) -> None:
    with Sessions(numbers.location).reader() as reader, pytest.raises(QueryError, match="no column"):
        rows_page(reader, reader.session.manifest("numbers", 1), Wanted(sort="x"))


def test_a_large_dataset_is_read_in_the_background_once(
    numbers: Registry, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.page.facts.datasets.rows.LARGE", len(NUMBERS))
    read: list[str] = []
    before = ObjectStore.read_table

    def counting(store: ObjectStore, sha256: str, columns: list[str] | None = None) -> pa.Table:
        read.append(sha256)
        return before(store, sha256, columns)

    monkeypatch.setattr(ObjectStore, "read_table", counting)
    client = visit(numbers.root)
    get(client, "/versions/numbers@1")
    for thread in threading.enumerate():
        if thread.name == "prepare columns":
            thread.join()
    assert len(set(read)) == 3
    read.clear()
    for query in ({"sort": "word"}, {"where": "half > 3"}, {"page": "50"}):
        get(client, "/versions/numbers@1", **query)
    assert read == []
