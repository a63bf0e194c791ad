"""Step keys: everything that determines a step's result, as one document and its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.fingerprint.code import code_of
from engine.operator.catalogue import full_name
from engine.operator.prompts import prompt_texts
from engine.planning.row_groups import RowGroups
from engine.sources.exclusions import Exclusions, digest
from registry.catalog.manifest import VersionRef
from registry.records.schema import fields_of_type
from registry.storage.checked_json import json_digest

if TYPE_CHECKING:
    from engine.pipeline.graph import Step


def step_document(
    step: Step, inputs: Mapping[str, tuple[VersionRef, ...]], seed: int, excluded: Exclusions, groups: RowGroups
) -> dict[str, Any]:
    """The key document of a step over given inputs; its digest is the step key.

    It omits resources, limits, retries, prices and budgets, because they never change a result.

    Args:
        excluded: rows that the exclusion list leaves out, by output.
        groups: the groups of rows from the same source row, if the operator asks for them.
    """
    operator = step.operator
    return {
        "operator": {"name": operator.name},
        **code_of(full_name(operator)).document(),
        "params": step.params.model_dump(mode="json"),
        "prompts": prompt_texts(step.params),
        "inputs": {
            port: {
                "type": fields_of_type(operator.inputs[port].record),
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
        "outputs": {name: [record.type_name(), fields_of_type(record)] for name, record in operator.outputs.items()},
        **({"excluded": {name: digest(ids) for name, ids in excluded.items()}} if excluded else {}),
        **({"row_groups": {port: json_digest(list(numbers)) for port, numbers in groups.items()}} if groups else {}),
    }


def step_key(document: Mapping[str, Any]) -> str:
    """SHA-256 of a key document."""
    return json_digest(document)
