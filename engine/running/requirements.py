"""What operators need of the servers that they are given, found out before anything is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import get_args

from engine.errors import EngineError, StepError
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Gate, Governor
from engine.llm.providers.capabilities import MEANING, Abilities, Ability
from engine.llm.providers.probe import Probed, probe
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import ModelError, Spent
from engine.pipeline.graph import Step
from registry import Registry


def check_needs(step: Step, registry: Registry, spent_before: Mapping[str, Spent]) -> dict[str, Spent]:
    """Ask the servers of a step's models what its operator needs to know; gives what that took, by model.

    Args:
        step: has the models and the operator.
        registry: has the journal, where answers are kept.
        spent_before: what the run has spent, by model.

    Raises:
        StepError: a server cannot do what is needed, or does not answer.
    """
    wanted = step.operator.capabilities(step.params)
    spent: dict[str, Spent] = {}
    for role, abilities in wanted.items():
        spec = step.models[role].spec
        if spec.provider != "openai":
            continue
        name = step.spec.models.get(role, role)
        before = spent_before.get(name, Spent()) + spent.get(name, Spent())
        gate = Governor(spec, before.usd, before.calls)
        try:
            # Servers learn: an old "no" stops no step.
            found = ask_server(spec, registry, abilities, gate=gate, recheck=True)
        except EngineError as error:
            raise StepError(str(error)) from error
        spent[name] = spent.get(name, Spent()) + gate.spent
        if missing := found.abilities.missing(abilities):
            listed = " and ".join(f"`{ability}` ({MEANING[ability]})" for ability in missing)
            raise StepError(
                f"{spec.model} at {spec.endpoint} does not know {listed}, which {step.operator.name} needs of its {role}; "
                "give it another model, or a server that does (`engine probe` shows what the servers of a pipeline can do)"
            )
    return spent


def ask_server(
    spec: ModelSpec,
    registry: Registry,
    wanted: Sequence[Ability] = get_args(Ability),
    *,
    gate: Gate | None = None,
    anew: bool = False,
    recheck: bool = False,
) -> Probed:
    """What a model's server can do; it is asked for what is not known yet (`anew`: for all; `recheck`: for what it lacked).

    The requests pass `gate`, or the limits of a model that nothing was spent on.

    Raises:
        EngineError: it does not answer, or with an error; the text has its words.
    """
    journal = Journal(registry.journal)
    try:
        return asyncio.run(probe(spec, journal, wanted, gate or Governor(spec), anew=anew, recheck=recheck))
    except ModelError as error:
        raise EngineError(str(error)) from error
    finally:
        journal.close()


def ability_rows(names: Sequence[str], found: Sequence[Abilities]) -> list[dict[str, str | bool | None]]:
    """Models and what they can do, as data."""
    return [{"model": name, **abilities.model_dump()} for name, abilities in zip(names, found, strict=True)]
