"""`engine sql` queries the views, and reads datasets as needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry import CorruptError, QueryError, Registry
from tests.conftest import Cli
from tests.registry.catalog.test_catalog import commit, draft, three_generations


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry = Registry(tmp_path_factory.mktemp("stored") / ".engine")
    three_generations(registry)
    return registry.root


@pytest.fixture
def filled(registry: Registry, stored: Path) -> Registry:
    """A copy of the registry with three generations."""
    shutil.copytree(stored, registry.root)
    return registry


def test_a_dataset_is_a_view_by_its_name_and_by_its_version(filled: Registry) -> None:
    commit(filled, draft(filled, "p/a", ["new"], "k9"))
    with filled.session() as session:
        assert session.ask('select row, word from "p/a" order by row').rows == [(0, "new")]
        assert session.ask('select row, word from "p/a@1" order by row').rows == [(0, "x"), (1, "y"), (2, "z")]
        joined = """
            select c.word, b.word from "p/c@1" c
            join row_lineage l on l.child = 'p/c' and l.child_row = c.row
            join "p/b" b on b.row = l.parent_row
        """
        assert sorted(session.ask(joined).rows) == [("X!", "X"), ("Z!", "Z"), ("Z?", "Z")]
        assert session.ask('describe "p/a"').rows[1][:2] == ("word", "VARCHAR")


@pytest.mark.parametrize("view", ["datasets", "versions", "runs"])
def test_a_listing_has_the_rows_of_its_view(filled: Registry, view: str) -> None:
    with filled.session() as session:
        answer = session.ask(f"from {view}")
    assert filled.listing(view) == [dict(zip(answer.columns, row, strict=True)) for row in answer.rows] != []


def test_a_listing_of_nothing_is_empty_and_other_views_have_none(registry: Registry, filled: Registry) -> None:
    assert Registry(registry.root / "none").listing("runs") == []
    for other in ("llm_calls", "no_view", ".*"):
        with pytest.raises(KeyError):
            filled.listing(other)


def test_rows_are_numbered_across_objects_whatever_columns_a_query_reads(registry: Registry) -> None:
    size = 20_000
    words = [[f"{row}" for row in range(start, start + size)] for start in (0, size, 2 * size)]
    parts = [draft(registry, "p/big", each, "k") for each in words]
    commit(registry, parts[0].model_copy(update={"data": tuple(part.data[0] for part in parts)}))
    with registry.session() as session:
        check = 'select count(*), count(*) filter (row = word::int), max(row) from "p/big"'
        assert session.ask(check).rows == [(3 * size, 3 * size, 3 * size - 1)]
        assert session.ask(check + " where word like '%9'").rows == [(3 * size // 10, 3 * size // 10, 3 * size - 1)]
        assert session.ask("select row, word from \"p/big\" where word = '41234'").rows == [(41234, "41234")]
        assert session.ask('select count(*) from "p/big" a join "p/big@1" b using (word) where a.row = b.row').rows == [
            (3 * size,)
        ]
        assert session.ask('select row, word from "p/big" limit 1 offset 50000').rows == [(50000, "50000")]


def test_explain_shows_the_plan_of_a_query_on_datasets(filled: Registry) -> None:
    with filled.session() as session:
        for prefix in ("explain", "EXPLAIN analyze", "explain /* why */ analyze", "explain (format json)", "-- so\nexplain"):
            assert session.ask(f'{prefix} select count(*) from "p/a"').rows


def test_a_stream_computes_rows_while_they_are_read(filled: Registry) -> None:
    with filled.session() as session:
        with session.stream("select range as n from range(1000000000000)") as (columns, batches):
            assert columns == ["n"]
            assert next(batches)[:2] == [(0,), (1,)]
        assert session.ask("select 1").rows == [(1,)]


def test_an_unknown_name_gets_the_nearest_one(filled: Registry) -> None:
    with filled.session() as session:
        with pytest.raises(QueryError, match=r"Did you mean 'p/a'\?|Did you mean 'p/[abc]'\?"):
            session.resolve("p/aa")
        with pytest.raises(QueryError, match=r"Did you mean 'p/[abc]'"):
            session.ask('select * from "p/aa"')
        for ask in (session.resolve, lambda target: session.ask(f'select * from "{target}"')):
            with pytest.raises(QueryError, match="no version 7; it has 1"):
                ask("p/a@7")
        with pytest.raises(QueryError, match='Did you mean "datasets"'):
            session.ask("select * from datsets")
        with pytest.raises(QueryError, match='Candidate bindings: "word"'):
            session.ask('select wrd from "p/a"')


@pytest.mark.parametrize(
    ("query", "call"),
    [
        ("select * from trace('p/c@1')", "from trace('NAME@V', ROW)"),
        ("from TRACE('p/c@1', 0, 1)", "from trace('NAME@V', ROW)"),
        ("from trace(0, 'p/c@1')", "from trace('NAME@V', ROW)"),
        ("from trace('p/c@1', row := 0)", "from trace('NAME@V', ROW)"),
        ("select trace('p/c@1', 0)", "from trace('NAME@V', ROW)"),
        ("from upstream()", "from upstream('NAME@V')"),
        ("explain from downstream('p/a@1', 0)", "from downstream('NAME@V')"),
    ],
)
def test_a_wrong_call_of_a_table_function_gets_the_right_one(filled: Registry, query: str, call: str) -> None:
    with filled.session() as session, pytest.raises(QueryError) as error:
        session.ask(query)
    name, _, rest = str(error.value).partition(" is a table function that takes a version")
    assert (name, rest.partition(": ")[2]) == (call.removeprefix("from ").partition("(")[0], call)


def test_other_wrong_calls_keep_the_message_of_duckdb(filled: Registry) -> None:
    with filled.session() as session:
        for query, words in (("select my_trace('x')", "my_trace"), ("from trace(word, 0)", '"word" was not found')):
            with pytest.raises(QueryError, match=words):
                session.ask(query)


@pytest.mark.parametrize("damage", ["a flipped bit", "missing"])
def test_rows_of_damaged_objects_are_an_error(filled: Registry, damage: str) -> None:
    path = filled.store.path(filled.manifest("p/a", 1).data[0].sha256)
    good = path.read_bytes()
    path.unlink()
    if damage == "a flipped bit":
        path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    with filled.session() as session:
        with pytest.raises(CorruptError, match=r"damaged|missing"):
            session.ask('select * from "p/a"')
        with pytest.raises(CorruptError, match=r"damaged|missing"):
            session.table("p/a")


def test_sql_prints_a_table_of_bounded_size_and_all_rows_otherwise(filled: Registry, engine: Cli) -> None:
    query = "select range as n, 'a\u2028b' as text, [1] as many from range(3000)"
    table = engine("sql", query).stdout
    assert table.rstrip().endswith("(the first 1,000 rows; --format csv or json prints all of them)")
    assert "\n999 " in table
    assert "\n1000 " not in table
    expected = [{"n": n, "text": "a\u2028b", "many": [1]} for n in range(3000)]
    printed = engine("sql", query, "--json").stdout
    assert printed.isascii()  # what could break a line is an escape
    assert printed == json.dumps(expected, indent=2) + "\n"
    assert engine("sql", query + " where n < 0", "--json").stdout == "[]\n"
    with_csv = engine("sql", query, "--format", "csv").stdout
    assert with_csv.count("\n") == 3001
    assert with_csv.startswith("n,text,many\n0,a\u2028b,[1]\n")


def test_a_query_that_fails_prints_its_error_and_nothing_else(filled: Registry, engine: Cli) -> None:
    refused = engine("sql", "drop view datasets", "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: the registry is read-only")
