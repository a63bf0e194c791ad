"""Step keys: everything that decides a step's result, as one document and its SHA-256."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from engine.fingerprint.reachable_code import Fingerprint, fingerprint
from engine.operator.catalogue import catalogue, packages
from engine.planning.row_groups import Families
from engine.sources.exclusions import Exclusions, digest
from registry import Record
from registry.catalog.manifest import VersionRef
from registry.records.record import fields_of
from registry.storage.objects import json_digest

if TYPE_CHECKING:
    from engine.pipeline.graph import Step


def step_document(
    step: Step, inputs: Mapping[str, tuple[VersionRef, ...]], seed: int, excluded: Exclusions, related: Families
) -> dict[str, Any]:
    """The key document of a step over given inputs; its digest is the step key.

    Resources, limits, retries, prices and budgets are not in it: they never change a result.

    Args:
        excluded: rows, by output, that the exclusion list leaves out.
        related: families of rows, where the operator asks for them.
    """
    operator = step.operator
    return {
        "operator": {"name": operator.name, "version": operator.version},
        **code_of(operator.name).document(),
        "params": step.params.model_dump(mode="json"),
        "inputs": {
            port: {
                "type": fields_of(operator.inputs[port].record.arrow_schema()),
                "content": [ref.content_id for ref in refs],
            }
            for port, refs in inputs.items()
        },
        "models": {
            role: {"endpoint": model.spec.endpoint, "model": model.identity, **model.spec.sampling()}
            | ({} if model.spec.system is None else {"system": model.spec.system})
            for role, model in step.models.items()
        },
        "seed": seed,
        "outputs": {name: [record.type_name(), fields_of(record.arrow_schema())] for name, record in operator.outputs.items()},
        **({"excluded": {name: digest(ids) for name, ids in excluded.items()}} if excluded else {}),
        **({"families": {port: json_digest(list(numbers)) for port, numbers in related.items()}} if related else {}),
    }


def step_key(document: Mapping[str, Any]) -> str:
    """SHA-256 of a key document."""
    return json_digest(document)


@cache
def code_of(operator: str) -> Fingerprint:
    """The fingerprint of a registered operator."""
    project = tuple({package.partition(".")[0] for package in packages()})
    return fingerprint(catalogue().operators[operator], operator, project)


@cache
def code_of_source(record: type[Record], generator: str | None) -> Mapping[str, Any]:
    """What decides, in code, which rows a source has: the record type with its validators, and the generator."""
    project = tuple({package.partition(".")[0] for package in packages()})
    found = [fingerprint(record, record.type_name(), project).document()]
    if generator:
        found.append(fingerprint(catalogue().generators[generator].function, generator, project).document())
    return {"code": found}


def code_digest(operator: str) -> str:
    """SHA-256 of an operator's fingerprint: workers compare theirs with the driver's."""
    return json_digest(code_of(operator).document())


def changes(before: Mapping[str, Any], after: Mapping[str, Any], code: Mapping[str, str]) -> list[str]:
    """What differs between a stored key document and the present one, in words; source diffs where it is code.

    Args:
        before: the document of the last version, with `sources` (name -> normalised source).
        after: the present document.
        code: the present sources.
    """
    told = []
    for part, title in (("operator", "operator"), ("params", "parameter"), ("models", "model"), ("packages", "package")):
        told += [f"{title} {line}" for line in _differences(before.get(part, {}), after[part])]
    for port, now in after["inputs"].items():
        if before.get("inputs", {}).get(port) != now:
            told.append(f"input {port}: its rows changed")
    if before.get("seed") != after["seed"]:
        told.append(f"seed: {before.get('seed')} -> {after['seed']}")
    if before.get("outputs") != after["outputs"]:
        told.append("output types changed")
    if before.get("excluded") != after.get("excluded"):
        told.append("the exclusion list names other rows")
    if before.get("families") != after.get("families"):
        told.append("other rows come from one source row")
    old_code = before.get("code", {})
    for name in sorted(old_code.keys() | after["code"].keys()):
        if old_code.get(name) != after["code"].get(name):
            told.append(f"code {name}\n{_source_diff(before.get('sources', {}).get(name, ''), code.get(name, ''))}")
    return told


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {_short(old)} -> {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _source_diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "now", lineterm="", n=2)
    return "\n".join(f"    {line}" for line in lines)
