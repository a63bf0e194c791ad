"""SQL in pipelines that tries to read files, settings or the process, to write, or to depend on chance or time.

`check` refuses every attempt, in each operator that takes SQL, before anything runs.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from engine.errors import EngineError
from engine.operator import Record, SqlError, bind_expressions, bind_query, evaluate, run_query
from registry import Registry
from tests.operators.generic.pipelines import order, pipeline, run_ok, write, wrong

SECRET = "the secret of this file"
secret_table = pa.table({"secret": [SECRET]})  # a variable of Python that DuckDB could find by its name


class Row(Record):
    """A row."""

    id: int
    item: str


QUERIES = [
    "select * from read_csv('{secret}')",
    "select * from read_text('{secret}')",
    "select * from read_blob('{secret}')",
    "select * from read_parquet('{secret}')",
    "select * from read_json('{secret}')",
    "select * from glob('/*')",
    "select * from '{secret}'",
    'select * from "{secret}"',
    "select * from 'https://example.com/x.parquet'",
    "select * from 's3://bucket/x.parquet'",
    "copy (select 1) to '{secret}'",
    "copy o from '{secret}'",
    "attach '{secret}' as other",
    "install httpfs",
    "load httpfs",
    "pragma database_list",
    "set enable_external_access = true",
    "reset lock_configuration",
    "create table t as select 1",
    "insert into o select * from o",
    "delete from o",
    "drop table o",
    "export database '/tmp'",
    "import database '/tmp'",
    "call pragma_version()",
    "vacuum",
    "checkpoint",
    "prepare p as select 1",
    "execute p",
    "explain select * from o",
    "describe o",
    "summarize o",
    "show tables",
    "select * from o; select * from read_csv('{secret}')",
    "select 1; drop table o",
    "select * from (describe o)",
    "select * from query('select 1')",
    "select * from query_table('o')",
    "select * from duckdb_settings()",
    "select * from duckdb_secrets()",
    "select * from duckdb_tables()",
    "select * from pragma_table_info('o')",
    "select * from information_schema.tables",
    "select * from pg_catalog.pg_class",
    "select * from sqlite_master",
    "select * from pg_class",
    "select * from duckdb_logs",
    "select * from secret_table",
    "from secret_table",
    "select * from o, secret_table",
    "select * from o where item in (select secret from secret_table)",
    "with x as (from read_csv('{secret}')) select * from o, x",
    "select * from o union all select 1, secret from secret_table",
    "select * from o, lateral (select * from read_text(o.item))",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select * from sniff_csv('{secret}')",
    "select * from parquet_metadata('{secret}')",
    "select * from which_secret('{secret}', 's3')",
    "select * from histogram('o', 'id')",
    "select * from test_all_types()",
    "select * from summary((select 1))",
    "select current_setting('home_directory') as x from o",
    "select getenv('HOME') as x from o",
    "select getvariable('x') as x from o",
    "select current_database() as x from o",
    "select current_user as x from o",
    "select user as x from o",
    "select version() as x from o",
    "select nextval('s') as x from o",
    "select write_log('x') as x from o",
    "select txid_current() as x from o",
    "select current_query() as x from o",
    "select random() as x from o",
    "select setseed(0.5) as x from o",
    "select cast(uuid() as varchar) as x from o",
    "select now() as x from o",
    "select today() as x from o",
    "select current_timestamp as x from o",
    "select current_date as x from o",
    "select localtimestamp as x from o",
    "select get_current_timestamp() as x from o",
    "select cast(ago(interval 1 day) as varchar) as x from o",
    "select cast(age(timestamp '2020-01-01') as varchar) as x from o",
    "select pg_sleep(1) as x from o",
    "select sleep_ms(1000) as x from o",
    "select id from o order by random()",
    "select id from o using sample 10%",
    "select id from o tablesample 10%",
    "select id from (select id from o using sample 1) as x",
    "select pg_get_viewdef(1) as x from o",
    "select format_type(1, 2) as x from o",
    "select get_block_size('memory') as x from o",
    "select * from o at (version => 1)",
    "select * from memory.main.o",
    "\ud800",
    "select '\x00' as x from o, read_csv('{secret}')",
    "/* " * 2000,
    "(" * 5000 + "select 1" + ")" * 5000,
]  # fmt: skip

EXPRESSIONS = [
    "id > 0) union all select 1 from read_csv('{secret}') --",
    "true from read_csv('{secret}')",
    "true from o",
    "true; drop table rows",
    "exists (select 1 from read_csv('{secret}'))",
    "(select count(*) from rows) > 0",
    "(select count(*) from read_text('{secret}')) > 0",
    "item in (from '{secret}')",
    "item = getenv('HOME')",
    "item = current_setting('home_directory')",
    "item = getvariable('x')",
    "item = current_user",
    "item = version()",
    "random() > 0.5",
    "now() is not null",
    "current_date > date '2020-01-01'",
    "cast(uuid() as varchar) = item",
    "pg_sleep(1) is null",
    "write_log('x') is null",
    "nextval('s') > 1",
    "count(*) > 0",
    "weighted_avg(id, id) > 0",
    "row_number() over () = 1",
    "unnest([true, false])",
    "columns(*) is not null",
    "*",
    "true as x",
    "true, true",
    "true limit 1",
    "true order by 1",
    "all",
    "$1 = 1",
    "? = 1",
    "true /*",
    "true */ /*",
    "true) --",
    "1 = 1) from (select 1",
    "from rows",
    "values (true)",
    "",
    "   ",
    "--",
]


@pytest.fixture
def secret(workdir: Path) -> str:
    """A file that no query may read."""
    file = workdir / "secret.csv"
    file.write_text(f"a\n{SECRET}\n")
    return str(file)


@pytest.mark.parametrize("query", QUERIES)
def test_queries_see_their_inputs_and_nothing_else(secret: str, query: str) -> None:
    with pytest.raises(SqlError) as refused:
        bind_query(query.replace("{secret}", secret), {"o": Row})
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) > 10


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_see_one_row_and_nothing_else(secret: str, expression: str) -> None:
    found = bind_expressions(Row, {"x": expression.replace("{secret}", secret)})["x"]
    assert isinstance(found, SqlError)
    assert SECRET not in str(found)
    assert len(str(found)) > 10


@pytest.mark.parametrize("op", ["filter", "map", "sql"])
def test_the_operators_refuse_at_check(registry: Registry, op: str) -> None:
    write("orders", order(1))
    for text in ("item = getenv('HOME')", "exists (from read_csv('/etc/passwd'))"):
        params = {"filter": {"where": text}, "map": {"set": {"x": text}}, "sql": {"query": f"select {text} as x from o"}}[op]
        found = wrong(pipeline(op, {"o": "orders"} if op == "sql" else "orders", **params))
        assert "getenv" in found or "read_csv" in found or "subquery" in found
        assert "root:" not in found


def test_a_worker_refuses_what_a_check_did_not_see(secret: str) -> None:
    """The database itself is confined, should a text reach it unchecked."""
    table = pa.table({"id": [1], "item": ["x"]})
    for text in (
        f"(select count(*) from read_csv('{secret}')) > 0",
        f"(select count(*) from '{secret}') > 0",
        "(select count(*) from secret_table) > 0",
    ):
        with pytest.raises(EngineError) as refused:
            evaluate(table, {"x": text})
        assert SECRET not in str(refused.value)
    bound = bind_query("select * from o", {"o": Row})
    for statement in (
        f"select 1 as id, content as item from read_text('{secret}')",
        f"copy (select 1) to '{secret}'",
        "create table t (x int)",
    ):
        with pytest.raises(EngineError):
            run_query(type(bound)(bound.fields, statement, (), "unknown", True), {"o": table})
    assert SECRET in Path(secret).read_text()


def test_binding_computes_nothing(workdir: Path) -> None:
    """A constant of gigabytes, or a query that never ends, costs nothing in `check`."""
    found = bind_expressions(Row, {"x": "repeat('x', 3000000000)", "y": "len(range(10000000000)) > 1"})
    assert [str(each) for each in found.values()] == ["str", "bool?"]
    assert bind_query("select count(*) as n from o, range(1000000000000), range(1000000000)", {"o": Row}).fields[0].name == "n"


def test_names_of_fields_and_inputs_are_not_run_as_sql(registry: Registry) -> None:
    fields = {"a b": "str", "select": "int", "drop table x": "str", "ü'; --": "str", "rows": "int"}
    write("orders", {"a b": "1", "select": 2, "drop table x": "3", "ü'; --": "4", "rows": 5})
    text = pipeline("map", types={"orders": fields}, set={"n": '"a b" || "select" || "drop table x" || "ü\'; --" || rows.rows'})
    from tests.in_process import InProcess

    run_ok(text, registry, cluster=InProcess())
    with registry.session() as session:
        assert session.ask('select n from "demo/step"').rows == [("12345",)]
    query = 'select "select" from "my; drop table o"'
    run_ok(pipeline("sql", {"my; drop table o": "orders"}, {"orders": fields}, query=query), registry, cluster=InProcess())
    with registry.session() as session:
        assert session.ask('select "select" from "demo/step"').rows == [(2,)]
