"""Fingerprints of what is registered: operators, record types and generators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from engine.fingerprint.reachable_code import Fingerprint, fingerprint
from engine.packages.catalogue import catalogue
from engine.packages.definitions import packages
from engine.packages.local_modules import local_digest
from registry import Record
from registry.records.described import description_of
from registry.storage.checked_json import json_digest


def code_of(operator: str) -> Fingerprint:
    """The fingerprint of a registered operator; the name is bare, or full (`package:name`)."""
    return _code_of(operator, local_digest())


@cache
def _code_of(operator: str, local: str) -> Fingerprint:
    return fingerprint(catalogue().operators[operator], operator.rpartition(":")[2], _project())


@cache
def code_of_source(record: type[Record], generator: str | None) -> Mapping[str, Any]:
    """The code that determines the rows of a source: the record type with its validators, and the generator."""
    about = description_of(record)  # it has no code
    found = [about.model_dump(mode="json") if about else fingerprint(record, record.type_name(), _project()).document()]
    if generator:
        found.append(code_of_function(catalogue().generators[generator].function, generator).document())
    return {"code": found}


def code_of_function(function: Callable[..., Any], label: str) -> Fingerprint:
    """The fingerprint of a function of a package with operators; `label` names it in errors."""
    return fingerprint(function, label, _project())


def _project() -> tuple[str, ...]:
    """The top-level packages whose code counts as the project's."""
    return tuple({package.partition(".")[0] for package in packages()})


def code_digest(operator: str) -> str:
    """SHA-256 of an operator's fingerprint: workers compare theirs with the driver's."""
    return _digest_of(operator, local_digest())


@cache
def _digest_of(operator: str, local: str) -> str:
    return json_digest(_code_of(operator, local).document())
