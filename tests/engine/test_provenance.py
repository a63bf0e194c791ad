"""Sources are kept with rows and answers, and with copies of them."""

from __future__ import annotations

from engine.llm.types.completions import Completion
from engine.operator import Record, derived
from engine.provenance import CallRef, RowRef, marked, sources_of


class Note(Record):
    text: str


def test_a_changed_copy_of_an_answer_is_still_that_answer() -> None:
    answer = marked(Completion(text=" yes "), CallRef("a" * 64))
    note = derived(Note(text="yes"), RowRef("notes", 3), answer.model_copy(update={"text": "yes"}))
    assert sources_of(note) == (RowRef("notes", 3), CallRef("a" * 64))


def test_sources_do_not_affect_equality_or_serialization() -> None:
    note = derived(Note(text="a"), RowRef("notes", 0))
    assert note == Note(text="a")
    assert note.model_dump() == {"text": "a"}
