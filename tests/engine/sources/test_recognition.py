"""The format of a dataset's rows is recognised, named or refused, and is part of the source's identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.cli.plan_view import plan_rows
from engine.cli.run_view import run_document
from engine.errors import EngineError, PipelineError
from engine.export.versions import export
from engine.operator.row_formats import RowFormat
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.planning.results import SourcePlan
from engine.sources.ingest import identity
from engine.sources.recognition import format_of_files
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import MathProblem, PreferencePair, SFTExample
from registry import Record, Registry
from tests.engine.run_pipelines import ask, run_text

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = {"messages": [U, A]}
SHARE = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
GSM = {"question": "1 + 1?", "answer": "Add.\n#### 2"}
PLAIN = {"question": "1 + 1?", "answer": "2"}


@pytest.fixture(autouse=True)
def _empty_folder(workdir: Path) -> None:
    """Each test runs in an empty folder."""


def write(*rows: Any, file: str = "d.jsonl") -> str:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def recognised(record: type[Record], path: str = "d.jsonl", **spec: Any) -> str | None:
    found = found_format(record, path, **spec)
    return found.name if found else None


def found_format(record: type[Record], path: str = "d.jsonl", **spec: Any) -> RowFormat | None:
    dataset = DatasetSpec.model_validate({"type": record.type_name(), "path": path, **spec})
    return format_of_files(dataset, record, Path())


def test_the_own_fields_of_the_type_win(registry: Registry) -> None:
    write({"prompt": [U], "completion": [A], "messages": [U, A]})
    assert recognised(SFTExample) is None
    write({"prompt": "q", "completion": "a", "messages": [U, A]}, {"prompt": [U], "completion": [A]})
    assert recognised(SFTExample) is None


def test_a_stricter_format_wins_over_the_own_fields_if_all_rows_fit(registry: Registry) -> None:
    write(GSM, GSM)
    assert recognised(MathProblem) == "gsm8k"
    assert recognised(MathProblem, format="own") is None
    write(GSM, PLAIN)
    assert recognised(MathProblem) is None
    write(PLAIN, {"question": "What is `####`?", "answer": "#### and more\n is no answer"})
    assert recognised(MathProblem) is None


def test_a_bad_row_among_the_first_does_not_hide_the_format(registry: Registry) -> None:
    write(SHARE, {"conversations": []}, SHARE)
    assert recognised(SFTExample) == "sharegpt"


def test_renamed_columns_are_looked_at_under_their_new_names(registry: Registry) -> None:
    write({"dialogue": SHARE["conversations"]})
    assert recognised(SFTExample, rename={"dialogue": "conversations"}) == "sharegpt"
    assert recognised(SFTExample) is None


def test_rows_that_fit_two_formats_need_a_name(registry: Registry) -> None:
    write(CHAT | SHARE)
    with pytest.raises(
        EngineError, match=r"fit 2 formats of SFTExample; say which(.|\n)*format: openai(.|\n)*format: sharegpt"
    ):
        recognised(SFTExample)
    assert recognised(SFTExample, format="sharegpt") == "sharegpt"


def test_only_the_first_rows_of_a_long_json_document_are_parsed(registry: Registry) -> None:
    row = json.dumps(SHARE)
    Path("d.json").write_text(f'{{"a": {row}, "b": {row},' + " " * (2 << 20) + "broken")
    assert recognised(SFTExample, "d.json") == "sharegpt"
    Path("e.json").write_text(f" [ {json.dumps(CHAT)} ,{json.dumps(CHAT)}\n, " + " " * (2 << 20) + "broken")
    assert recognised(SFTExample, "e.json") == "openai"


def problems(**dataset: Any) -> str:
    spec = {"name": "p", "datasets": {"rows": {"path": "d.jsonl", **dataset}}, "steps": {"one": {"op": "dedup", "in": "rows"}}}
    Path("p.yaml").write_text(json.dumps(spec))
    with pytest.raises(PipelineError) as wrong:
        check(Path("p.yaml"))
    return str(wrong.value)


def test_a_format_that_the_type_does_not_have_is_an_error_with_the_nearest_one(registry: Registry) -> None:
    write(SHARE)
    text = problems(type="SFTExample", format="shargpt")
    assert "SFTExample has no format 'shargpt': it has own, openai, sharegpt, alpaca" in text
    assert "did you mean 'sharegpt'?" in text
    assert "p.yaml:1:" in text
    assert "Persona has no format 'openai': it has own" in problems(type="Persona", format="openai")


def test_a_generator_has_no_format(registry: Registry) -> None:
    text = problems(type="MathProblem", path=None, generator="reasoning_gym/chain_sum", format="gsm8k")
    assert "'format' is the format of rows in files and on hubs" in text


def test_rows_in_no_format_are_an_error_that_lists_the_formats(registry: Registry) -> None:
    write({"ask": "q", "reply": "a"})
    text = problems(type="SFTExample")
    assert "d.jsonl:1: not a SFTExample: prompt is missing; the row has ask, reply" in text
    assert "formats of SFTExample that are recognised:" in text
    assert "own: prompt, completion" in text
    assert "sharegpt: conversations: [{from: human, value}" in text


def test_a_row_that_is_not_in_the_format_of_the_others_is_an_error(registry: Registry) -> None:
    write(SHARE, CHAT, SHARE)
    text = problems(type="SFTExample")
    assert "d.jsonl:2: not a SFTExample: the row is not in the format sharegpt" in text
    assert "it has messages" in text
    assert "formats of SFTExample" not in text


def plan(registry: Registry, type_: str = "SFTExample", **dataset: Any) -> SourcePlan:
    rows = {"type": type_, "path": "d.jsonl", **dataset}
    spec = {"name": "p", "datasets": {"rows": rows}, "steps": {"one": {"op": "dedup", "in": "rows"}}}
    Path("p.yaml").write_text(json.dumps(spec))
    made = make_plan(check(Path("p.yaml")), registry, select=set(), force=set())
    assert plan_rows(made, None)[0]["format"] == made.sources[0].format
    return made.sources[0]


def test_the_plan_says_which_format_was_recognised(registry: Registry) -> None:
    write({**SHARE, "lang": "en", "score": None})
    source = plan(registry)
    assert (source.format, source.ignored) == ("sharegpt", {"lang": 1})
    write({"prompt": [U], "completion": [A]})
    assert plan(registry).format is None


def test_a_format_is_part_of_what_a_source_is(registry: Registry) -> None:
    write(GSM)

    def of(**spec: Any) -> Any:
        dataset = DatasetSpec.model_validate({"type": "MathProblem", "path": "d.jsonl", **spec})
        return identity(dataset, MathProblem, Path(), 0, row_format=format_of_files(dataset, MathProblem, Path()))

    assert of() == of(format="gsm8k")
    assert of()["format"]["name"] == "gsm8k"
    assert "_MARK" in json.dumps(of()["format"]["code"])
    assert "format" not in of(format="own")


def test_an_explicit_format_reads_rows_that_mix_its_forms(registry: Registry) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    write({"prompt": [U], "completion": [A]}, {"prompt": [U], "completion": [call]})
    assert "must be text" in problems(type="SFTExample")
    assert plan(registry, format="trl").rows == 2


def test_columns_that_no_format_needs_are_not_read(registry: Registry) -> None:
    pq.write_table(pa.Table.from_pylist([{**CHAT, "extra": "x" * 100}]), "d.parquet")
    assert recognised(SFTExample, "d.parquet") == "openai"
    assert plan(registry, path="d.parquet").ignored == {"extra": 1}


def test_formats_of_other_types_are_not_recognised(registry: Registry) -> None:
    write(CHAT)
    assert recognised(PreferencePair) is None


PIPELINE = (
    "name: p\ndatasets: {rows: {type: %s, path: d.jsonl%s}}\nsteps: {one: {op: dedup, in: rows, with: {method: exact}}}\n"
)


def test_a_hit_says_its_format_and_naming_it_changes_nothing(registry: Registry, in_process: None) -> None:
    write(GSM)
    first = run_text(PIPELINE % ("MathProblem", ""), registry)
    assert [(source.status, source.format) for source in first.sources] == [("READ", "gsm8k")]
    again = run_text(PIPELINE % ("MathProblem", ", format: gsm8k"), registry)
    assert [(source.status, source.format) for source in again.sources] == [("HIT", "gsm8k")]
    assert run_document(again)["sources"][0]["format"] == "gsm8k"
    export(registry, "p/rows", "jsonl", Path("out"))
    assert "format: gsm8k" in Path("out/README.md").read_text()
    own = run_text(PIPELINE % ("MathProblem", ", format: own"), registry)
    assert [(source.status, source.format) for source in own.sources] == [("READ", None)]
    assert ask(registry, 'select answer from "p/rows"') == [("Add.\n#### 2",)]


def test_a_file_that_grew_keeps_its_format_unless_its_first_rows_have_another(registry: Registry, in_process: None) -> None:
    write(GSM)
    assert run_text(PIPELINE % ("MathProblem", ""), registry).sources[0].format == "gsm8k"
    write(GSM, {**GSM, "question": "2 + 2?"})
    assert run_text(PIPELINE % ("MathProblem", ""), registry).sources[0].format == "gsm8k"
    assert ask(registry, 'select answer from "p/rows"') == [("2",), ("2",)]
    write(GSM, {**GSM, "question": "2 + 2?"}, PLAIN)
    assert run_text(PIPELINE % ("MathProblem", ""), registry).sources[0].format is None
    assert ask(registry, 'select answer from "p/rows"') == [("Add.\n#### 2",), ("Add.\n#### 2",), ("2",)]
