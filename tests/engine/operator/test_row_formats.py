"""A record type names the module of its formats, whose mistakes are reported when the formats are first needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.operator import DeclarationError, Record, Reject, RowFormat, formats
from engine.operator.row_formats import formats_of, readable, writable
from engine.sources.ingest import ingest
from engine.sources.recognition import format_of_files
from engine.spec.pipeline_spec import DatasetSpec
from registry import Registry


def fits(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("subject"), str) and isinstance(row.get("body"), str)


def read(row: Mapping[str, Any], left_out: Callable[[str], None]) -> dict[str, Any]:
    if not row["body"]:
        raise Reject("body is empty")
    return {"text": f"{row['subject']}: {row['body']}"}


@formats("formats_of_tickets")
class FormattedTicket(Record):
    text: str


HELPDESK = RowFormat("helpdesk", FormattedTicket, "subject, body: texts", frozenset({"subject", "body"}), fits, read)


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Gives the module of the formats its constant."""

    def define(value: Any) -> None:
        module = ModuleType("formats_of_tickets")
        module.FORMATS = value  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "formats_of_tickets", module)
        formats_of.cache_clear()

    return define


def test_rows_of_a_type_of_ones_own_are_converted(registry: Registry, workdir: Path, declare: Callable[[Any], None]) -> None:
    declare((HELPDESK,))
    rows = [{"subject": "Hi", "body": "It fails.", "id": 1}, {"subject": "Hi", "body": ""}]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DatasetSpec.model_validate({"type": "FormattedTicket", "path": "d.jsonl", "on_error": "skip"})
    found = format_of_files(spec, FormattedTicket, Path())
    assert found is HELPDESK
    got = ingest("rows", spec, FormattedTicket, Path(), 0, registry.store, row_format=found)
    assert (got.rows, got.rejected, got.format) == (1, 1, "helpdesk")
    assert registry.store.read_table(got.data[0].sha256).to_pylist() == [{"text": "Hi: It fails."}]
    [reject] = registry.store.read_table(got.side[0].sha256).to_pylist()
    assert reject["reason"] == "d.jsonl:2: in the format helpdesk: body is empty"
    assert (list(readable(FormattedTicket)), list(writable(FormattedTicket))) == (["helpdesk"], [])


def test_a_module_that_cannot_be_imported_is_named() -> None:
    formats_of.cache_clear()
    with pytest.raises(
        DeclarationError, match="formats_of_tickets, which has the formats of FormattedTicket, cannot be imported"
    ):
        formats_of(FormattedTicket)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([HELPDESK], "formats_of_tickets: FORMATS must be a tuple of RowFormat; FormattedTicket names this module"),
        ((HELPDESK, HELPDESK), "two formats of FormattedTicket have the same name"),
        ((RowFormat("own", FormattedTicket, ""),), "one is called 'own'"),
    ],
)
def test_wrong_formats_are_named_with_their_module(declare: Callable[[Any], None], value: Any, words: str) -> None:
    declare(value)
    with pytest.raises(DeclarationError, match=words):
        formats_of(FormattedTicket)
