"""Published formats are recognised and read, and fields that have no place are reported or refused, never dropped silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import PipelineError
from engine.operator import Reject
from engine.operator.row_formats import formats_of, readable
from engine.sources.ingest import Ingested, ingest
from engine.sources.recognition import format_of_files, identity_of
from engine.spec.pipeline_spec import DatasetSpec
from operators import records
from registry import Record, Registry

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats"
S, U, A, BAD = "Answer in one word.", "Which planet is the largest?", "Jupiter.", "Pluto."
CALL = {"function": {"name": "rain", "arguments": '{"city": "Oslo"}'}, "type": "function"}


@pytest.fixture(autouse=True)
def _empty_folder(workdir: Path) -> None:
    """Each test runs in an empty folder."""


def said(*turns: tuple[str, str] | dict[str, Any]) -> list[dict[str, Any]]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [turn if isinstance(turn, dict) else {"role": names[turn[0]], "content": turn[1]} for turn in turns]


ASKED = said(("u", U))
PAIR = {"prompt": ASKED, "chosen": said(("a", A)), "rejected": said(("a", BAD))}
GOOD = {"prompt": ASKED, "completion": said(("a", A))}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}

READ: dict[str, tuple[list[dict[str, Any]], dict[str, int]]] = {
    "SFTExample/openai": (
        [
            {"prompt": said(("s", S), ("u", U)), "completion": said(("a", A))},
            {"prompt": said(("u", "Hi"), ("a", "Hello."), ("u", "Which planet is red?")), "completion": said(("a", "Mars."))},
            {
                "prompt": said(
                    *(("s", S), ("u", "Rain in Oslo?")),
                    CALLED | {"tool_calls": [CALL | {"id": "c1"}]},
                    {"role": "tool", "content": "yes", "tool_call_id": "c1"},
                ),
                "completion": said({"role": "assistant", "content": "Yes.", "thinking": "The tool says yes."}),
            },
        ],
        {"source": 1, "messages[].audio": 1},
    ),
    "SFTExample/sharegpt": (
        [
            {"prompt": said(("s", S), ("u", U)), "completion": said(("a", A))},
            {"prompt": said(("s", S), ("u", "Rain in Oslo?"), CALLED, ("t", "yes")), "completion": said(("a", "Yes."))},
        ],
        {"id": 1, "conversations[].loss": 1},
    ),
    "SFTExample/alpaca": (
        [
            {"prompt": said(("u", "Name the largest.\nMars, Jupiter")), "completion": said(("a", A))},
            {"prompt": said(("s", S), ("u", "Hi"), ("a", "Hello."), ("u", U)), "completion": said(("a", A))},
        ],
        {"text": 1},
    ),
    "SFTExample/prompt_response": (
        [GOOD, {"prompt": said(("u", "Which planet is red?")), "completion": said(("a", "Mars."))}],
        {"model": 1},
    ),
    "SFTExample/trl": ([GOOD, {"prompt": said(("u", "Which planet is red?")), "completion": said(("a", "Mars."))}], {}),
    "PreferencePair/openai": ([PAIR], {"input.parallel_tool_calls": 1}),
    "PreferencePair/sharegpt": ([PAIR], {}),
    "PreferencePair/alpaca": ([PAIR], {}),
    "PreferencePair/trl": ([PAIR], {"margin": 1}),
    "PreferencePair/trl_implicit": ([PAIR], {"score_chosen": 1}),
    "PreferencePair/prompt_response": ([PAIR | {"prompt": said(("s", S), ("u", U))}], {}),
    "PreferencePair/ultrafeedback": (
        [PAIR],
        {
            "completions[] between the best and the worst": 1,
            **dict.fromkeys(("completions[].critique", "completions[].model", "models", "source"), 1),
        },
    ),
    "PreferencePair/ultrafeedback_binarized": (
        [PAIR],
        dict.fromkeys(("messages", "prompt_id", "score_chosen", "score_rejected"), 1),
    ),
    "PreferencePair/hh": ([PAIR | {"prompt": said(("u", "Hi"), ("a", "Hello."), ("u", U))}], {}),
    "LabelledExample/trl": ([GOOD | {"label": True}, {"prompt": ASKED, "completion": said(("a", BAD)), "label": False}], {}),
    "LabelledExample/sharegpt": ([GOOD | {"label": True}], {}),
    "LabelledExample/alpaca": ([{"prompt": ASKED, "completion": said(("a", BAD)), "label": False}], {}),
    "LabelledExample/prompt_response": ([{"prompt": ASKED, "completion": said(("a", BAD)), "label": False}], {}),
    "MathProblem/gsm8k": (
        [
            {"question": "Ann has 3 boxes of 24 pens. How many pens?", "answer": "72"},
            {"question": "1,000 + 1?", "answer": "1,001"},
        ],
        {"answer (all before ####)": 1},
    ),
    "MathProblem/math": (
        [
            {"question": r"What is $\frac{1}{2} + \frac{1}{4}$?", "answer": r"\frac{3}{4}"},
            {"question": "What is $2^3$?", "answer": "8", "id": "test/1.json"},
        ],
        {"level": 1, "type": 1, "solution": 1, r"solution (all but \boxed)": 1},
    ),
    "MathProblem/verl": ([{"question": "1 + 1?", "answer": "2", "source": "quiz", "id": "q1"}], {"extra_info.split": 1}),
    "Question/mmlu": (
        [
            {"question": U, "answers": ["Jupiter"], "options": ["Mars", "Jupiter", "Venus", "Earth"], "group": "astronomy"},
            {"question": "Which is first?", "answers": ["B"], "options": ["x", "x", "y", "z"], "group": "letters"},
        ],
        {},
    ),
    "Question/squad": ([{"question": U, "answers": ["Jupiter"], "id": "s1"}], {"context": 1, "title": 1}),
    "Question/triviaqa": (
        [{"question": U, "answers": ["Jupiter", "Planet Jupiter"], "id": "t1"}],
        {"answer.normalized_value": 1, "search_results": 1},
    ),
    "Question/question_answer": ([{"question": U, "answers": ["Jupiter", "Planet Jupiter"]}], {}),
    "Question/verl": ([{"question": U, "answers": ["Jupiter"], "group": "quiz"}], {}),
    "ConflictItem/poisonedrag": (
        [
            {
                **{"question": U, "correct_answer": "Jupiter", "incorrect_answer": "Pluto", "id": "test1"},
                **{"poisoned": ["Pluto is the largest planet."], "factual": []},
            }
        ],
        {},
    ),
}


def read(registry: Registry, type_name: str, path: Path | str, **spec: Any) -> tuple[Ingested, list[dict[str, Any]]]:
    record: type[Record] = getattr(records, type_name)
    dataset = DatasetSpec.model_validate({"type": type_name, "path": str(path), **spec})
    row_format = format_of_files(dataset, record, Path())
    got = ingest("rows", dataset, record, Path(), 0, registry.store, row_format=row_format)
    tables = [registry.store.read_table(data.sha256) for data in got.data]
    return got, [row.model_dump(exclude_none=True) for table in tables for row in record.from_table(table)]


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def test_every_format_has_a_fixture() -> None:
    types = ("SFTExample", "PreferencePair", "LabelledExample", "MathProblem", "Question", "ConflictItem")
    known = {f"{name}/{each}" for name in types for each in readable(getattr(records, name))}
    assert known == READ.keys() == {f"{file.parent.name}/{file.stem}" for file in FIXTURES.glob("*/*.jsonl")}


@pytest.mark.parametrize("name", READ)
def test_a_format_is_recognised_and_read_from_lines_documents_and_columns(registry: Registry, name: str) -> None:
    type_name, called = name.split("/")
    expected, left_out = READ[name]
    rows = rows_of(name)
    Path("d.json").write_text(json.dumps(rows))
    Path("e.json").write_text(json.dumps({str(place): row for place, row in enumerate(rows)}))
    for file in (FIXTURES / f"{name}.jsonl", "d.json"):
        got, found = read(registry, type_name, file)
        assert (got.format, found, got.ignored) == (called, expected, left_out)
    assert read(registry, type_name, "e.json")[0].format == called
    if name not in ("SFTExample/trl", "SFTExample/openai"):  # texts beside lists are no column
        names = dict.fromkeys(key for row in rows for key in row)
        pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in names}), "d.parquet")
        columns, found = read(registry, type_name, "d.parquet")
        assert (columns.format, found, columns.content_id) == (called, expected, got.content_id)


@pytest.mark.parametrize("name", READ)
def test_rows_of_the_types_own_fields_are_not_converted(registry: Registry, name: str) -> None:
    type_name, _ = name.split("/")
    expected, _ = READ[name]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in expected))
    got, found = read(registry, type_name, "own.jsonl")
    assert (got.format, found) == (None, expected)


@pytest.mark.parametrize("name", READ)
def test_the_code_of_a_format_can_be_fingerprinted(name: str) -> None:
    type_name, called = name.split("/")
    code = json.dumps(identity_of(readable(getattr(records, type_name))[called]))
    assert f'"name": "{called}"' in code
    assert "operators.formats." in code


def test_only_the_type_itself_has_its_formats() -> None:
    class Rated(records.SFTExample):
        score: float

    assert formats_of(records.SFTExample)
    assert not formats_of(Rated)


# -- what is refused --------------------------------------------------------------------------------------------------

U_, A_ = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:..."}}
HH = "\n\nHuman: q\n\nAssistant: {}"

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an image": (
        "SFTExample",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, IMAGE]}, A_]},
        r"openai: messages\[0\]\.content\[1\] is a part of type 'image_url', and a Message holds text only",
    ),
    "images beside texts": (
        "SFTExample",
        {"messages": [U_, A_], "images": ["a.png"]},
        "it has images, and a Message holds text",
    ),
    "a role": (
        "SFTExample",
        {"messages": [{"role": "alien", "content": "q"}, A_]},
        r"messages\[0\]\.role is 'alien'; roles are",
    ),
    "a role that is no text": (
        "SFTExample",
        {"messages": [{"role": ["x"], "content": "q"}]},
        r"messages\[0\]\.role is \['x'\]",
    ),
    "no content": (
        "SFTExample",
        {"messages": [U_, {"role": "assistant"}]},
        r"messages\[1\]\.content is missing or null, not text",
    ),
    "no message": ("SFTExample", {"messages": [U_, "a"]}, r"messages\[1\] is text, not a message with role and content"),
    "no answer": ("SFTExample", {"messages": [U_]}, r"the last turn of messages is not the assistant's \(user\)"),
    "no prompt": ("SFTExample", {"messages": [A_]}, "messages has no turn before the assistant's"),
    "nothing learned": (
        "SFTExample",
        {"messages": [U_, {**A_, "weight": 0}]},
        "the last turn has weight 0, so there is no completion",
    ),
    "a tool that is no function": (
        "SFTExample",
        {"messages": [U_, {"role": "assistant", "tool_calls": [{"type": "custom"}]}, A_]},
        r"messages\[1\]\.tool_calls\[0\]\.type is 'custom'",
    ),
    "a speaker": (
        "SFTExample",
        {"conversations": [{"from": "x", "value": "q"}]},
        r"conversations\[0\]\.from is 'x'; known are",
    ),
    "a call that is no JSON": (
        "SFTExample",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{"}]},
        r"conversations\[1\]\.value is a function call that is not JSON",
    ),
    "two system prompts": (
        "SFTExample",
        {"system": "s", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]},
        r"a system prompt twice: in system and in conversations\[0\]",
    ),
    "a history of single texts": (
        "SFTExample",
        {"instruction": "q", "output": "a", "history": [["x"]]},
        r"alpaca: history\[0\] is not \[question, answer\]",
    ),
    "other prompts": (
        "PreferencePair",
        {"chosen": [U_, A_], "rejected": [{"role": "user", "content": "r"}, A_]},
        r"differ at chosen\[0\], a turn of the user, so their prompts differ",
    ),
    "equal answers": ("PreferencePair", {"chosen": [U_, A_], "rejected": [U_, A_]}, "there is nothing to prefer"),
    "texts with nothing in common": ("PreferencePair", {"chosen": "a b", "rejected": "c d"}, "begin with the same words"),
    "a prompt of another conversation": (
        "PreferencePair",
        {"prompt": "other", "chosen": [U_, A_], "rejected": [U_, {"role": "assistant", "content": "b"}]},
        "prompt is not one of the turns that chosen and rejected begin with",
    ),
    "dialogues that part early": (
        "PreferencePair",
        {
            "chosen": HH.format("a") + "\n\nHuman: x\n\nAssistant: y",
            "rejected": HH.format("b") + "\n\nHuman: x\n\nAssistant: z",
        },
        "hh: chosen and rejected differ before their last turn",
    ),
    "equal scores": (
        "PreferencePair",
        {"instruction": "q", "completions": [{"response": x, "overall_score": 4} for x in "ab"]},
        "ultrafeedback: all completions have the score 4, so none is preferred",
    ),
    "a score that is no number": (
        "PreferencePair",
        {"instruction": "q", "completions": [{"response": x, "overall_score": "N/A"} for x in "ab"]},
        r"completions\[0\]\.overall_score is 'N/A', not a number",
    ),
    "a label that is no yes or no": (
        "LabelledExample",
        {"prompt": "q", "completion": "a", "label": 3},
        "label is 3, not true or",
    ),
    "no box": ("MathProblem", {"problem": "q", "solution": r"\boxed{1"}, r"math: solution has no answer in \\boxed"),
    "a choice that is not there": (
        "Question",
        {"question": "q", "choices": ["a", "b"], "answer": 2},
        "mmlu: answer is 2, not the number of one of the 2 choices, from 0",
    ),
    "no answer in the passage": (
        "Question",
        {"question": "q", "answers": {"text": [], "answer_start": []}},
        r"squad: answers\.text is empty: the question has no answer",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_used_is_refused_with_its_place(registry: Registry, case: tuple[str, dict[str, Any], str]) -> None:
    type_name, row, words = case
    Path("d.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(PipelineError, match=rf"d\.jsonl:1: not a {type_name}: in the format .*{words}"):
        read(registry, type_name, "d.jsonl")


# -- details ----------------------------------------------------------------------------------------------------------


def sft(registry: Registry, **row: Any) -> tuple[Ingested, dict[str, Any]]:
    Path("d.jsonl").write_text(json.dumps(row) + "\n")
    got, [found] = read(registry, "SFTExample", "d.jsonl")
    return got, found


def test_weights_say_which_turns_are_learned(registry: Registry) -> None:
    weighted = [{**A_, "weight": 0}, U_, {**A_, "weight": 1}, U_, A_]
    got, row = sft(registry, messages=[U_, *weighted])
    assert (len(row["prompt"]), len(row["completion"]), got.ignored) == (3, 3, {})
    got, row = sft(registry, messages=[U_, {**A_, "weight": 1}, U_, {**A_, "weight": 0}, U_, A_])
    assert (len(row["completion"]), got.ignored) == (1, {"messages[].weight": 1})


def test_the_old_form_of_function_calls_is_read(registry: Registry) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "rain", "arguments": '{"city": "Oslo"}'}}
    _, row = sft(registry, messages=[U_, call, {"role": "function", "name": "rain", "content": "yes"}, A_])
    assert row["prompt"][1:] == [CALLED, {"role": "tool", "content": "yes", "name": "rain"}]


def test_arguments_as_an_object_become_text(registry: Registry) -> None:
    call = {"function": {"name": "rain", "arguments": {"city": "Oslo"}}}
    _, row = sft(registry, prompt=[U_, {"role": "assistant", "content": None, "tool_calls": [call]}], completion=[A_])
    assert row["prompt"][1] == CALLED


def test_standard_implicit_prompts_end_between_words(registry: Registry) -> None:
    Path("d.jsonl").write_text(json.dumps({"chosen": "The sky is blue.", "rejected": "The sky is black."}) + "\n")
    [row] = read(registry, "PreferencePair", "d.jsonl")[1]
    assert [row[name][0]["content"] for name in ("prompt", "chosen", "rejected")] == ["The sky is", "blue.", "black."]


def test_nulls_mean_nothing_in_a_file_with_columns(registry: Registry) -> None:
    rows = [
        {"messages": [U_, {**A_, "tool_calls": None, "refusal": None}], "tools": None},
        {"messages": [{**U_, "name": "Ann"}, A_], "tools": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), "d.parquet")
    got, found = read(registry, "SFTExample", "d.parquet")
    assert found[0] == {"prompt": [U_], "completion": [A_]}
    assert found[1]["prompt"] == [{**U_, "name": "Ann"}]
    assert not [name for name in got.ignored if name.startswith("messages")]


# -- rows with any content -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "user", "####", "Human:"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "from", "text"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*path, key), *places(part, (*path, key)))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("name", READ)
def test_a_row_with_anything_in_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    type_name, called = name.split("/")
    record: type[Record] = getattr(records, type_name)
    row = data.draw(st.sampled_from(rows_of(name)))
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(row)))
        inner = row
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(JSON)
    for each in readable(record).values():
        assert each.fits
        each.fits(row)
    chosen = readable(record)[called]
    assert chosen.fits
    assert chosen.read
    if chosen.fits(row):
        try:
            fields = chosen.read(row, lambda path: None)
            record.model_validate(fields)
        except (Reject, ValidationError):
            pass
