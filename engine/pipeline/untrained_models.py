"""Whether models that are not trained yet will suit the steps that use them: said before the first of them is paid for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.operator.types import DeclarationError
from engine.pipeline.graph import BoundModel, Step
from registry import Model


def misfits(steps: Iterable[Step]) -> Iterator[tuple[str, str]]:
    """(step, why) for each step whose operator cannot use a model that it is to get.

    Args:
        steps: in an order in which they can run.
    """
    made: dict[str, Model] = {}
    for step in steps:
        known = {role: model for role, bound in step.models.items() if (model := _known(bound, made))}
        try:
            model = step.operator.expected_model(step.params, known)
        except (ValueError, DeclarationError) as error:
            yield step.name, f"{step.operator.name}: {error}"
            continue
        if model is not None:
            made[step.name] = model


def _known(bound: BoundModel, made: dict[str, Model]) -> Model | None:
    """A model as far as it is known: what a step will make, what the registry has, or full weights from elsewhere."""
    if bound.made_by is not None:
        return made.get(bound.made_by.name)
    if bound.weights is None:
        return None
    return bound.weights.model or Model(base_model=bound.weights.name, format="full")
