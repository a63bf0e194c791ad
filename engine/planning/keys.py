"""Step keys: everything that determines a step's result, as one document and its SHA-256.

The base key is the same without the rows of the streamed input. It is known before these rows are. Together with the content of
some of them, it determines what a partition of these rows becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.fingerprint.code import code_of
from engine.operator.field_expressions import field_order
from engine.operator.templates.prompts import prompt_texts
from engine.packages.catalogue import full_name
from engine.planning.reviews import StepReview
from engine.planning.row_groups import RowGroups
from engine.sources.exclusions import Exclusions, digest
from registry.catalog.manifest import VersionRef
from registry.records.schema import fields_of_type
from registry.storage.checked_json import json_digest

if TYPE_CHECKING:
    from engine.pipeline.graph import Step


def step_document(
    step: Step,
    inputs: Mapping[str, tuple[VersionRef, ...]],
    seed: int,
    excluded: Exclusions,
    groups: RowGroups,
    review: StepReview | None = None,
) -> dict[str, Any]:
    """The key document of a step over given inputs; its digest is the step key.

    It omits resources, limits, retries, prices and budgets, because they never change a result.

    Args:
        excluded: rows that the exclusion list leaves out, by output.
        groups: the groups of rows from the same source row, if the operator asks for them.
        review: the decisions of people, if the operator asks for them.
    """
    operator = step.operator
    return {
        "operator": {"name": operator.name},
        **code_of(full_name(operator)).document(),
        "params": step.params.model_dump(mode="json"),
        "prompts": prompt_texts(step.params),
        **({"order": order} if (order := field_order(step.params)) else {}),
        "inputs": {
            port: {
                "type": fields_of_type(operator.inputs[port].record),
                "content": [ref.content_id for ref in refs],
            }
            for port, refs in inputs.items()
        },
        "models": {
            role: {"endpoint": model.spec.answered_by, "model": model.identity, **model.spec.sampling()}
            | ({} if model.spec.system is None else {"system": model.spec.system})
            for role, model in step.models.items()
        },
        "seed": seed,
        "outputs": {name: [record.type_name(), fields_of_type(record)] for name, record in operator.outputs.items()},
        **({"excluded": {name: digest(ids) for name, ids in excluded.items()}} if excluded else {}),
        **({"row_groups": {port: json_digest(list(numbers)) for port, numbers in groups.items()}} if groups else {}),
        **({"review": review.document} if review else {}),
    }


def base_document(document: Mapping[str, Any], streamed: str | None) -> dict[str, Any]:
    """A step's key document without the content of its streamed input (None: all inputs are passed whole)."""
    inputs = {port: {"type": about["type"]} if port == streamed else about for port, about in document["inputs"].items()}
    return {**document, "inputs": inputs}


def code_in(document: Mapping[str, Any]) -> str:
    """SHA-256 of the code in a key document, as `code_digest` returns it for the code of this process."""
    return json_digest({part: document[part] for part in ("code", "packages")})


def step_key(document: Mapping[str, Any]) -> str:
    """SHA-256 of a key document, or of a base document."""
    return json_digest(document)
