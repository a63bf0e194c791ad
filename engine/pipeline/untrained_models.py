"""What is known about models before the steps that train them have run, and whether they will fit the steps that use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.operator.types import DeclarationError
from engine.pipeline.graph import BoundModel, Step
from registry import Model


def unusable_models(steps: Iterable[Step]) -> Iterator[tuple[str, str]]:
    """(step, why) for each step whose operator cannot use a model that it will get.

    Args:
        steps: the steps, in an executable order.
    """
    for step, found in _expected(steps):
        if isinstance(found, str):
            yield step.name, f"{step.operator.name}: {found}"


def expected_models(steps: Iterable[Step]) -> dict[str, Model]:
    """The models that steps will train, by step, as far as they are known.

    Args:
        steps: the steps, in an executable order.
    """
    return {step.name: found for step, found in _expected(steps) if isinstance(found, Model)}


def _expected(steps: Iterable[Step]) -> Iterator[tuple[Step, Model | str | None]]:
    """Steps, each with the model that it will make, if any, or why it cannot use one that it will get."""
    made: dict[str, Model] = {}
    for step in steps:
        known = {role: model for role, bound in step.models.items() if (model := _known(bound, made))}
        try:
            model = step.operator.expected_model(step.params, known)
        except (ValueError, DeclarationError) as error:
            yield step, str(error)
            continue
        if model is not None:
            made[step.name] = model
        yield step, model


def _known(bound: BoundModel, made: dict[str, Model]) -> Model | None:
    """What is known about a model: it will be trained by a step, is in the registry, or has full weights from elsewhere."""
    if bound.made_by is not None and bound.spec.serve is None:
        return made.get(bound.made_by.name)
    if bound.weights is None or bound.spec.serve is not None:  # only its server has the weights
        return None
    return bound.weights.model or Model(base_model=bound.weights.name, format="full")
