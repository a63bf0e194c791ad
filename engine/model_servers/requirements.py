"""Checks that the servers of a step's models support what its operator needs, before anything is paid for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, NamedTuple, get_args

from engine.errors import EngineError, StepError
from engine.jobs.messages import Usage
from engine.llm.journal.answers import Journal
from engine.llm.limits.accounting import Spent
from engine.llm.limits.governor import Gate, Governor
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.types.capability import MEANING, Capability
from engine.llm.types.errors import ModelError, TransientError, UnknownModelError
from engine.llm.types.model_spec import Address, ModelSpec
from engine.own_loop import LoopThread, on_own_loop
from engine.pipeline.graph import Step
from registry import ModelUsage, Registry

if TYPE_CHECKING:
    from engine.llm.providers.probe import Probed

_KNOWN_SECONDS = 0.3
"""Seconds that a step waits for an answer; answers that are already known arrive within this time."""
_AGAIN_SECONDS, _MOST_GONE = 2.0, 10
"""Seconds after which another one of the run's servers is asked when one has died (by then, this is noticed); and how often."""


class Checked(NamedTuple):
    """The cost of a check of a step's servers, by model, and why the step cannot run, if it cannot.

    Attributes:
        gone: whether the only reason is that one of the run's own servers died; it is replaced.
    """

    spent: dict[str, Spent]
    problem: str = ""
    gone: bool = False


class Needs:
    """Checks what the operators of steps need of their models' servers, in a thread, so that other steps continue meanwhile.

    Steps are checked one after another, because they may share a budget, and each check uses what earlier ones found. Use
    from one thread.

    Args:
        registry: the registry with the journal, which keeps the answers.

    Attributes:
        spent: the cost of the checks, by model.
    """

    def __init__(self, registry: Registry) -> None:
        self.spent: dict[str, Spent] = {}
        self._by_step: dict[str, dict[str, Spent]] = {}
        self._registry = registry
        self._checked: dict[str, str] = {}
        self._gone: Counter[str] = Counter()
        self._not_before = 0.0
        self._checking: tuple[str, Future[Checked]] | None = None
        self._loop: LoopThread | None = None

    def are_met(self, step: Step, served: Mapping[str, Address]) -> bool:
        """Whether a step may begin; False while servers are being asked.

        Args:
            step: the step.
            served: one server of each model that the run serves, by model.

        Raises:
            StepError: a server lacks a capability, or does not answer.
        """
        if not step.operator.capabilities(step.params):
            return True
        if self._checking is None and step.name not in self._checked and time.monotonic() >= self._not_before:
            check = check_needs(step, self._registry, dict(self.spent), served)
            self._loop = self._loop or LoopThread("needs")
            self._checking = step.name, self._loop.begin(check)
            wait([self._checking[1]], _KNOWN_SECONDS)
        if self._checking is not None and self._checking[1].done():
            (name, done), self._checking = self._checking, None
            found = done.result()
            mine = self._by_step.setdefault(name, {})
            for model, more in found.spent.items():
                self.spent[model] = self.spent.get(model, Spent()) + more
                mine[model] = mine.get(model, Spent()) + more
            if found.gone and self._gone[name] < _MOST_GONE:
                self._gone[name] += 1
                self._not_before = time.monotonic() + _AGAIN_SECONDS
            else:
                self._checked[name] = found.problem
        if problem := self._checked.get(step.name):
            raise StepError(problem)
        return step.name in self._checked

    def used_by(self, step: Step) -> Usage:
        """The cost of a step's check."""
        models = {step.spec.models.get(role, role): model.spec.model for role, model in step.models.items()}
        parts = [(models[name], ModelUsage(cost_usd=each.usd)) for name, each in self._by_step.get(step.name, {}).items()]
        return sum((Usage(cost_usd=used.cost_usd, by_model={model: used}) for model, used in parts), Usage())

    def close(self) -> None:
        """Stop the checks that are running."""
        if self._loop is not None:
            self._loop.close()


async def check_needs(
    step: Step, registry: Registry, spent_before: Mapping[str, Spent], served: Mapping[str, Address] | None = None
) -> Checked:
    """Check the servers of a step's models against what its operator needs.

    Args:
        step: the step, with its models and operator.
        registry: the registry with the journal, which keeps the answers.
        spent_before: the run's earlier spending, by model.
        served: one server of each model that the run serves, by model.
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
            found = await _ask(spec, registry, needed, gate, recheck=True, at=(served or {}).get(name))
        except EngineError as error:
            why = error.__cause__
            dead = isinstance(why, UnknownModelError) or (isinstance(why, TransientError) and why.down)
            gone = dead and name in (served or {})
            return Checked(spent, str(error), gone=gone)
        finally:
            spent[name] = spent.get(name, Spent()) + gate.spent
        if missing := found.capabilities.missing(needed):
            listed = " and ".join(f"`{each}` ({MEANING[each]})" for each in missing)
            return Checked(
                spent,
                f"{spec.model} at {spec.endpoint} does not support {listed}, which {step.operator.name} needs from its {role}; "
                "use another model or server (`engine probe` shows what the servers of a pipeline support)",
            )
    return Checked(spent)


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
        registry: the registry with the journal, which keeps the answers.
        wanted: the capabilities.
        gate: limits the requests (default: new limits of the model).
        recheck_all: ask for all of them again.
        recheck: ask again for those that were missing.
        at: one of its servers, if the engine has started them.

    Raises:
        EngineError: it does not answer, or answers with an error, which the text quotes.
    """
    return on_own_loop(lambda: _ask(spec, registry, wanted, gate, recheck_all=recheck_all, recheck=recheck, at=at))


async def _ask(
    spec: ModelSpec,
    registry: Registry,
    wanted: Sequence[Capability],
    gate: Gate | None,
    *,
    recheck_all: bool = False,
    recheck: bool = False,
    at: Address | None = None,
) -> Probed:
    from engine.llm.providers.probe import probe  # imports aiohttp, which finished work does without

    journal = Journal(registry.journal)
    try:
        limits = gate or Governor.on_this_machine(spec)
        here = None if at is None else spec.at(at)
        return await probe(spec, journal, wanted, limits, recheck_all=recheck_all, recheck=recheck, at=here)
    except ModelError as error:
        raise EngineError(str(error)) from error
    finally:
        journal.close()


def capability_rows(names: Sequence[str], found: Sequence[KnownCapabilities]) -> list[dict[str, str | bool | None]]:
    """Models and what they support, as data."""
    return [{"model": name, **known.model_dump()} for name, known in zip(names, found, strict=True)]
