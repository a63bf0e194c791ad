"""`engine sql` is confined: it writes nothing, reads no file, and keeps its limits of time and memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import QueryError, Registry, Session
from registry.query import limits
from registry.query.limits import Deadline
from tests.conftest import Cli
from tests.registry.catalog.test_catalog import three_generations

CANARY = "the content of a file that is no business of a query"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder: a registry in `.engine`, and other files."""
    root = tmp_path_factory.mktemp("confined")
    three_generations(Registry(root / ".engine"))
    (root / ".tmp").mkdir()
    for name in ("canary", "canary.csv", "canary.json", "canary.db", ".tmp/canary.csv"):
        (root / name).write_text(CANARY)
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Session]:
    with Registry(folder / ".engine").session() as session:
        yield session


WRITES = """
create table x (a int)
create temp table x as select 1
create or replace view datasets as select 1
create macro datasets() as 1
create secret (type s3)
create sequence s
create type t as enum ('a')
insert into internal.versions (name) values ('x')
delete from internal.versions
truncate internal.versions
update internal.versions set name = 'x'
merge into internal.versions using (select 1) on true when matched then delete
drop view datasets
alter view datasets rename to d
comment on view datasets is 'x'
attach 'other.duckdb'
attach ':memory:' as m
detach memory
use internal
copy (select 1) to 'out.csv'
copy from database memory to m
copy internal.versions from 'canary.csv'
export database 'out'
import database 'out'
install httpfs
force install httpfs from 'https://example.org'
load httpfs
load '/tmp/x.duckdb_extension'
set enable_external_access = true
set threads = 1
set variable x = 1
set global memory_limit = '1TB'
reset memory_limit
pragma enable_profiling
pragma threads = 4
call pragma_version()
call enable_logging()
select 1; drop view datasets
drop view datasets; select 1
checkpoint
vacuum
analyze
begin
commit
prepare p as select 1
execute p
deallocate p
explain delete from internal.versions
explain analyze delete from internal.versions
explain analyze create table x as select 1
explain analyze copy (select 1) to 'out.csv'
explain /* select */ analyze delete from internal.versions
explain (analyze) delete from internal.versions
explain (analyze, format json) delete from internal.versions
explain analyse delete from internal.versions
pivot versions on name using count(*)
with x as (delete from internal.versions returning *) select * from x
with x as (insert into internal.versions (name) values ('x') returning name) select * from x
with x as (update internal.versions set name = 'x' returning name) select * from x
with x as materialized (delete from internal.versions returning *) select 1
with x as (merge into internal.versions using (select 1) on true when matched then delete returning *) select * from x
select (with x as (delete from internal.versions returning *) select count(*) from x)
explain analyze with x as (delete from internal.versions returning *) select * from x
from query('with x as (delete from internal.versions returning *) from x')
from query('delete from internal.versions')
from query('attach '':memory:'' as m')
from json_execute_serialized_sql(json_serialize_sql('with x as (delete from internal.versions returning *) from x'))
with x as (copy (select 1) to 'out.csv') select 1
with x as (copy (select 1) to '.tmp/out.csv') select * from x
with x as (copy (select 1) to '/dev/stdout') select * from x
from enable_profiling(save_location = 'profile.json')
from enable_logging(storage = 'file', storage_path = 'logs')
from enable_logging()
from system.main.enable_logging()
from disable_logging()
from truncate_duckdb_logs()
from checkpoint()
from "JSON_execute_serialized_sql"(json_serialize_sql('select 1'))
from destroy_external_resource('f', 1)
from register_external_resource_type('t', kind := 'k', create_function := 'f')
select nextval('s')
"""

READS = """
select * from '/etc/passwd'
from '{here}/canary.csv'
from 'canary.csv'
from "canary.csv"
from "canary.json"
from 'canary.db'
from 'file://{here}/canary.csv'
from 'https://example.org/x.csv'
from 's3://bucket/x.parquet'
from '.tmp/canary.csv'
from '.engine/registry.duckdb'
from read_csv('canary.csv')
from read_csv(['canary.csv'], header = false)
from read_csv_auto('/etc/passwd')
from read_csv('.tmp/canary.csv')
from read_csv('/dev/stdin')
from read_text('canary')
from read_text('.tmp/*')
from read_text('.tmp/../canary')
from read_text('/proc/self/environ')
from read_blob('/etc/passwd')
from read_json('canary.json')
from read_ndjson_objects('canary.json')
from read_single_csv_file('canary.csv')
from read_parquet('.engine/objects/*/*')
from parquet_scan('x.parquet')
from parquet_metadata('x.parquet')
from parquet_kv_metadata('x.parquet')
from read_duckdb('canary.db')
from sniff_csv('canary.csv')
from glob('*')
from glob('/etc/*')
from query('from read_text(''canary'')')
from query_table('canary.csv')
from query_table('/etc/passwd')
from json_execute_serialized_sql(json_serialize_sql('from read_text(''canary'')'))
from (describe 'canary.csv')
summarize 'canary.csv'
describe table 'canary.csv'
explain analyze select * from 'canary.csv'
with x as (from 'canary.csv') from x
select (select content from read_text('canary'))
from versions, lateral (from read_text(name))
from versions where exists (from read_text('canary'))
from duckdb_secrets() union all from read_csv('canary.csv')
from duckdb_extensions()
from sql_auto_complete('sel')
from iceberg_scan('x')
from sqlite_scan('x.db', 't')
select getenv('HOME')
select system('id')
from shellfs('id |')
select load_extension('x')
from python_map_function((select 1), 1)
from pandas_scan(1)
from arrow_scan(1, 1, 1)
from arrow_scan(1::pointer, 1::pointer, 1::pointer)
"""

ODD = """
from pg_catalog.pg_settings
from information_schema.tables
from duckdb_functions()
show tables
show all tables
show databases
select current_setting('secret_directory'), current_setting('temp_directory'), current_setting('home_directory')
select current_setting('allowed_directories'), current_setting('allowed_paths'), current_query(), getvariable('x')
explain analyze select count(*) from "p/a"
explain select * from row_lineage
select write_log('x')
select setseed(0.5)
summarize "p/a"
with "not/a dataset" as (select 1) from "not/a dataset"
"""


SETTINGS = """
select current_setting('enable_external_access'), current_setting('lock_configuration'),
    current_setting('enable_logging'), getvariable('x')
"""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "registry.lock" not in path.name)


@pytest.mark.parametrize("query", WRITES.strip().splitlines())
def test_a_query_that_would_write_is_refused(session: Session, folder: Path, query: str) -> None:
    before = _files(folder)
    with pytest.raises(QueryError):
        session.ask(query)
    assert session.ask("select name, version from versions").rows == [("p/a", 1), ("p/b", 1), ("p/c", 1)]
    assert session.ask(SETTINGS).rows == [(False, True, False, None)]
    assert _files(folder) == before


@pytest.mark.parametrize("query", READS.strip().splitlines())
def test_a_query_reads_no_file_and_nothing_about_the_machine(session: Session, folder: Path, query: str) -> None:
    with pytest.raises(QueryError) as refused:
        session.ask(query.format(here=folder))
    for secret in (CANARY, "root:", str(Path.home() / ".duckdb")):
        assert secret not in str(refused.value)


@pytest.mark.parametrize("query", ODD.strip().splitlines())
def test_duckdbs_settings_name_no_folder_of_the_machine(session: Session, folder: Path, query: str) -> None:
    text = repr(session.ask(query).rows)
    assert str(folder) not in text
    assert f"{Path.home()}/" not in text
    assert CANARY not in text


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("drop view datasets", "the registry is read-only: DROP statements are refused"),
        ("with x as (delete from internal.versions returning *) from x", "the registry is read-only"),
        ("set threads = 1", "the registry is read-only: SET statements are refused"),
        ("install httpfs", "the registry is read-only: LOAD statements are refused"),
        ("from read_text('/etc/passwd')", "read_text() is not allowed: queries can read the registry's views and datasets"),
        ("from read_text('/etc/passwd')", "The allowed table functions are downstream, duckdb_functions, generate_series,"),
        ("from 'canary.csv'", "queries can read the registry's views and datasets, but no files"),
        ("with x as (copy (select 1) to 'out.csv') from x", "queries can read the registry's views and datasets, but no files"),
        ("select 1 /* ; */ ; -- ;\n drop view datasets", "one SQL statement at a time; this query has 2"),
        ("explain /* /* */ select */ delete from internal.versions", "EXPLAIN of other statements are refused"),
        ("select " + "-" * 2000 + "\n", "rror"),
        ("from '/etc/passwd'", "the registry has no dataset, model, calibration or report named '/etc/passwd'"),
        ("select 1; select 2", "one SQL statement at a time; this query has 2"),
        ("pivot versions on name using count(*)", "Give PIVOT its values"),
        ("-- nothing", "the query is empty"),
    ],
)
def test_refusals_say_what_is_allowed(session: Session, query: str, says: str) -> None:
    with pytest.raises(QueryError) as refused:
        session.ask(query)
    assert says in str(refused.value)


def test_python_variables_are_not_tables(session: Session) -> None:
    secret = __import__("pyarrow").table({"a": [1]})
    assert secret.num_rows
    with pytest.raises(QueryError, match="secret"):
        session.ask("select * from secret")


RUNAWAYS = [
    "select count(*) from range(1000000) a, range(1000000) b",
    'select count(*) from "p/a" a, "p/b" b, range(1000000000000)',
    "with recursive w(a) as (select 1 union all select a + 1 from w) select sum(a) from w",
    "select pg_sleep(1000)",
    "select range from range(1000000000000)",  # quick to start, and never at its end
]


@pytest.mark.parametrize("query", RUNAWAYS)
def test_a_runaway_query_is_stopped_at_its_timeout_and_the_session_continues(session: Session, query: str) -> None:
    with (
        pytest.raises(QueryError, match=r"stopped after 0\.05 s. Ask for less: one version"),
        session.stream(query, timeout=0.05) as (_, batches),
    ):
        for _ in batches:
            pass
    assert session.ask("select 1", timeout=60).rows == [(1,)]


def test_interrupts_are_repeated_before_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE", 0.0)
    interrupts: list[int] = []
    ended = threading.Event()
    with Deadline(0.0, lambda: interrupts.append(1), ended.set).running():
        assert ended.wait(60)
    assert interrupts


@pytest.mark.parametrize(
    ("query", "format"),
    [
        ("select len(list(a)) from range(1000000000) t(a)", "table"),
        ("select length(repeat('x', 3000000000))", "json"),  # DuckDB does not count memory for the result of a function
        ("select repeat('x', 1000000) from range(1000000)", "csv"),
    ],
)
def test_a_query_that_exceeds_its_memory_limit_is_stopped(folder: Path, engine: Cli, query: str, format: str) -> None:
    stopped = engine("--registry", str(folder / ".engine"), "sql", query, "--memory", "200MB", "--format", format)
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert stopped.stderr.startswith("error: the query needs more memory than it is allowed. Ask for less")
    assert stopped.stderr.endswith(", or allow more (--memory SIZE)\n")


def test_an_invalid_amount_of_memory_is_refused(folder: Path) -> None:
    registry = Registry(folder / ".engine")
    with pytest.raises(QueryError, match="'4 bananas' is not an amount of memory; write 4GB"):
        Session(registry.catalog, registry.store, registry.reviews, "4 bananas")


@pytest.mark.soak
def test_a_function_that_ignores_interrupts_ends_with_the_command(folder: Path, engine: Cli) -> None:
    query = "select levenshtein(repeat('a', 1000000), repeat('b', 1000000))"
    stopped = engine("--registry", str(folder / ".engine"), "sql", query, "--timeout", "0.2")
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert stopped.stderr.startswith("error: the query was stopped after 0.2 s")
