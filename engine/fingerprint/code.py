"""Fingerprints of what is registered: operators, record types and generators by name.

They are kept for the process, until a file that the code names changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from engine.fingerprint.reachable_code import fingerprint
from engine.fingerprint.reached import Fingerprint
from engine.packages.catalogue import catalogue
from engine.packages.definitions import packages
from engine.packages.local_modules import local_digest
from registry import Record
from registry.records.described import description_of


def code_of(operator: str) -> Fingerprint:
    """The fingerprint of a registered operator; the name is bare, or full (`package:name`)."""
    if not _code_of(operator, local_digest()).is_current():
        _code_of.cache_clear()
    return _code_of(operator, local_digest())


@cache
def _code_of(operator: str, local: str) -> Fingerprint:
    return fingerprint(catalogue().operators[operator], operator.rpartition(":")[2], _project())


def code_of_source(record: type[Record], generator: str | None) -> Mapping[str, Any]:
    """The code that determines the rows of a source: the record type with its validators, and the generator."""
    about = description_of(record)  # it has no code
    found = [about.model_dump(mode="json") if about else code_of_function(record, record.type_name()).document()]
    if generator:
        found.append(code_of_function(catalogue().generators[generator].function, generator).document())
    return {"code": found}


def code_of_function(function: Callable[..., Any], label: str) -> Fingerprint:
    """The fingerprint of a function or class of a package with operators; `label` names it in errors."""
    if not _code_of_function(function, label).is_current():
        _code_of_function.cache_clear()
    return _code_of_function(function, label)


@cache
def _code_of_function(function: Callable[..., Any], label: str) -> Fingerprint:
    return fingerprint(function, label, _project())


def _project() -> tuple[str, ...]:
    """The top-level packages whose code counts as the project's."""
    return tuple({package.partition(".")[0] for package in packages()})


def code_digest(operator: str) -> str:
    """SHA-256 of an operator's fingerprint: workers compare theirs with the driver's."""
    return code_of(operator).digest
