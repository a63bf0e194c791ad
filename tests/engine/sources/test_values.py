"""Rows have the values of their files: no digit, key or cell changes silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import EngineError, PipelineError
from engine.sources.ingest import Ingested, ingest
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import ConflictCase, MathProblem, SFTExample
from registry import Record, Registry


@pytest.fixture(autouse=True)
def _empty_folder(workdir: Path) -> None:
    """Each test runs in an empty folder."""


def read(registry: Registry, record: type[Record], path: str, **spec: Any) -> tuple[Ingested, list[Any]]:
    dataset = DatasetSpec.model_validate({"type": record.type_name(), "path": path, **spec})
    got = ingest("rows", dataset, record, Path(), 0, registry.store)
    return got, [row for data in got.data for row in record.from_table(registry.store.read_table(data.sha256))]


NUMBERS = {
    "2.71828182845904523536028": "2.71828182845904523536028",
    "7.10": "7.10",
    "-0.0": "-0.0",
    "6.02E23": "6.02E23",
    "90071992547409931": "90071992547409931",
    "1e-7": "1e-7",
}


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_json_number_in_a_text_field_keeps_its_digits(registry: Registry, ending: str) -> None:
    rows = [f'{{"question": "q", "answer": {number}}}' for number in NUMBERS]
    Path(f"d.{ending}").write_text("\n".join(rows) if ending == "jsonl" else f"[{','.join(rows)}]")
    _, got = read(registry, MathProblem, f"d.{ending}")
    assert [row.answer for row in got] == list(NUMBERS.values())


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([0.3, 2.0, 16777216.0], pa.float32()), ["0.3", "2.0", "16777216.0"]),
        (pa.array(np.array([0.3, 0.1], np.float16)), ["0.3", "0.1"]),
        (pa.array([0.1, 1 / 3], pa.float64()), ["0.1", "0.3333333333333333"]),
        (pa.array(["4.50", "120000"]).cast(pa.decimal128(10, 2)), ["4.50", "120000.00"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([0.7], pa.float32()).dictionary_encode(), ["0.7"]),
    ],
)
def test_a_parquet_number_in_a_text_field_has_the_digits_of_its_type(
    registry: Registry, values: pa.Array, texts: list[str]
) -> None:
    pq.write_table(pa.table({"question": ["q"] * len(values), "answer": values}), "d.parquet")
    _, got = read(registry, MathProblem, "d.parquet")
    assert [row.answer for row in got] == texts


class Marks(Record):
    """Texts and numbers at other depths."""

    names: list[str] = []
    by_name: dict[str, str] = {}
    count: int = 0
    share: float = 0.0


def test_numbers_inside_lists_and_mappings_keep_their_digits(registry: Registry) -> None:
    Path("d.jsonl").write_text('{"names": [1.10], "by_name": {"a": 2.50}, "count": 9007199254740993.0, "share": 0.10}\n')
    _, [row] = read(registry, Marks, "d.jsonl")
    assert row == Marks(names=["1.10"], by_name={"a": "2.50"}, count=9007199254740993, share=0.1)
    pq.write_table(pa.table({"names": pa.array([[0.1]], pa.list_(pa.float32()))}), "d.parquet")
    assert read(registry, Marks, "d.parquet")[1][0].names == ["0.1"]


@pytest.mark.parametrize("number", ["1e999", "-1e400", "NaN", "Infinity"])
def test_a_json_number_that_no_float_represents_is_refused(registry: Registry, number: str) -> None:
    Path("d.jsonl").write_text(f'{{"question": "q", "answer": {number}}}\n')
    with pytest.raises(PipelineError, match=r"d\.jsonl:1: .*(beyond the range|not a JSON value)"):
        read(registry, MathProblem, "d.jsonl")


def test_a_number_too_large_for_a_float_does_no_harm_in_an_unused_column(registry: Registry) -> None:
    Path("d.jsonl").write_text('{"question": "q", "answer": 1, "size": 1e400}\n')
    assert read(registry, MathProblem, "d.jsonl")[0].ignored == {"size": 1}


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_parquet_number_that_is_not_finite_is_refused(registry: Registry, kind: pa.DataType, number: float) -> None:
    values = pa.array(np.array([1, number], kind.to_pandas_dtype()))
    pq.write_table(pa.table({"question": ["a", "b"], "answer": values}), "d.parquet")
    with pytest.raises(PipelineError, match=r"d\.parquet row 2: .*answer: -?(nan|inf) is not a finite number"):
        read(registry, MathProblem, "d.parquet")
    pq.write_table(pa.table({"share": values, "names": pa.array([["a"], ["b"]])}), "e.parquet")
    got, rows = read(registry, Marks, "e.parquet", on_error="skip")
    assert (got.rejected, [row.share for row in rows]) == (1, [1.0])


def test_a_csv_cell_that_is_not_finite_is_refused_only_in_a_number_field(registry: Registry) -> None:
    Path("d.csv").write_text("share,names\nnan,\n")
    with pytest.raises(PipelineError, match="share: nan is not a finite number"):
        read(registry, Marks, "d.csv")
    Path("e.csv").write_text("question,answer\nq,inf\n")
    assert read(registry, MathProblem, "e.csv")[1][0].answer == "inf"


MESSAGE = {"role": "user", "content": "hi"}


def test_unknown_keys_with_values_are_ignored_and_counted_at_every_depth(registry: Registry) -> None:
    rows = [
        {"prompt": [{**MESSAGE, "name": None, "weight": 0}], "completion": [{**MESSAGE, "refusal": None}], "id": 1},
        {"prompt": [MESSAGE], "completion": [{**MESSAGE, "refusal": "no", "annotations": [{"x": 1}]}, MESSAGE]},
    ]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got, [first, second] = read(registry, SFTExample, "d.jsonl")
    assert first.prompt[0].content == second.completion[1].content == "hi"
    assert got.ignored == {
        "completion[].annotations": 1, "completion[].refusal": 1, "id": 1, "prompt[].weight": 1,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows[:1]), "d.parquet")
    assert read(registry, SFTExample, "d.parquet")[0].content_id
    Path("e.jsonl").write_text(json.dumps({"prompt": [{"role": "user"}], "completion": []}) + "\n")
    with pytest.raises(PipelineError, match=r"prompt\.0.content is missing"):
        read(registry, SFTExample, "e.jsonl")


def bad_text(values: list[bytes]) -> pa.Array:
    """Text that is declared as UTF-8 but is not."""
    data = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), data.buffers())


UNREADABLE = {
    "text": bad_text([b"ok", b"\xff\xfe"]),
    "a date": pa.array([0, 2**31 - 1], pa.int32()).view(pa.date32()),
    "a time": pa.array([0, 2**62], pa.int64()).view(pa.timestamp("ms")),
    "a zone": pa.array([0, 1], pa.int64()).view(pa.timestamp("s", tz="Mars/Olympus")),
}


@pytest.mark.parametrize("column", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unused_column_is_not_read(registry: Registry, column: pa.Array) -> None:
    pq.write_table(pa.table({"question": ["a", "b"], "answer": ["1", "2"], "junk": column}), "d.parquet")
    got, rows = read(registry, MathProblem, "d.parquet")
    assert ([row.answer for row in rows], got.ignored) == (["1", "2"], {"junk": 2})


def test_an_unreadable_cell_is_reported_and_can_be_skipped(registry: Registry) -> None:
    pq.write_table(pa.table({"question": UNREADABLE["text"], "answer": ["1", "2"]}), "d.parquet")
    with pytest.raises(PipelineError, match=r"d\.parquet row 2: not a MathProblem: question: not UTF-8"):
        read(registry, MathProblem, "d.parquet")
    assert [row.question for row in read(registry, MathProblem, "d.parquet", on_error="skip")[1]] == ["ok"]
    pq.write_table(pa.table({"when": UNREADABLE["a date"], "question": ["a", "b"], "answer": ["1", "2"]}), "e.parquet")
    with pytest.raises(PipelineError, match=r"e\.parquet row 2: .*when: a date32\[day\] that cannot be read"):
        read(registry, MathProblem, "e.parquet", rename={"when": "source"}, defaults={"source": "x"})


def test_a_repeated_parquet_column_is_refused(registry: Registry) -> None:
    table = pa.Table.from_arrays([pa.array(["q"]), pa.array(["1"]), pa.array(["2"])], names=["question", "answer", "answer"])
    pq.write_table(table, "d.parquet")
    with pytest.raises(EngineError, match=r"d\.parquet: the file has a duplicate column 'answer'"):
        read(registry, MathProblem, "d.parquet")


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ";"), ("b.csv", "\t"), ("c.csv", "|"), ("d.tsv", "\t"), ("e.csv", ",")]
)
def test_the_delimiter_is_the_one_that_splits_the_header_into_known_columns(
    registry: Registry, name: str, delimiter: str
) -> None:
    Path(name).write_text(f'\ufeffquestion{delimiter}answer\n"a{delimiter} b\nc"{delimiter}3,14\n'.replace("3,14", '"3,14"'))
    assert [(row.question, row.answer) for row in read(registry, MathProblem, name)[1]] == [(f"a{delimiter} b\nc", "3,14")]


def test_folders_named_key_value_become_fields(registry: Registry) -> None:
    for source, text in (("a%20b", "1"), ("c", "2"), ("__HIVE_DEFAULT_PARTITION__", "3")):
        Path(f"d/source={source}/x=1").mkdir(parents=True)
        Path(f"d/source={source}/x=1/part.jsonl").write_text(json.dumps({"question": "q", "answer": text}) + "\n")
    got, rows = read(registry, MathProblem, "d/**/*.jsonl")
    assert {row.answer: row.source for row in rows} == {"1": "a b", "2": "c", "3": None}
    assert got.ignored == {"x": 3}
    Path("d/source=c/x=1/part.jsonl").write_text('{"question": "q", "answer": "2", "source": "own"}\n')
    assert read(registry, MathProblem, "d/source=c/*/*")[1][0].source == "own"


def test_a_number_with_thousands_of_digits_is_refused_with_a_clear_error(registry: Registry) -> None:
    Path("d.jsonl").write_text('{"question": "q", "answer": ' + "9" * 5000 + "}\n")
    with pytest.raises(PipelineError, match="not JSON: a number has 5,000 digits"):
        read(registry, MathProblem, "d.jsonl")


def test_records_keep_their_numbers(registry: Registry) -> None:
    row = {"question": "q", "correct_answer": 1, "incorrect_answer": 2.50, "contexts": [3], "pcn": 0, "fc": True}
    Path("d.jsonl").write_text(json.dumps(row | {"temperature": 0.25}) + "\n")
    [case] = read(registry, ConflictCase, "d.jsonl")[1]
    assert (case.correct_answer, case.incorrect_answer, case.contexts, case.temperature) == ("1", "2.5", ["3"], 0.25)
