"""One way to keep versioned datasets, used and timed. benchmarks.registry starts `python -m benchmarks.lakes` in an environment that has
the packages for it, and reads the seconds as JSON. It is not meant to be run by hand.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

DATASETS = 20
"""The datasets over which the small commits are spread."""
COMMIT_ROWS = 100


class Lake(Protocol):
    """Datasets in a folder, ready for use."""

    def create(self, name: str, rows: pa.Table) -> None:
        """Store a dataset's first version."""

    def append(self, name: str, rows: pa.Table) -> None:
        """Store its next version: the rows it had and these."""

    def versions(self) -> list[tuple[str, int]]:
        """All versions of all datasets."""


class Ours:
    """This registry, used as a run uses it that reads a source: begin, store, content id, commit, end."""

    def __init__(self, folder: Path) -> None:
        import engine.sources.ingest  # noqa: F401  (imports are not what is timed)
        from registry import Registry

        self._registry = Registry(folder)

    def create(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        from registry.records.content import ContentHash

        self._commit(name, ContentHash(rows.schema, resumable=True), rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """See Lake. As engine/sources/files/growth.py does for a file that grew: the content id continues, and the last objects of the
        version before are stored again, together with the new rows.
        """
        from engine.sources.files.growth import final_objects
        from registry.records.content import ContentHash

        before = self._registry.newest(name)
        assert before
        store = self._registry.store
        state = store.read_document(before.key_object.sha256)["state"]
        content = ContentHash.resumed(rows.schema, state, before.content_id)
        final = final_objects(before.data)
        last = [store.read_table(part.sha256) for part in before.data[final:]]
        self._commit(name, content, rows, before.data[:final], last)

    def versions(self) -> list[tuple[str, int]]:
        """See Lake."""
        return [(row["name"], row["version"]) for row in self._registry.listing("versions")]

    def _commit(
        self, name: str, content: Any, rows: pa.Table, kept: tuple[Any, ...] = (), last: Sequence[pa.Table] = ()
    ) -> None:
        from engine.sources.ingest import BATCH_ROWS
        from registry import DataObject, Draft, StepRun
        from registry.records.boundaries import split
        from registry.records.schema import fields_of
        from registry.storage.checked_json import canonical_json, json_digest

        catalog, store = self._registry.catalog, self._registry.store
        run = catalog.begin_run("benchmark", {})
        made: list[DataObject] = list(kept)

        def hashed() -> Iterator[pa.Table]:
            for start in range(0, rows.num_rows, BATCH_ROWS):
                content.update(rows.slice(start, BATCH_ROWS))
                yield rows.slice(start, BATCH_ROWS)

        for table, stored in store.put_tables(split(chain(last, hashed()))):
            made.append(DataObject(sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes, memory=table.nbytes))
        identity = content.content_id()
        document = store.put_bytes(canonical_json({"state": content.state()}))
        draft = Draft(
            name=name,
            kind="dataset",
            type="MathSolution",
            fields=fields_of(rows.schema),
            content_id=identity,
            pipeline="benchmark",
            step=name,
            op="benchmark",
            output="out",
            step_key=json_digest([name, identity]),
            key_object=DataObject(sha256=document.sha256, rows=0, bytes=document.bytes),
            data=tuple(made),
        )
        [manifest] = catalog.commit([draft], run, StepRun(step=name, op="benchmark", outcome="ran"))
        catalog.end_run(run, "succeeded", refs={name: manifest.version})


class DuckLake:
    """DuckDB's lake format: Parquet files, and a catalog in a DuckDB file, which stays open."""

    def __init__(self, folder: Path) -> None:
        import duckdb

        [extension] = Path(str(files("duckdb_extension_ducklake"))).glob("extensions/*/*.duckdb_extension")
        self._connection = duckdb.connect()
        self._connection.execute(f"load '{extension}'")
        self._connection.execute(f"attach 'ducklake:{folder}/lake.ducklake' as lake (data_path '{folder}/data')")

    def create(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._execute(f'create table lake."{name}" as from incoming', rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._execute(f'insert into lake."{name}" from incoming', rows)

    def versions(self) -> list[tuple[str, int]]:
        """See Lake: every snapshot of the lake with the tables that it made or added to."""
        query = """
            select unnest(coalesce(changes['tables_created'], changes['tables_inserted_into'])), snapshot_id
            from lake.snapshots() where snapshot_id > 0
        """
        return [(str(table), int(snapshot)) for table, snapshot in self._execute(query)]

    def _execute(self, statement: str, rows: pa.Table | None = None) -> list[Any]:
        if rows is not None:
            self._connection.register("incoming", rows)
        return list(self._connection.execute(statement).fetchall())


class Delta:
    """Delta Lake in Rust: a table is a folder of Parquet files and of a JSON file a version."""

    def __init__(self, folder: Path) -> None:
        import deltalake

        self._delta, self._folder = deltalake, folder

    def create(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._delta.write_deltalake(self._folder / name, rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._delta.write_deltalake(self._folder / name, rows, mode="append")

    def versions(self) -> list[tuple[str, int]]:
        """See Lake. There is no catalog, so every table is opened."""
        return [
            (path.name, each["version"]) for path in self._folder.iterdir() for each in self._delta.DeltaTable(path).history()
        ]


class Lance:
    """Lance: a table is a folder of files in a format of its own and of a manifest a version."""

    def __init__(self, folder: Path) -> None:
        import lance

        self._lance, self._folder = lance, folder

    def create(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._lance.write_dataset(rows, self._folder / name)

    def append(self, name: str, rows: pa.Table) -> None:
        """See Lake."""
        self._lance.write_dataset(rows, self._folder / name, mode="append")

    def versions(self) -> list[tuple[str, int]]:
        """See Lake. There is no catalog, so every table is opened."""
        return [
            (path.name, each["version"]) for path in self._folder.iterdir() for each in self._lance.dataset(path).versions()
        ]


def solutions(first: int, count: int) -> pa.Table:
    """Rows like those of MathSolution: some 850 characters each, other ones for other numbers.

    Words are as frequent as in a natural language (Zipf's law), so that texts compress as those of GSM8K do: zstd makes 0.38 of
    them (GSM8K: 0.40) and snappy 0.58 (0.53). Of words that are equally frequent, snappy makes nothing smaller, and is fast.
    """
    draw = random.Random(first)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    frequencies = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    pool = " ".join(draw.choices(words, cum_weights=frequencies, k=min(2_000_000, 2_000 + count * 20)))

    def texts(length: int) -> pa.Array:
        starts = (draw.randrange(len(pool) - length) for _ in range(count))
        return pa.array([pool[start : start + length] for start in starts], pa.large_string())

    numbers = range(first, first + count)
    return pa.table(
        {
            "question": texts(200),
            "answer": pa.array([str(number % 1000) for number in numbers], pa.large_string()),
            "solution": texts(600),
            "verdict": pa.array(["correct" if number % 3 else "wrong" for number in numbers], pa.large_string()),
            "stage": pa.array([1 + number % 2 for number in numbers], pa.int64()),
            "id": pa.array([f"problem-{number:09}" for number in numbers], pa.large_string()),
        }
    )


class Cost(NamedTuple):
    """The cost of an operation, in seconds; the CPU of all threads counts."""

    wall: float
    cpu: float


def cost(work: Callable[[], object]) -> Cost:
    """Do some work once; returns the wall time and the CPU time that it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def measure(lake: Lake, folder: Path, rows: int, commits: int) -> dict[str, Any]:
    """The cost of each operation (of a small version on average), and bytes on disk after the large ones."""
    first, more = solutions(0, rows), solutions(rows, rows // 10)
    small = [solutions(2 * rows + number * COMMIT_ROWS, COMMIT_ROWS) for number in range(commits)]
    ingest = cost(lambda: lake.create("rows", first))
    append = cost(lambda: lake.append("rows", more))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def commit() -> None:
        for number, table in enumerate(small):
            (lake.create if number < DATASETS else lake.append)(f"small{number % DATASETS}", table)

    each = Cost(*(seconds / commits for seconds in cost(commit)))
    found: list[tuple[str, int]] = []
    listing = cost(lambda: found.extend(lake.versions()))
    assert len(found) == len(set(found)) == commits + 2, found
    return {"ingest": ingest, "append": append, "commit": each, "listing": listing, "bytes": size}


LAKES: dict[str, Any] = {
    "ours": Ours,
    "DuckLake": DuckLake,
    "Delta": Delta,
    "Lance": Lance,
}


def main() -> None:
    name, folder, rows, commits = sys.argv[1:]
    print(json.dumps(measure(LAKES[name](Path(folder)), Path(folder), int(rows), int(commits))))


if __name__ == "__main__":
    main()
