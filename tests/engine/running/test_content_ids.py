"""The content id of an output depends on its stored rows, not on the number or the order of partitions."""

from __future__ import annotations

import pytest

from engine.jobs.messages import OutputPart, Partition, Receipt
from engine.operator.catalogue import catalogue
from engine.running.content_ids import ContentIds
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
    parts = [Partition(start=start, stop=start + 1) for start in range(4)]
    receipts, tables = [], []
    for part in parts:
        tables.append(record.to_table([record(text=f"row {part.start}")]))
        stored = registry.store.put_table(tables[-1])
        data = DataObject(sha256=stored.sha256, rows=1, bytes=stored.bytes)
        receipts.append(Receipt(partition=part, outputs={output: OutputPart(data=data)}, produced=1, filtered=0, rejected=0))
    ids = ContentIds(registry.store, operator, parts)
    for place in (2, 0, 3, 1):
        ids.add([receipts[place]])
    assert ids.result() == {output: content_id(record.arrow_schema(), tables)}
