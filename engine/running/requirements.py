"""Checks that the servers of a step's models can do what its operator needs, before anything is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from engine.errors import EngineError, StepError
from engine.llm.journal.answers import Journal
from engine.llm.limits.accounting import Spent
from engine.llm.limits.governor import Gate, Governor
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.types.capability import MEANING, Capability
from engine.llm.types.errors import ModelError
from engine.llm.types.model_spec import ModelSpec
from engine.pipeline.graph import Step
from registry import Registry

if TYPE_CHECKING:
    from engine.llm.providers.probe import Probed


def check_needs(step: Step, registry: Registry, spent_before: Mapping[str, Spent]) -> dict[str, Spent]:
    """Check the servers of a step's models against what its operator needs; returns what that cost, by model.

    Args:
        step: has the models and the operator.
        registry: has the journal, which keeps the answers.
        spent_before: what the run has already spent, by model.

    Raises:
        StepError: a server lacks a capability, or does not answer.
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
            # Servers are upgraded: an old "no" is asked again.
            found = ask_server(spec, registry, abilities, gate=gate, recheck=True)
        except EngineError as error:
            raise StepError(str(error)) from error
        spent[name] = spent.get(name, Spent()) + gate.spent
        if missing := found.capabilities.missing(abilities):
            listed = " and ".join(f"`{ability}` ({MEANING[ability]})" for ability in missing)
            raise StepError(
                f"{spec.model} at {spec.endpoint} does not support {listed}, which {step.operator.name} needs of its {role}; "
                "use another model or server (`engine probe` shows what the servers of a pipeline support)"
            )
    return spent


def ask_server(
    spec: ModelSpec,
    registry: Registry,
    wanted: Sequence[Capability] = get_args(Capability),
    *,
    gate: Gate | None = None,
    anew: bool = False,
    recheck: bool = False,
) -> Probed:
    """What a model's server supports. It is asked for what is unknown (`anew`: for all; `recheck`: also for what it lacked).

    The requests pass `gate`, or fresh limits of the model.

    Raises:
        EngineError: it does not answer, or answers with an error, which the text quotes.
    """
    from engine.llm.providers.probe import probe  # imports aiohttp, which finished work does without

    journal = Journal(registry.journal)
    try:
        return asyncio.run(probe(spec, journal, wanted, gate or Governor(spec), recheck_all=anew, recheck=recheck))
    except ModelError as error:
        raise EngineError(str(error)) from error
    finally:
        journal.close()


def ability_rows(names: Sequence[str], found: Sequence[KnownCapabilities]) -> list[dict[str, str | bool | None]]:
    """Models and what they support, as data."""
    return [{"model": name, **abilities.model_dump()} for name, abilities in zip(names, found, strict=True)]
