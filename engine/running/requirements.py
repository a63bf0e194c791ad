"""Checks that the servers of a step's models support what its operator needs, before anything is paid for."""

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
from engine.llm.types.model_spec import Address, ModelSpec
from engine.pipeline.graph import Step
from registry import Registry

if TYPE_CHECKING:
    from engine.llm.providers.probe import Probed


def check_needs(
    step: Step, registry: Registry, spent_before: Mapping[str, Spent], served: Mapping[str, Address] | None = None
) -> dict[str, Spent]:
    """Check the servers of a step's models against what its operator needs; returns what that cost, by model.

    Args:
        step: has the models and the operator.
        registry: has the journal, which keeps the answers.
        spent_before: what the run has already spent, by model.
        served: one server of each model that the run serves, by model.

    Raises:
        StepError: a server lacks a capability, or does not answer.
    """
    wanted = step.operator.capabilities(step.params)
    spent: dict[str, Spent] = {}
    for role, needed in wanted.items():
        spec = step.models[role].spec
        if spec.provider != "openai":
            continue
        name = step.spec.models.get(role, role)
        before = spent_before.get(name, Spent()) + spent.get(name, Spent())
        gate = Governor.on_this_machine(spec, before)
        try:
            # Servers are upgraded, so what was missing is checked again.
            found = ask_server(spec, registry, needed, gate=gate, recheck=True, at=(served or {}).get(name))
        except EngineError as error:
            raise StepError(str(error)) from error
        spent[name] = spent.get(name, Spent()) + gate.spent
        if missing := found.capabilities.missing(needed):
            listed = " and ".join(f"`{each}` ({MEANING[each]})" for each in missing)
            raise StepError(
                f"{spec.model} at {spec.endpoint} does not support {listed}, which {step.operator.name} needs from its {role}; "
                "use another model or server (`engine probe` shows what the servers of a pipeline support)"
            )
    return spent


def ask_server(
    spec: ModelSpec,
    registry: Registry,
    wanted: Sequence[Capability] = get_args(Capability),
    *,
    gate: Gate | None = None,
    recheck_all: bool = False,
    recheck: bool = False,
    at: Address | None = None,
) -> Probed:
    """What a model's server supports; the server is asked only for what is not known yet.

    Args:
        spec: the model.
        registry: has the journal, which keeps the answers.
        wanted: the capabilities.
        gate: limits the requests (default: new limits of the model).
        recheck_all: ask for all of them again.
        recheck: ask again for those that were missing.
        at: one of its servers, if the engine has started them.

    Raises:
        EngineError: it does not answer, or answers with an error, which the text quotes.
    """
    from engine.llm.providers.probe import probe  # imports aiohttp, which finished work does without

    journal = Journal(registry.journal)
    try:
        limits = gate or Governor.on_this_machine(spec)
        here = None if at is None else spec.at(at)
        return asyncio.run(probe(spec, journal, wanted, limits, recheck_all=recheck_all, recheck=recheck, at=here))
    except ModelError as error:
        raise EngineError(str(error)) from error
    finally:
        journal.close()


def capability_rows(names: Sequence[str], found: Sequence[KnownCapabilities]) -> list[dict[str, str | bool | None]]:
    """Models and what they support, as data."""
    return [{"model": name, **known.model_dump()} for name, known in zip(names, found, strict=True)]
