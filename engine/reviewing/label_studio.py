"""Rows as tasks for Label Studio, the labelling interface that shows them, and what its export says.

A task's `data` has the fields of the row, as text where they are none, and `engine_queue` and `engine_row`, by which the export
is read. Decisions that exist are predictions with the reviewer as their `model_version`: Label Studio refuses annotations by
people whom it does not know, and would take all others for those of the user who imports them.

Source of the formats: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from engine.errors import PipelineError, Position, Problem
from engine.reviewing.field_texts import as_text, from_text
from engine.reviewing.incoming import Incoming
from registry import Decision, Record, ReviewTask
from registry.records.described import DescribedField, DescribedType, described

QUEUE, ROW = "engine_queue", "engine_row"
_SPACE = re.compile(r"[\s,]*")
_VERDICT, _LABEL, _REASON, _EDIT = "verdict", "label", "reason", "new_"


def tasks_of(
    rows: Iterable[tuple[str, Record]], queue: str, decisions: Mapping[str, Sequence[Decision]]
) -> Iterator[dict[str, Any]]:
    """The tasks of some rows.

    Args:
        rows: each with its id.
        queue: the review; empty if none asks about them.
        decisions: the decisions that count, by row.
    """
    for row_id, row in rows:
        fields = row.model_dump(mode="json")
        shown = {name: value if value and _is_chat_field(type(row), name) else as_text(value) for name, value in fields.items()}
        made = decisions.get(row_id, ())
        yield {
            "data": {**shown, ROW: row_id, **({QUEUE: queue} if queue else {})},
            "predictions": [{"model_version": each.reviewer, "result": list(_results(each, type(row)))} for each in made],
        }


def interface(record: type[Record], task: ReviewTask) -> str:
    """The labelling interface, for the settings of a Label Studio project."""
    fields = described(record).fields
    target = quoteattr(f"field_{fields[0].name}")
    shown = "".join(f"{_title(field.name)}  {_shown(field)}\n" for field in fields)
    head = _title(task.instructions, size=6) if task.instructions else ""
    edits = "".join(_edit(name, target) for name in task.fields)
    labels = _title("Label") + _choices(_LABEL, task.labels, target, task.choice, required=False) if task.labels else ""
    verdicts = _title("Verdict") + _choices(_VERDICT, ("approve", "reject", "edit", "skip"), target, "single", required=True)
    reason = f'  <TextArea name="{_REASON}" toName={target} maxSubmissions="1" placeholder="why it is rejected"/>\n'
    return f"<View>\n{head}{shown}{labels}{verdicts}{reason}{edits}</View>\n"


def _edit(name: str, target: str) -> str:
    title = _title(f"To edit {name}, change it here and choose edit", size=6)
    box = f'<TextArea name={quoteattr(_EDIT + name)} toName={target} value={quoteattr("$" + name)} editable="true" '
    return f'{title}  {box}maxSubmissions="1" placeholder={quoteattr(f"new value of {name}")}/>\n'


def _title(text: str, size: int = 5) -> str:
    return f'  <Header value={quoteattr(text)} size="{size}"/>\n'


def _choices(name: str, values: Iterable[str], target: str, choice: str, *, required: bool) -> str:
    options = "".join(
        f'    <Choice value={quoteattr(value)} hotkey="{number}"/>\n'
        if name == _LABEL and number < 10
        else f"    <Choice value={quoteattr(value)}/>\n"
        for number, value in enumerate(values, 1)
    )
    needed = ' required="true"' if required else ""
    return f'  <Choices name="{name}" toName={target} choice="{choice}"{needed}>\n{options}  </Choices>\n'


def _shown(field: DescribedField) -> str:
    name, value = quoteattr(f"field_{field.name}"), quoteattr("$" + field.name)
    if _is_chat(field.type):
        return f'<Paragraphs name={name} value={value} layout="dialogue" nameKey="role" textKey="content"/>'
    return f"<Text name={name} value={value}/>"


def _is_chat_field(record: type[Record], name: str) -> bool:
    field = described(record).field(name)
    return field is not None and _is_chat(field.type)


def _is_chat(about: DescribedType) -> bool:
    item = about.item
    names = {field.name: field.type.kind for field in item.fields} if item and item.kind == "struct" else {}
    return about.kind == "list" and names.get("role") in ("str", "words") and names.get("content") == "str"


def _results(decision: Decision, record: type[Record]) -> Iterator[dict[str, Any]]:
    target = f"field_{next(iter(record.model_fields))}"

    def result(name: str, kind: str, value: Any) -> dict[str, Any]:
        return {"from_name": name, "to_name": target, "type": kind, "value": {"text" if kind == "textarea" else kind: value}}

    yield result(_VERDICT, "choices", [decision.verdict])
    if decision.labels:
        yield result(_LABEL, "choices", list(decision.labels))
    if decision.reason:
        yield result(_REASON, "textarea", [decision.reason])
    for name, value in decision.fields.items():
        yield result(_EDIT + name, "textarea", [as_text(value)])


# -- what it exports ----------------------------------------------------------------------------------------------------


def read_export(file: Path, types: Callable[[str], type[Record] | None]) -> tuple[list[Incoming], list[Problem]]:
    """What an export of Label Studio (JSON) says, annotation by annotation, and what is wrong with it.

    Args:
        types: the type of the rows of a review, by its name; None if there is none.
    """
    found: list[Incoming] = []
    problems: list[Problem] = []
    for place, task in _placed(file):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or ROW not in data:
            hint = "only tasks that `--to label-studio` wrote can be read"
            problems.append(Problem(f"the task has no {ROW} in its data", place, hint))
            continue
        queue = data.get(QUEUE)
        record = types(queue) if isinstance(queue, str) else None
        for each in _list(task.get("annotations")):
            found.append(_incoming(place, data, each, record, problems))
        if not _list(task.get("annotations")):
            found.append(Incoming(place, queue=queue))
    return found, problems


def _placed(file: Path) -> Iterator[tuple[Position, Any]]:
    """The tasks of an export, each with the line and the column at which it begins."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError([Problem(f"{file} is not UTF-8: {error.reason}")]) from error
    decoder = json.JSONDecoder()
    try:
        json.loads(text)  # the whole, so that what follows meets nothing but tasks
        start = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
        if text[start : start + 1] != "[":
            raise json.JSONDecodeError("this is not a list of tasks", text, start)
        start = _SPACE.match(text, start + 1).end()  # type: ignore[union-attr]
        line, counted = 1, 0
        while text[start] != "]":
            line += text.count("\n", counted, start)
            counted = start
            task, end = decoder.raw_decode(text, start)
            yield Position(str(file), line, start - text.rfind("\n", 0, start)), task
            start = _SPACE.match(text, end).end()  # type: ignore[union-attr]
    except (json.JSONDecodeError, RecursionError) as error:
        where = Position(str(file), error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else None
        why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        hint = "export from Label Studio as JSON; what `engine reviews export` wrote needs no --from"
        raise PipelineError([Problem(f"not an export of Label Studio: {why}", where, hint)]) from error


def _incoming(
    place: Position, data: Mapping[str, Any], annotation: Any, record: type[Record] | None, problems: list[Problem]
) -> Incoming:
    about = annotation if isinstance(annotation, dict) else {}
    values: dict[str, Any] = {}
    for each in _list(about.get("result")):
        if isinstance(each, dict) and isinstance(each.get("value"), dict):
            values[str(each.get("from_name"))] = each["value"].get("choices", each["value"].get("text"))
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(_EDIT):
            own = name.removeprefix(_EDIT)
            text = "\n".join(value) if isinstance(value, list) else value
            # The interface has the present value in each field that may be edited.
            if text != as_text(data.get(own)):
                fields[own] = _value(text, own, record, place, problems)
    verdict = "skip" if about.get("was_cancelled") else next(iter(_list(values.get(_VERDICT))), None)
    if verdict in ("approve", "edit"):
        verdict = "edit" if fields else "approve"
    return Incoming(
        place,
        queue=data.get(QUEUE),
        row=data[ROW],
        reviewer=_person(about.get("completed_by")),
        at=about.get("updated_at") or about.get("created_at"),
        verdict=verdict,
        fields=fields if verdict == "edit" else None,
        labels=_list(values.get(_LABEL)) or None,
        reason="\n".join(map(str, _list(values.get(_REASON)))) or None,
    )


def _value(text: Any, name: str, record: type[Record] | None, place: Position, problems: list[Problem]) -> Any:
    field = described(record).field(name) if record else None
    if field is None or not isinstance(text, str):
        return text
    try:
        return from_text(text, field.type)
    except ValueError as error:
        problems.append(Problem(f"fields.{name}: {error}", place))
        return None


def _person(completed_by: Any) -> Any:
    """Who made an annotation: an email, or the number of a user."""
    if isinstance(completed_by, dict):
        return completed_by.get("email") or _person(completed_by.get("id"))
    return None if completed_by is None else f"label-studio user {completed_by}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
