"""Step keys: everything that decides a step's result, as one document and its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.fingerprint.code import code_of
from engine.planning.row_groups import Families
from engine.sources.exclusions import Exclusions, digest
from registry.catalog.manifest import VersionRef
from registry.records.schema import fields_of
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
