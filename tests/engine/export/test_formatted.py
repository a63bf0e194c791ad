"""Rows leave in the formats of other tools, come back as they were, and a row that a format cannot express stops the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import PipelineError
from engine.export.versions import export
from engine.operator.row_formats import writable
from engine.sources.ingest import ingest
from engine.sources.recognition import format_of_files
from engine.spec.pipeline_spec import DatasetSpec
from operators.records import (
    FunctionCall,
    LabelledExample,
    MathProblem,
    Message,
    Persona,
    PreferencePair,
    Question,
    SFTExample,
    ToolCall,
)
from registry import Record, Registry
from tests.engine.export.test_export import commit, front

WRITTEN = [
    (record, name)
    for record in (SFTExample, PreferencePair, LabelledExample, MathProblem, Question)
    for name in writable(record)
]


def said(role: str, content: str, **more: Any) -> Message:
    return Message(role=role, content=content, **more)  # type: ignore[arg-type]


S, U, A, BAD = (
    said("system", "Be brief."),
    said("user", "Größter Planet?"),
    said("assistant", "Jupiter."),
    said("assistant", "Pluto."),
)
CALL = ToolCall(function=FunctionCall(name="rain", arguments='{"city": "Oslo"}'))

ROWS: dict[type[Record], list[Record]] = {
    SFTExample: [SFTExample(prompt=[S, U], completion=[A]), SFTExample(prompt=[U], completion=[BAD])],
    PreferencePair: [PreferencePair(prompt=[S, U], chosen=[A], rejected=[BAD])],
    LabelledExample: [
        LabelledExample(prompt=[U], completion=[A], label=True),
        LabelledExample(prompt=[U], completion=[BAD], label=False),
    ],
    MathProblem: [MathProblem(question="1 + 1?", answer="2", source="quiz", id="q1")],
    Question: [Question(question="Largest?", answers=["Jupiter", "the Jupiter"], group="quiz")],
}


def exported(registry: Registry, rows: list[Record], name: str) -> list[Path]:
    commit(registry, "demo/rows", [rows])
    done = export(registry, "demo/rows", name, Path("out"))
    return [Path("out") / file for file in done.files if file.endswith((".jsonl", ".parquet"))]


def back(registry: Registry, record: type[Record], file: Path, **spec: Any) -> list[Record]:
    dataset = DatasetSpec.model_validate({"type": record.type_name(), "path": str(file), **spec})
    found = format_of_files(dataset, record, Path())
    got = ingest("rows", dataset, record, Path(), 0, registry.store, row_format=found)
    assert not got.ignored
    return [row for data in got.data for row in record.from_table(registry.store.read_table(data.sha256))]


@pytest.mark.parametrize(("record", "name"), WRITTEN, ids=[f"{record.__name__}-{name}" for record, name in WRITTEN])
def test_rows_come_back_as_they_were(registry: Registry, workdir: Path, record: type[Record], name: str) -> None:
    [file] = exported(registry, ROWS[record], name)
    assert back(registry, record, file) == ROWS[record]


@pytest.mark.parametrize("name", ["openai", "sharegpt", "trl"])
def test_calls_of_tools_come_back(registry: Registry, workdir: Path, name: str) -> None:
    turns = [U, said("assistant", "", tool_calls=[CALL]), said("tool", "yes")]
    rows: list[Record] = [SFTExample(prompt=turns, completion=[A]), SFTExample(prompt=[U], completion=turns[1:2])]
    [file] = exported(registry, rows, name)
    assert back(registry, SFTExample, file, format=name) == rows


TOOLS = '[{"type": "function", "function": {"name": "rain"}}]'


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (SFTExample(prompt=[U], completion=[A], tools=TOOLS), "openai"),
        (SFTExample(prompt=[U], completion=[A], tools=TOOLS), "sharegpt"),
        (SFTExample(prompt=[U], completion=[A], tools=TOOLS), "trl"),
        (PreferencePair(prompt=[U], chosen=[A], rejected=[BAD], tools=TOOLS), "openai"),
        (PreferencePair(prompt=[U], chosen=[A], rejected=[BAD], tools=TOOLS), "sharegpt"),
        (PreferencePair(prompt=[U], chosen=[A], rejected=[BAD], tools=TOOLS), "trl"),
        (LabelledExample(prompt=[U], completion=[A], label=True, tools=TOOLS), "sharegpt"),
        (LabelledExample(prompt=[U], completion=[A], label=True, tools=TOOLS), "trl"),
    ],
)
def test_tools_come_back(registry: Registry, workdir: Path, row: Record, name: str) -> None:
    [file] = exported(registry, [row], name)
    assert back(registry, type(row), file) == [row]


@pytest.mark.parametrize("name", ["openai", "trl"])
def test_thinking_names_and_several_turns_come_back(registry: Registry, workdir: Path, name: str) -> None:
    named = said("user", "q", name="Ann")
    rows: list[Record] = [
        SFTExample(prompt=[named, A, U], completion=[said("assistant", "x", thinking="Hm."), U, A]),
        SFTExample(prompt=[named], completion=[A]),
    ]
    [file] = exported(registry, rows, name)
    assert back(registry, SFTExample, file) == rows


def test_openai_weights_say_which_turns_are_learned(registry: Registry, workdir: Path) -> None:
    [file] = exported(registry, [SFTExample(prompt=[U, A, U], completion=[A])], "openai")
    weights = [message.get("weight") for message in json.loads(file.read_text())["messages"]]
    assert weights == [None, 0, None, 1]
    assert "null" not in file.read_text()


def test_verl_gets_what_its_readers_want(registry: Registry, workdir: Path) -> None:
    [file] = exported(registry, [MathProblem(question="1 + 1?", answer="2")], "verl")
    assert file.match("data/train-*.parquet")
    assert pq.read_table(file).to_pylist() == [
        {
            "data_source": "demo/rows",
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"index": 0, "id": None},
        }
    ]
    assert front(Path("out"))["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


CANNOT: dict[str, tuple[str, Record, str]] = {
    "tools of a pair in alpaca": (
        "alpaca",
        PreferencePair(prompt=[U], chosen=[A], rejected=[BAD], tools=TOOLS),
        "it has tools, for which Alpaca has no place",
    ),
    "tools of a labelled example in alpaca": (
        "alpaca",
        LabelledExample(prompt=[U], completion=[A], label=True, tools=TOOLS),
        "it has tools, for which Alpaca has no place",
    ),
    "several turns in alpaca": (
        "alpaca",
        SFTExample(prompt=[U, A, U], completion=[A]),
        "the prompt has the turns user, assistant, user",
    ),
    "two answers in alpaca": ("alpaca", SFTExample(prompt=[U], completion=[A, A]), "the completion is not one turn"),
    "thinking in alpaca": (
        "alpaca",
        SFTExample(prompt=[U], completion=[said("assistant", "x", thinking="Hm.")]),
        "has thinking",
    ),
    "a name in sharegpt": ("sharegpt", SFTExample(prompt=[said("user", "q", name="Ann")], completion=[A]), "has name"),
    "turns out of order": ("sharegpt", SFTExample(prompt=[U, U], completion=[A]), "do not take turns"),
    "text and calls": (
        "sharegpt",
        SFTExample(prompt=[U, said("assistant", "I ask.", tool_calls=[CALL]), said("tool", "yes")], completion=[A]),
        "has text and tool_calls",
    ),
    "a learned user": ("openai", SFTExample(prompt=[U], completion=[U, A]), "does not begin with a turn of the assistant"),
    "a conversation to prefer": (
        "openai",
        PreferencePair(prompt=[U], chosen=[A, U, A], rejected=[BAD]),
        "chosen has turns that are not",
    ),
    "choices in verl": ("verl", Question(question="q", answers=["a"], options=["a", "b"]), "no place for options"),
    "unlearned turns in verl": ("verl", SFTExample(prompt=[U, A, U], completion=[A]), "verl learns every turn"),
}


@pytest.mark.parametrize("case", CANNOT.values(), ids=CANNOT)
def test_a_row_that_cannot_be_expressed_stops_the_export(
    registry: Registry, workdir: Path, case: tuple[str, Record, str]
) -> None:
    name, row, words = case
    good = ROWS[type(row)][0]
    with pytest.raises(PipelineError, match=rf"row 1 of demo/rows@1 cannot be written as {name}: .*{words}") as wrong:
        exported(registry, [good, row, good, *[row] * 9], name)
    assert "... and 5 more rows" in str(wrong.value)
    assert not Path("out").exists()


def test_a_format_that_the_type_does_not_have_is_named_with_those_it_has(registry: Registry, workdir: Path) -> None:
    commit(registry, "demo/rows", [ROWS[LabelledExample]])
    done = CliRunner().invoke(app, ["export", "demo/rows", "--to", "alpacca", "out"])
    assert "rows of type LabelledExample, which has no format 'alpacca'" in str(done.exception)
    assert "--to hf, jsonl, parquet, label-studio, sharegpt, alpaca, trl; did you mean 'alpaca'?" in str(done.exception)
    commit(registry, "demo/people", [[Persona(persona="a baker")]])
    with pytest.raises(PipelineError, match=r"type Persona, which has no format 'openai'(.|\n)*--to hf, jsonl, parquet"):
        export(registry, "demo/people", "openai", Path("out"))


def test_the_card_names_the_format(registry: Registry, workdir: Path) -> None:
    exported(registry, ROWS[SFTExample], "sharegpt")
    card = (Path("out") / "README.md").read_text()
    assert "Rows have the format `sharegpt`: conversations: " in card
    assert "## Fields" not in card


# -- what the tools read ----------------------------------------------------------------------------------------


def test_trl_accepts_what_is_written_for_it(registry: Registry, workdir: Path, tiny_model: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for record in (SFTExample, PreferencePair, LabelledExample):
        commit(registry, f"demo/{record.__name__.lower()}", [ROWS[record]])
        folder = Path(record.__name__)
        export(registry, f"demo/{record.__name__.lower()}", "trl", folder)
        [file] = folder.glob("*.jsonl")
        for row in load_dataset("json", data_files=str(file), cache_dir="cache")["train"]:
            assert is_conversational(row)
            texts = apply_chat_template(maybe_extract_prompt(row), tokenizer)
            assert all("Planet" in texts["prompt"] for _ in texts)


def test_openai_messages_are_conversations_to_trl(registry: Registry, workdir: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template

    [file] = exported(registry, ROWS[SFTExample], "openai")
    row = json.loads(file.read_text().splitlines()[0])
    assert "Jupiter." in apply_chat_template(row, AutoTokenizer.from_pretrained(tiny_model))["text"]
