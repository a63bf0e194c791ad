"""Why a step runs again: the differences between its key document and that of its newest version."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from engine.fingerprint.code import code_of
from engine.packages.catalogue import full_name
from engine.pipeline.graph import Pipeline, Step
from engine.planning.results import StepPlan
from registry import Registry
from registry.counted import counted


def explain(
    pipeline: Pipeline, step: Step, plan: StepPlan, registry: Registry, *, forced: bool, retry_rejects: bool = False
) -> list[str]:
    """The reasons why a step does not hit."""
    if forced:
        return ["--force"]
    if plan.status == "RESUME":
        return [f"an earlier run finished {plan.done:,} of {counted(plan.total or 0, 'partition')}"]
    first = pipeline.output_name(step.name, next(iter(step.operator.outputs)))
    if plan.undecided:
        return []
    newest = registry.newest(first)
    if newest is None:
        return ["it has never run"]
    if newest.step_key == plan.key:
        return ["--retry-rejects" if retry_rejects else "an output or some of its objects are missing"]
    before = registry.store.read_document(newest.key_object.sha256)
    return changes(before, plan.document or {}, code_of(full_name(step.operator)).code) or [
        "the format of its key document changed"
    ]


def changes(before: Mapping[str, Any], after: Mapping[str, Any], code: Mapping[str, str]) -> list[str]:
    """The differences between a stored key document and the present one, in words; for code, as source diffs.

    Args:
        before: the stored document, with `sources` (name -> normalised source).
        after: the present document.
        code: the present sources.
    """
    lines = []
    for part, title in (("operator", "operator"), ("params", "parameter"), ("models", "model"), ("packages", "package")):
        lines += [f"{title} {line}" for line in _differences(before.get(part, {}), after[part])]
    for port, now in after["inputs"].items():
        if before.get("inputs", {}).get(port) != now:
            lines.append(f"input {port}: its rows changed")
    if before.get("seed") != after["seed"]:
        lines.append(f"seed: {before.get('seed')} -> {after['seed']}")
    if before.get("outputs") != after["outputs"]:
        lines.append("output types changed")
    if before.get("order") != after.get("order") and before.get("params") == after["params"]:
        lines.append("the order of the fields changed")
    if before.get("excluded") != after.get("excluded"):
        lines.append("the exclusion list changed")
    if before.get("row_groups") != after.get("row_groups"):
        lines.append("the grouping of rows by their source rows changed")
    if before.get("review") != after.get("review"):
        lines.append("the decisions of its review changed")
    old_code = before.get("code", {})
    for name in sorted(old_code.keys() | after["code"].keys()):
        if old_code.get(name) != after["code"].get(name):
            lines.append(f"code {name}\n{_source_diff(before.get('sources', {}).get(name, ''), code.get(name, ''))}")
    return lines


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
