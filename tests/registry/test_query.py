"""`engine sql` answers from the views and cannot be talked into anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import QueryError, Registry
from tests.registry.test_catalog import commit, draft, three_generations


@pytest.fixture
def filled(registry: Registry) -> Registry:
    three_generations(registry)
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


@pytest.mark.parametrize(
    "statement",
    [
        "create table x (a int)",
        "insert into internal.versions (name) values ('x')",
        "delete from internal.versions",
        "update internal.versions set name = 'x'",
        "drop view datasets",
        "attach 'other.duckdb'",
        "copy (select 1) to 'out.csv'",
        "export database 'out'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set threads = 1",
        "pragma enable_profiling",
        "call pragma_version()",
        "select 1; drop view datasets",
        "checkpoint",
        "begin",
        "prepare p as select 1",
        "explain analyze delete from internal.versions",
        "explain analyze create table x as select 1",
    ],
)
def test_anything_but_a_select_is_refused(filled: Registry, workdir: Path, statement: str) -> None:
    before = sorted(workdir.rglob("*"))
    with filled.session() as session:
        with pytest.raises(QueryError):
            session.ask(statement)
        assert session.ask("select count(*) from versions").rows == [(3,)]
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize(
    "query",
    [
        "select * from '/etc/passwd'",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from read_blob('/etc/passwd')",
        "select * from glob('/etc/*')",
        "select * from parquet_scan('x.parquet')",
        "select * from sniff_csv('/etc/passwd')",
        "select getenv('HOME')",
        "select * from duckdb_secrets() union all select * from read_csv('/etc/passwd')",
        "from query('select * from read_text(''/etc/passwd'')')",
        "from query_table('/etc/passwd')",
    ],
)
def test_no_other_file_is_seen(filled: Registry, query: str) -> None:
    with filled.session() as session, pytest.raises(QueryError) as refused:
        session.ask(query)
    assert "root:" not in str(refused.value)


def test_python_variables_are_not_tables(filled: Registry) -> None:
    secret = __import__("pyarrow").table({"a": [1]})
    assert secret.num_rows
    with filled.session() as session, pytest.raises(QueryError, match="secret"):
        session.ask("select * from secret")


def test_an_unknown_name_gets_the_nearest_one(filled: Registry) -> None:
    with filled.session() as session:
        with pytest.raises(QueryError, match=r"Did you mean 'p/a'\?|Did you mean 'p/[abc]'\?"):
            session.resolve("p/aa")
        with pytest.raises(QueryError, match="no version 7; it has 1"):
            session.resolve("p/a@7")


def test_rows_of_damaged_objects_are_an_error(filled: Registry) -> None:
    manifest = filled.manifest("p/a", 1)
    path = filled.store.path(manifest.data[0].sha256)
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    with filled.session() as session, pytest.raises((QueryError, RuntimeError), match="damaged"):
        session.ask('select * from "p/a"')
