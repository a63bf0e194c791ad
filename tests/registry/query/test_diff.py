"""`compare` finds what differs between two versions, exactly: fields, rows by content or by key, files of models."""

from __future__ import annotations

import datetime as dt
import math
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import create_model

from registry import DataObject, Draft, Model, QueryError, Record, Registry, StoredFile
from registry.query import diff
from registry.query.diff import Change, Diff, RowSample
from registry.records.content import content_id
from registry.records.schema import fields_of


class Problem(Record):
    id: str | None
    question: str
    answer: int = 0


class Part(Record):
    text: str | None
    score: float


class Everything(Record):
    """Each kind of value, with and without null."""

    key: int
    number: float | None = None
    raw: bytes = b""
    at: dt.datetime | None = None
    part: Part | None = None
    parts: list[Part | None] | None = None
    tags: dict[str, int] = {}


def compare(registry: Registry, old: str, new: str | None = None, **more: Any) -> Diff:
    """The difference, in a separate session."""
    with registry.session() as session:
        return diff.compare(session, old, new, **more)


def commit(registry: Registry, rows: Sequence[Record], record: type[Record] | None = None, name: str = "p/a") -> int:
    """The rows as the next version of a name, in two objects; returns its number."""
    record = record or type(rows[0])
    table = record.to_table(rows)
    half = len(rows) // 2
    data = []
    for piece in (table.slice(0, half), table.slice(half)):
        stored = registry.store.put_table(piece)
        data.append(DataObject(sha256=stored.sha256, rows=piece.num_rows, bytes=stored.bytes))
    draft = Draft(
        name=name,
        kind=record.registry_kind,
        type=record.type_name(),
        fields=fields_of(record.arrow_schema()),
        content_id=content_id(record.arrow_schema(), [table]),
        pipeline="p",
        step="a",
        op="test",
        output="out",
        step_key=uuid.uuid4().hex,
        key_object=data[0],
        data=tuple(data),
    )
    [made] = registry.catalog.commit([draft], "run", None)
    return made.version


def problems(*numbers: int) -> list[Problem]:
    return [Problem(id=str(number), question=f"What is {number} + 1?", answer=number + 1) for number in numbers]


def test_equal_content_is_identical_and_no_row_is_read(registry: Registry) -> None:
    commit(registry, problems(1, 2))
    commit(registry, problems(1, 2))
    for path in registry.store.root.glob("*/*"):
        path.unlink()
    found = compare(registry, "p/a@1", "p/a@2", key=["id"])
    assert found.identical
    assert found.rows is not None
    assert (found.rows.unchanged, found.rows.added, found.rows.removed, found.rows.moved) == (2, 0, 0, 0)
    assert found.fields.relation == "same"


def test_by_content_each_copy_of_a_row_counts(registry: Registry) -> None:
    a, b, c = problems(1, 2, 3)
    commit(registry, [a, a, b, c])
    commit(registry, [b, a, b, b])
    rows = compare(registry, "p/a@1", "p/a@2").rows
    assert rows is not None
    assert (rows.unchanged, rows.added, rows.removed, rows.changed, rows.moved) == (2, 2, 2, 0, None)
    assert rows.samples_added == (RowSample(3, 2, b.model_dump()),)
    assert rows.samples_removed == (RowSample(1, 1, a.model_dump()), RowSample(3, 1, c.model_dump()))


def test_moved_rows_are_distinguished_from_changed_rows(registry: Registry) -> None:
    a, b = problems(1, 2)
    commit(registry, [a, b, a])
    commit(registry, [a, a, b])
    rows = compare(registry, "p/a@1", "p/a@2").rows
    assert rows is not None
    assert (rows.unchanged, rows.added, rows.removed, rows.moved) == (3, 0, 0, 2)
    assert rows.suggested_key is None


def test_by_key_changes_are_counted_by_field_and_shown_before_and_after(registry: Registry) -> None:
    commit(registry, problems(1, 2, 3, 4))
    _, two, three, four = problems(1, 2, 3, 4)
    changed = [three.model_copy(update={"answer": 7}), two.model_copy(update={"answer": 8, "question": "What?"})]
    commit(registry, [*problems(9), *changed, four])
    by_content = compare(registry, "p/a@1", "p/a@2").rows
    assert by_content is not None
    assert (by_content.added, by_content.removed, by_content.suggested_key) == (3, 3, "id")
    rows = compare(registry, "p/a@1", "p/a@2", key=["id"]).rows
    assert rows is not None
    assert (rows.unchanged, rows.added, rows.removed, rows.changed, rows.moved) == (1, 1, 1, 2, None)
    assert rows.fields == {"question": 1, "answer": 2}
    assert rows.samples_added == (RowSample(0, 1, problems(9)[0].model_dump()),)
    assert rows.samples_removed == (RowSample(0, 1, problems(1)[0].model_dump()),)
    assert rows.samples_changed == (
        Change(2, 1, {"id": "3"}, {"answer": (4, 7)}),
        Change(1, 2, {"id": "2"}, {"question": ("What is 2 + 1?", "What?"), "answer": (3, 8)}),
    )


def test_a_key_can_be_several_fields_or_the_row_number(registry: Registry) -> None:
    same_id = [Problem(id="x", question=question, answer=answer) for answer, question in enumerate("abc")]
    commit(registry, same_id)
    commit(registry, [same_id[1], same_id[0], same_id[2].model_copy(update={"answer": 5})])
    rows = compare(registry, "p/a@1", "p/a@2", key=["id", "question"]).rows
    assert rows is not None
    assert (rows.unchanged, rows.changed, rows.moved) == (2, 1, 2)
    rows = compare(registry, "p/a@1", "p/a@2", key=["row"], samples=1).rows
    assert rows is not None
    assert (rows.unchanged, rows.changed, rows.fields) == (0, 3, {"question": 2, "answer": 3})
    assert rows.samples_changed == (Change(0, 0, {}, {"question": ("a", "b"), "answer": (0, 1)}),)


def test_a_key_that_is_not_unique_is_refused_with_advice(registry: Registry) -> None:
    commit(registry, problems(1, 2, 3))
    commit(registry, [*problems(1, 2, 1), Problem(id=None, question="?")])
    with pytest.raises(QueryError, match=r"key answer: 1 value occurs in more than one row of p/a@2, .* rows 0 and 2.*or no"):
        compare(registry, "p/a@1", "p/a@2", key=["answer"])
    with pytest.raises(QueryError, match=r"key answer, id: null in 1 row of p/a@2, first in row 3.*or no key"):
        compare(registry, "p/a@1", "p/a@2", key=["answer", "id"])
    with pytest.raises(QueryError, match="key nope: p/a@1 has no such field; it has answer, id, question"):
        compare(registry, "p/a@1", "p/a@2", key=["nope"])
    assert (rows := compare(registry, "p/a@1", "p/a@2").rows) is not None
    assert rows.suggested_key is None


NUMBERS = [None, 0.0, 1.5, math.nan, math.inf]
PARTS = [None, Part(text=None, score=0.0), Part(text="", score=0.0), Part(text=None, score=math.nan)]
AT = dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC)


def anything(draw: random.Random, key: int) -> Everything:
    return Everything(
        key=key,
        number=draw.choice(NUMBERS),
        raw=draw.choice([b"", b"\0", b"\0\xff"]),
        at=draw.choice([None, AT, AT.replace(microsecond=7)]),
        part=draw.choice(PARTS),
        parts=draw.choice([None, [], [None], PARTS[:1], PARTS[1:], PARTS[:0:-1]]),
        tags=draw.choice([{}, {"a": 1}, {"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    )


def say(row: Record) -> str:
    """A row as text: NaN equals NaN there, as in SQL."""
    return repr(row)


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_those_of_plain_python_for_every_kind_of_value(registry: Registry, seed: int) -> None:
    draw = random.Random(seed)
    pool = [anything(draw, key) for key in range(40)]
    versions = [[draw.choice(pool) for _ in range(60)] for _ in range(2)]
    for rows in versions:
        commit(registry, rows)
    was, now = (Counter(map(say, rows)) for rows in versions)
    found = compare(registry, "p/a@1", "p/a@2", samples=1000).rows
    assert found is not None
    assert (found.unchanged, found.added, found.removed) == ((was & now).total(), (now - was).total(), (was - now).total())
    for counted, samples, rows in (
        (now - was, found.samples_added, versions[1]),
        (was - now, found.samples_removed, versions[0]),
    ):
        assert {say(rows[sample.row]): sample.copies for sample in samples} == dict(counted)

    keyed = [
        {row.key: row if draw.random() < 0.5 else anything(draw, row.key) for row in draw.sample(pool, 30)} for _ in range(2)
    ]
    for by_key in keyed:
        commit(registry, list(by_key.values()))
    found = compare(registry, "p/a@3", "p/a@4", key=["key"]).rows
    assert found is not None
    both = keyed[0].keys() & keyed[1].keys()
    changed = Counter(
        name
        for key in both
        for name in Everything.model_fields
        if repr(getattr(keyed[0][key], name)) != repr(getattr(keyed[1][key], name))
    )
    assert (found.added, found.removed) == (30 - len(both), 30 - len(both))
    assert found.changed == sum(say(keyed[0][key]) != say(keyed[1][key]) for key in both)
    assert found.unchanged == len(both) - found.changed
    assert found.fields == dict(changed)


def test_numbers_are_compared_as_in_sql(registry: Registry) -> None:
    record = other(number=(float, ...))
    for zero in (0.0, -0.0):
        commit(registry, [record(number=zero), record(number=math.nan)])
    found = compare(registry, "p/a@1", "p/a@2")
    assert not found.identical
    assert found.rows is not None
    assert (found.rows.unchanged, found.rows.moved) == (2, 0)


def other(name: str = "Other", /, **fields: Any) -> type[Record]:
    return create_model(name, __base__=Record, **fields)


def test_a_new_optional_field_is_compatible_and_rows_are_compared_by_the_fields_that_both_have(registry: Registry) -> None:
    wider = other(id=(str | None, ...), question=(str, ...), answer=(int, 0), persona=(str | None, None))
    commit(registry, problems(1, 2))
    commit(registry, [wider(**row.model_dump(), persona="a nurse") for row in problems(1, 3)])
    found = compare(registry, "p/a@1", "p/a@2")
    assert (found.fields.relation, found.fields.added, found.fields.reasons) == ("compatible", {"persona": "str?"}, ())
    assert found.rows is not None
    assert found.rows.compared == ("id", "question", "answer")
    assert (found.rows.unchanged, found.rows.added, found.rows.removed) == (1, 1, 1)
    assert found.rows.samples_added[0].values["persona"] == "a nurse"


def test_an_incompatible_change_of_fields_has_reasons(registry: Registry) -> None:
    changed = other(id=(str, ...), answer=(str | None, None), level=(int, ...))
    commit(registry, problems(1, 2))
    commit(registry, [changed(id="1", answer="2", level=1)])
    found = compare(registry, "p/a@1", "p/a@2")
    assert found.fields.relation == "incompatible"
    assert found.fields.removed == {"question": "str"}
    assert found.fields.changed == {"id": ("str?", "str"), "answer": ("int", "str?")}
    assert found.fields.reasons == (
        "field 'id' is no longer optional, so older rows may lack it",
        "field 'question' (str) was removed",
        "field 'answer' was int and is str?",
        "field 'level' (int) is new and not optional, so older rows lack it",
    )
    assert found.rows is not None
    assert (found.rows.compared, found.rows.unchanged, found.rows.removed) == (("id",), 1, 1)
    with pytest.raises(QueryError, match="key answer: it has different types in p/a@1 and p/a@2"):
        compare(registry, "p/a@1", "p/a@2", key=["answer"])
    back = compare(registry, "p/a@2", "p/a@1").fields
    assert "field 'id' may now be null, which readers of str refuse" in back.reasons


def test_a_nested_record_can_be_widened_like_a_row(registry: Registry) -> None:
    turns = (
        other("Turn", role=(str, ...), score=(float, 0.0)),
        other("Turn", role=(str, ...), score=(float, 0.0), name=(str | None, None)),
        other("Turn", role=(str | None, ...), name=(str, "")),
    )
    for record in turns:
        commit(registry, [other(turns=(list[record], ...), n=(int, 1))(turns=[record(role="user")])])  # type: ignore[valid-type]
    wider = compare(registry, "p/a@1", "p/a@2")
    assert (wider.fields.relation, wider.fields.reasons) == ("compatible", ())
    assert wider.fields.changed == {
        "turns": ("list[{role: str, score: float}]", "list[{role: str, score: float, name: str?}]"),
    }
    assert wider.rows is not None
    assert (wider.rows.compared, wider.rows.unchanged) == (("n",), 1)
    assert compare(registry, "p/a@1", "p/a@3").fields.reasons == (
        "field 'turns[].role' may now be null, which readers of str refuse",
        "field 'turns[].score' (float) was removed",
        "field 'turns[].name' (str) is new and not optional, so older rows lack it",
    )


def test_fields_in_another_order_are_the_same_fields(registry: Registry) -> None:
    swapped = other(answer=(int, ...), question=(str, ...), id=(str | None, ...))
    commit(registry, problems(1, 2))
    commit(registry, [swapped(**row.model_dump()) for row in problems(1, 2)])
    found = compare(registry, "p/a@1", "p/a@2")
    assert (found.identical, found.fields.relation, found.fields.reordered) == (False, "same", True)
    assert found.rows is not None
    assert (found.rows.unchanged, found.rows.moved) == (2, 0)


def test_fields_may_have_any_names(registry: Registry) -> None:
    names = ["id", 'a "b"; drop view x', "c0", "select", "Row_", "old_row", "größe", "$columns"]
    odd = other(**dict.fromkeys(names, (int, ...)))
    was = {name: place for place, name in enumerate(names)}
    now = was | {name: -was[name] for name in names[1::2]}
    commit(registry, [odd(**was)])
    commit(registry, [odd(**now)])
    rows = compare(registry, "p/a@1", "p/a@2", key=["id"]).rows
    assert rows is not None
    assert rows.fields == dict.fromkeys(names[1::2], 1)
    assert rows.samples_changed[0].fields == {name: (was[name], now[name]) for name in names[1::2]}
    by_content = compare(registry, "p/a@1", "p/a@2").rows
    assert by_content is not None
    assert (by_content.added, by_content.removed, by_content.suggested_key) == (1, 1, "id")
    by_odd = compare(registry, "p/a@1", "p/a@2", key=[names[2], "row"]).rows
    assert by_odd is not None
    assert by_odd.fields == rows.fields


def test_versions_without_rows_or_without_a_common_field(registry: Registry) -> None:
    commit(registry, problems(1))
    commit(registry, [], Problem)
    commit(registry, [], other(question=(str, ...)))
    commit(registry, [other(word=(str, ...))(word="x")])
    for key in ([], ["question"]):
        gone = compare(registry, "p/a@1", "p/a@2", key=key).rows
        assert gone is not None
        assert (gone.unchanged, gone.added, gone.removed, len(gone.samples_removed)) == (0, 0, 1, 1)
        none = compare(registry, "p/a@2", "p/a@3", key=key).rows
        assert none is not None
        assert (none.unchanged, none.added, none.removed, none.moved) == (0, 0, 0, 0)
    assert compare(registry, "p/a@1", "p/a@4").rows is None


def test_models_are_compared_as_one_row_and_file_by_file(registry: Registry) -> None:
    def model(config: str, **files: str) -> Model:
        stored = [StoredFile(name=name, sha256=sha256 * 64, bytes=1) for name, sha256 in files.items()]
        return Model(base_model="tiny", format="adapter", config=config, files=stored)

    commit(registry, [model("{}", tokenizer="a", weights="b", notes="c")])
    commit(registry, [model('{"lr": 1}', tokenizer="a", weights="d", readme="e")])
    found = compare(registry, "p/a@1", "p/a@2")
    assert found.files is not None
    assert (found.files.added, found.files.removed, found.files.changed) == (("readme",), ("notes",), ("weights",))
    assert found.files.unchanged == 1
    assert found.rows is not None
    assert (found.rows.key, found.rows.changed, found.rows.fields) == (("row",), 1, {"files": 1, "config": 1})
    assert found.rows.samples_changed[0].fields["config"] == ("{}", '{"lr": 1}')


def test_one_name_is_compared_with_its_previous_version(registry: Registry) -> None:
    run = registry.catalog.begin_run("p", {})
    for number in (1, 2, 3):
        commit(registry, problems(number))
    registry.catalog.end_run(run, "succeeded", refs={"p/a": 3})
    assert [(str(found.old), str(found.new)) for found in (compare(registry, "p/a"), compare(registry, "p/a@2"))] == [
        ("p/a@2", "p/a@3"),
        ("p/a@1", "p/a@2"),
    ]
    with pytest.raises(
        QueryError, match=r"p/a@1 is the first version of p/a, so there is none before it\. Name a version to compare"
    ):
        compare(registry, "p/a@1")
    with pytest.raises(QueryError, match="no version 7"):
        compare(registry, "p/a", "p/a@7")
