"""verl's Parquet files: `data_source`, `prompt`, `ability`, `reward_model` and `extra_info` for RL, and `messages` for SFT.

verl chooses the reward function by `data_source`: it is the row's source or, if it has none, its dataset in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.operator import Place, Reject, RowFormat
from operators.formats.rows import At, LeftOut, Row, kind_of, report_rest, text_at
from operators.formats.turns import are_messages, check_no_tools, check_turns, plain_text, read_turns, user
from operators.records import MathProblem, Question, SFTExample

if TYPE_CHECKING:
    import pyarrow as pa

_RULE = "rule"


def _row(source: str, question: str, ability: str, truth: Any, id_: str | None, place: Place) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [user(question)],
        "ability": ability,
        "reward_model": {"style": _RULE, "ground_truth": truth},
        "extra_info": {"index": place.row, "id": id_},
    }


def _write_problem(row: MathProblem, place: Place) -> dict[str, Any]:
    return _row(row.source or place.dataset, row.question, "math", row.answer, row.id, place)


def _write_question(row: Question, place: Place) -> dict[str, Any]:
    if row.options is not None:
        raise Reject("it is multiple choice, and verl's rows have no place for options; put them into the question")
    return _row(row.group or place.dataset, row.question, "qa", {"target": row.answers}, row.id, place)


def _write_sft(row: SFTExample, place: Place) -> dict[str, Any]:
    check_no_tools(row, "the file of verl")
    check_turns(row.completion, "the completion")
    if len(row.completion) > 1 or any(message.role == "assistant" for message in row.prompt):
        raise Reject(
            "verl learns every turn of the assistant, and here some belong to the prompt, or the completion has several"
        )
    turns = (*row.prompt, *row.completion)
    return {"messages": [{"role": turn.role, "content": plain_text(turn, "the file of verl")} for turn in turns]}


# -- reading ---------------------------------------------------------------------------------------------------------


def _fits(row: Row) -> bool:
    return are_messages(row.get("prompt")) and isinstance(row.get("reward_model"), Mapping)


def _question(row: Row, left_out: LeftOut) -> tuple[str, Any, dict[str, Any]]:
    """(question, ground truth, id) of a row."""
    at = At.field("reward_model")
    turns = read_turns(row["prompt"], At.field("prompt"), left_out)
    if [turn["role"] for turn in turns] != ["user"]:
        raise Reject(
            f"prompt has the turns {', '.join(turn['role'] for turn in turns)}, and a question is one turn of the user"
        )
    reward, extra = row["reward_model"], row.get("extra_info") or {}
    if not isinstance(extra, Mapping):
        raise Reject(f"extra_info is {kind_of(extra)}, not an object")
    report_rest(reward, ("style", "ground_truth"), left_out, at)
    report_rest(extra, ("index", "id"), left_out, At.field("extra_info"))
    report_rest(row, ("data_source", "prompt", "ability", "reward_model", "extra_info"), left_out)
    found = {} if extra.get("id") is None else {"id": extra["id"]}
    return turns[0]["content"], reward.get("ground_truth"), found


def _read_problem(row: Row, left_out: LeftOut) -> dict[str, Any]:
    question, truth, found = _question(row, left_out)
    answer = text_at(truth, At.field("reward_model").part("ground_truth"))
    return {"question": question, "answer": answer, "source": row.get("data_source")} | found


def _read_question(row: Row, left_out: LeftOut) -> dict[str, Any]:
    question, truth, found = _question(row, left_out)
    given = truth.get("target") if isinstance(truth, Mapping) else truth
    answers = given if isinstance(given, list) else [given]
    at = At.field("reward_model").part("ground_truth")
    return {"question": question, "answers": [text_at(each, at) for each in answers], "group": row.get("data_source")} | found


# -- the files --------------------------------------------------------------------------------------------------------


def _messages() -> pa.DataType:
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _rl_schema(truth: pa.DataType) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _messages()),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", truth)])),
            ("extra_info", pa.struct([("index", pa.int64()), ("id", pa.string())])),
        ]
    )


def _problem_schema() -> pa.Schema:
    import pyarrow as pa

    return _rl_schema(pa.string())


def _question_schema() -> pa.Schema:
    import pyarrow as pa

    return _rl_schema(pa.struct([("target", pa.list_(pa.string()))]))


def _sft_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("messages", _messages())])


_USED = frozenset({"data_source", "prompt", "ability", "reward_model", "extra_info"})
_LOOKS = "data_source, prompt: one message, reward_model: {ground_truth}, extra_info: {id}"
PROBLEMS = RowFormat("verl", MathProblem, _LOOKS, _USED, _fits, _read_problem, _write_problem, _problem_schema)
QUESTIONS = RowFormat("verl", Question, _LOOKS, _USED, _fits, _read_question, _write_question, _question_schema)
SFT = RowFormat("verl", SFTExample, "messages: [{role, content}], read as `openai`", write=_write_sft, schema=_sft_schema)
