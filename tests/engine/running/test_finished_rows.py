"""The content id of an output depends on its stored rows, not on the number or the order of partitions."""

from __future__ import annotations

import pytest

from engine.jobs.messages import OutputPart, Partition, Receipt
from engine.jobs.receipts import Receipts
from engine.packages.catalogue import catalogue
from engine.running.claims import Claims
from engine.running.finished_rows import FinishedRows
from engine.running.partition_table import PartitionTable
from registry import DataObject, Registry
from registry.records.content import content_id
from tests.engine.run_pipelines import run_text, words


def stored_id(registry: Registry, name: str) -> str:
    manifest = registry.manifest(name, 1)
    schema = registry.store.read_table(manifest.data[0].sha256).schema
    return content_id(schema, (registry.store.read_table(each.sha256) for each in manifest.data))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("rows", [3, 2500])
def test_content_ids_are_right_for_every_shape_of_operator(registry: Registry, rows: int) -> None:
    words(*[f"w{number}" for number in range(rows)])
    head = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "
    steps = "loud: {op: shout, in: words}, sorted: {op: ordered, in: words}, once: {op: distinct, in: words}"
    assert run_text(f"{head}steps: {{{steps}}}}}", registry).state == "succeeded"
    assert len(registry.manifest("demo/loud", 1).data) == (1 if rows == 3 else 3)
    for name in ("loud", "sorted", "once"):
        assert registry.manifest(f"demo/{name}", 1).content_id == stored_id(registry, f"demo/{name}")


def test_receipts_may_arrive_in_any_order(registry: Registry) -> None:
    operator = catalogue().operators["shout"]
    [(output, record)] = operator.outputs.items()
    claims = Claims(registry.receipts)
    table = PartitionTable(Receipts.of(registry, "key"), claims, 1, rerun=False, retry_rejects=False)
    receipts, tables = [], []
    for number in range(4):
        tables.append(record.to_table([record(text=f"row {number}")]))
        stored = registry.store.put_table(tables[-1])
        data = DataObject(sha256=stored.sha256, rows=1, bytes=stored.bytes)
        part = OutputPart(data=data)
        receipts.append(Receipt(digest=str(number), rows=1, outputs={output: part}, produced=1, filtered=0, rejected=0))
        table.add(0, Partition(digest=str(number), rows=1))
    taken = [table.take() for _ in range(4)]
    assert None not in taken
    rows = FinishedRows(registry.store, operator)
    for place in (2, 0, 3, 1):
        table.finished(receipts[place])
        rows.add(list(table.in_order(1)))
    claims.close()
    assert rows.content_ids() == {output: content_id(record.arrow_schema(), tables)}
