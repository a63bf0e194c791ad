"""Fingerprints of what is registered: operators, record types and generators by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.fingerprint.reachable_code import Fingerprint, fingerprint
from engine.operator.catalogue import catalogue, packages
from registry import Record
from registry.storage.objects import json_digest


@cache
def code_of(operator: str) -> Fingerprint:
    """The fingerprint of a registered operator."""
    project = tuple({package.partition(".")[0] for package in packages()})
    return fingerprint(catalogue().operators[operator], operator, project)


@cache
def code_of_source(record: type[Record], generator: str | None) -> Mapping[str, Any]:
    """The code that determines the rows of a source: the record type with its validators, and the generator."""
    project = tuple({package.partition(".")[0] for package in packages()})
    found = [fingerprint(record, record.type_name(), project).document()]
    if generator:
        found.append(fingerprint(catalogue().generators[generator].function, generator, project).document())
    return {"code": found}


def code_digest(operator: str) -> str:
    """SHA-256 of an operator's fingerprint: workers compare theirs with the driver's."""
    return json_digest(code_of(operator).document())
