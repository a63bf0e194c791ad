"""Make preference pairs of rows: from two texts of a row, or from the best and the worst row of a group."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from engine.operator import (
    Context,
    DescribedType,
    InputTypes,
    OutputTypes,
    Params,
    Record,
    Reject,
    RowRef,
    Table,
    Wrong,
    derived,
    described,
    did_you_mean,
    fill,
    operator,
    plain,
    row_name,
    template_problem,
)
from operators.generic.new_fields import At, type_of_field, unknown_fields
from operators.generic.turns import TextOrTurns, conversation, turn_problems, turns_of
from operators.records import LabelledExample, Message, PreferencePair

_FORMS = {
    "two texts": ("chosen", "rejected"),
    "a comparison": ("a", "b", "preferred"),
    "groups": ("group", "score", "response"),
}
"""The three ways to find pairs, each with the parameters that it needs."""


class PairParams(Params):
    """Parameters of to_pairs."""

    prompt: TextOrTurns
    chosen: str | None = None
    rejected: str | None = None
    a: str | None = None
    b: str | None = None
    preferred: str | None = None
    group: str | list[str] | None = None
    score: str | None = None
    response: str | None = None
    margin: Annotated[float, Field(ge=0)] = 0
    labelled: bool = False

    @property
    def form(self) -> str | None:
        """How pairs are found: the form whose parameters are all given."""
        given = self.model_dump(exclude_none=True).keys()
        return next((form for form, names in _FORMS.items() if given >= set(names)), None)

    @property
    def group_fields(self) -> list[str]:
        """The fields that the rows of a group have in common."""
        return [self.group] if isinstance(self.group, str) else list(self.group or ())

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Parameters that do not go together, and texts and fields that do not fit the rows."""
        record = inputs["rows"]
        given = self.model_dump(exclude_none=True)
        named = {form: [name for name in names if name in given] for form, names in _FORMS.items()}
        begun = [form for form, names in named.items() if names]
        if not begun:
            listed = "; ".join(", ".join(names) for names in _FORMS.values())
            yield Wrong(f"say where the pairs come from; give one of these: {listed}")
        elif len(begun) > 1:
            first, second = (named[form][0] for form in begun[:2])
            yield Wrong(f"{second}: it belongs to other pairs than {first}; remove one of them", (second,))
        elif missing := [name for name in _FORMS[begun[0]] if name not in given]:
            yield Wrong(f"{named[begun[0]][0]}: {', '.join(missing)} is missing", (named[begun[0]][0],))
        if self.margin and begun and begun != ["groups"]:
            yield Wrong("margin: it is for groups with a score", ("margin",))
        if not (isinstance(self.prompt, str) and _conversation_field(record, self.prompt)):
            yield from _prompt_problems(self.prompt, record)
        for name in ("chosen", "rejected", "a", "b", "response"):
            if (text := given.get(name)) is not None and (problem := _text_problem(text, record)):
                yield Wrong(f"{name}: {problem}", (name,))
        for better, worse in (("chosen", "rejected"), ("a", "b")):
            if worse in given and given.get(better) == given[worse]:
                yield Wrong(f"{worse}: {better} and {worse} are the same, {given[worse]!r}; a pair has two texts", (worse,))
        yield from self._field_problems(record)

    def _field_problems(self, record: type[Record]) -> Iterator[Wrong]:
        if self.preferred is not None:
            yield from unknown_fields(record, {("preferred",): self.preferred})
            kind = type_of_field(record, self.preferred)
            if kind is not None and not (kind.kind == "str" or {"a", "b"} <= set(kind.words)):
                yield Wrong(f"preferred: field {self.preferred!r} is {kind}; expected a | b | tie", ("preferred",))
        by: dict[At, str] = {
            ("group",) if isinstance(self.group, str) else ("group", place): name
            for place, name in enumerate(self.group_fields)
        }
        yield from unknown_fields(record, by)
        if self.group is not None and not self.group_fields:
            yield Wrong("group: name the fields that the rows of a group have in common", ("group",))
        if self.score is not None:
            yield from unknown_fields(record, {("score",): self.score})
            kind = type_of_field(record, self.score)
            if kind is not None and not _is_number(kind):
                yield Wrong(f"score: field {self.score!r} is {kind}; expected a number", ("score",))

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """Pairs, or their texts with labels."""
        return {"out": LabelledExample if self.labelled else PreferencePair}


class _Pair(NamedTuple):
    """A prompt, the better and the worse completion, and the rows that these come from."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    rows: tuple[RowRef, ...]


class _Dropped(Exception):  # noqa: N818  (it is an outcome)
    """No pair can be made; the message says why."""


@operator(outputs=Record)
def to_pairs(rows: Table[Record], ctx: Context, params: PairParams) -> Iterator[Record]:
    """Make preference pairs, for train_dpo, or examples with labels, for train_kto.

        steps:
          two_texts:
            op: to_pairs
            in: compared
            with: {prompt: "{{ question }}", a: short, b: long, preferred: preferred}
          best_and_worst:
            op: to_pairs
            in: judged
            with: {prompt: "{{ question }}", group: question, score: score, response: response, margin: 1}

    Pairs come from one of three places: from two texts of a row (`chosen`, `rejected`); from two texts and a comparison (`a`,
    `b`, `preferred`, as `compare` makes it), where a tie makes no pair; or from groups of rows with a score (`group`, `score`,
    `response`), of which the best and the worst row make a pair (of several, the first). Texts are fields or templates.

    Rows that make no pair are counted and left out. Metrics: `pairs`; `dropped` by cause (`tie`, `equal texts`, `empty text`,
    `one row in the group`, `no margin`, `no score`, `different prompts in the group`, ...).

    Args:
        prompt: a template, a conversation (a list of `{role, content}`), or a field with a conversation.
        chosen, rejected: the better and the worse text: a field, or a template.
        a, b: two texts, of which `preferred` says which is better.
        preferred: the field with `a`, `b` or `tie`.
        group: the field, or the fields, that the rows of a group have in common.
        score: the field with a row's score; higher is better.
        response: a row's text: a field, or a template.
        margin: the smallest difference between the scores of a pair. Equal scores never make one.
        labelled: yield the two texts of each pair as LabelledExample, the better one with the label true.
    """
    for dropped in ("equal texts", "empty text"):
        ctx.count("dropped", dropped, by=0)
    for found in _in_groups(rows, params) if params.form == "groups" else _in_rows(rows, params):
        if isinstance(found, _Dropped):
            ctx.count("dropped", str(found))
            continue
        ctx.count("pairs")
        prompt, chosen, rejected, refs = found
        if not params.labelled:
            yield derived(PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected), *refs)
            continue
        yield derived(LabelledExample(prompt=prompt, completion=chosen, label=True), refs[0])
        yield derived(LabelledExample(prompt=prompt, completion=rejected, label=False), refs[-1])


def _in_rows(rows: Table[Record], params: PairParams) -> Iterator[_Pair | _Dropped]:
    for place, row in enumerate(rows):
        try:
            better, worse = _sides(row, params)
            yield _checked(_prompt(row, params), _completion(row, better), _completion(row, worse), (rows.ref(place),))
        except (_Dropped, Reject) as why:
            yield why if isinstance(why, _Dropped) else _Dropped(_cause(why))


def _sides(row: Record, params: PairParams) -> tuple[str, str]:
    if params.preferred is None:
        assert params.chosen is not None
        assert params.rejected is not None
        return params.chosen, params.rejected
    assert params.a is not None
    assert params.b is not None
    verdict = plain(row)[params.preferred]
    if verdict == "tie":
        raise _Dropped("tie")
    if verdict not in ("a", "b"):
        raise _Dropped("neither a nor b preferred")
    return (params.a, params.b) if verdict == "a" else (params.b, params.a)


def _in_groups(rows: Table[Record], params: PairParams) -> Iterator[_Pair | _Dropped]:
    assert params.score is not None
    assert params.response is not None
    columns = [rows.arrow.column(name).to_pylist() for name in params.group_fields]
    groups: dict[str, list[tuple[float, int]]] = {}
    for place, score in enumerate(rows.arrow.column(params.score).to_pylist()):
        key = json.dumps([column[place] for column in columns], sort_keys=True, default=str)
        members = groups.setdefault(key, [])
        if score is None or not math.isfinite(float(score)):
            yield _Dropped("no score")
        else:
            members.append((float(score), place))
    for members in groups.values():
        try:
            yield _of_group(rows, params.response, params, members)
        except (_Dropped, Reject) as why:
            yield why if isinstance(why, _Dropped) else _Dropped(_cause(why))


def _of_group(rows: Table[Record], response: str, params: PairParams, members: Sequence[tuple[float, int]]) -> _Pair:
    if not members:
        raise _Dropped("no row with a score in the group")
    if len(members) == 1:
        raise _Dropped("one row in the group")
    best = max(members, key=lambda each: (each[0], -each[1]))
    worst = min(members)
    if best[0] <= worst[0] or best[0] - worst[0] < params.margin - 1e-9:
        raise _Dropped("no margin")
    better, worse = rows[best[1]], rows[worst[1]]
    prompt = _prompt(better, params)
    if _prompt(worse, params) != prompt:
        raise _Dropped("different prompts in the group")
    refs = rows.ref(best[1]), rows.ref(worst[1])
    return _checked(prompt, _completion(better, response), _completion(worse, response), refs)


def _checked(prompt: list[Message], chosen: list[Message], rejected: list[Message], refs: tuple[RowRef, ...]) -> _Pair:
    if not all(any(each.content.strip() for each in turns) for turns in (prompt, chosen, rejected)):
        raise _Dropped("empty text")
    if chosen == rejected:
        raise _Dropped("equal texts")
    return _Pair(prompt, chosen, rejected, refs)


def _cause(why: Reject) -> str:
    return "empty text" if "is empty" in str(why) else "a template fails"


def _prompt(row: Record, params: PairParams) -> list[Message]:
    if isinstance(params.prompt, str) and _conversation_field(type(row), params.prompt):
        return _messages(plain(row)[params.prompt])
    if _is_field(params.prompt, type(row)):
        value = plain(row)[params.prompt]
        return [Message(role="user", content="" if value is None else str(value).strip())]
    return [Message.model_validate(each) for each in conversation(turns_of(params.prompt), row)]


def _completion(row: Record, text: str) -> list[Message]:
    if _conversation_field(type(row), text):
        return _messages(plain(row)[text])
    fields = plain(row)
    if _is_field(text, type(row)):
        content = "" if fields[text] is None else str(fields[text])
    else:
        content = fill(text, fields)
    return [Message(role="assistant", content=content.strip())]


def _messages(turns: Sequence[dict[str, Any]] | None) -> list[Message]:
    if any(each["role"] not in ("system", "user", "assistant") for each in turns or ()):
        raise _Dropped("a role that is not system, user or assistant")
    return [Message(role=each["role"], content=each["content"]) for each in turns or ()]


# -- what a text can be -------------------------------------------------------------------------------------------------


def _is_field(text: Any, record: type[Record]) -> bool:
    return isinstance(text, str) and described(record).field(text) is not None


def _conversation_field(record: type[Record], name: str) -> bool:
    """Whether a field of this name has a conversation."""
    kind = type_of_field(record, name)
    if kind is None or kind.kind != "list" or kind.item is None:
        return False
    return {"role", "content"} <= {field.name for field in kind.item.fields}


def _prompt_problems(prompt: Any, record: type[Record]) -> Iterator[Wrong]:
    if not isinstance(prompt, str):
        yield from turn_problems(prompt, record, "prompt")
    elif problem := _text_problem(prompt, record):
        yield Wrong(f"prompt: {problem}", ("prompt",))


def _text_problem(text: str, record: type[Record]) -> str | None:
    """Why a parameter is neither a field with a text nor a template."""
    kind = type_of_field(record, text)
    if kind is not None:
        fits = kind.kind not in ("list", "dict", "struct", "bytes") or _conversation_field(record, text)
        return None if fits else f"field {text!r} is {kind}; expected a text or a conversation"
    if "{" not in text and text.isidentifier():
        hint = did_you_mean(text, record.model_fields)
        return f"{row_name(record)} has no field {text!r}" + (f"; {hint}" if hint else "")
    return template_problem(text, record)


def _is_number(kind: DescribedType) -> bool:
    return kind.kind in ("int", "float") or (kind.kind == "words" and all(isinstance(each, int) for each in kind.words))
