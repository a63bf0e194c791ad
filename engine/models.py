"""The models of a job in one worker: which role is filled by what, and what it all came to."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from engine.job import Job, ModelBinding, Usage
from engine.llm.base import ModelError, Provider, Spent
from engine.llm.chat import CallLog, ChatModel
from engine.llm.client import SharedModel
from engine.llm.journal import Answers, Journal
from engine.llm.limits import Gate, Governor
from engine.llm.sharing import Link, Post, RemoteAnswers, RemoteGate
from engine.llm.weights import Weights, materialise
from engine.problems import EngineError
from registry import Registry


class Models:
    """Makes clients on first use and keeps them for the job. Use from one event loop.

    Args:
        job: names the models.
        registry: has the journal, and weights.
        link: to the limits that this worker shares with others; None when it is the only one.
        far: the journal is on another machine, and is reached through the link, too.
    """

    def __init__(self, job: Job, registry: Registry, link: Link | None = None, *, far: bool = False) -> None:
        self._job = job
        self._registry = registry
        self._link = link
        self._far = far
        self._post = Post(link) if link else None
        self._answers: Answers | None = None
        self._shared: dict[str, SharedModel] = {}
        self._account = registry.receipts / job.step_key / f"spent-{job.run_id}.json"
        self._earlier = _account(self._account)
        self._by_role: dict[str, ChatModel] = {}
        self._reported: dict[str, Spent] = {}

    def by_role(self) -> dict[str, ChatModel]:
        """The models as the operator sees them."""
        if not self._by_role:
            made = {role: self._chat_model(role, binding) for role, binding in self._job.models.items()}
            self._by_role = _Roles(made)
        return self._by_role

    def stop(self, why: ModelError) -> None:
        """Send no further request."""
        for model in self._shared.values():
            model.stop(why)

    def spent(self) -> dict[str, Spent]:
        """What was spent since this was last asked, by the pipeline's names of the models."""
        news = {}
        for name, model in self._shared.items():
            before = self._reported.get(name, Spent())
            self._reported[name] = model.spent
            news[name] = Spent(usd=model.spent.usd - before.usd, calls=model.spent.calls - before.calls)
        return news

    def keep_account(self) -> None:
        """Write down what was spent, for a worker that takes this one's place. Where there is a Service, it keeps it."""
        if self._post is None and self._shared:
            account = {
                name: (self._earlier.get(name, Spent()) + model.spent).model_dump() for name, model in self._shared.items()
            }
            temporary = self._account.with_suffix(".tmp")
            temporary.write_text(json.dumps(account))
            temporary.replace(self._account)

    def trouble(self) -> str:
        """What keeps the models from answering now, in their servers' words; nothing when they answer."""
        return "; ".join(model.trouble for model in self._shared.values() if model.trouble)

    def notes(self) -> tuple[str, ...]:
        """What users should know about their servers."""
        return tuple(note for model in self._shared.values() for note in model.notes)

    def _chat_model(self, role: str, binding: ModelBinding) -> ChatModel:
        if binding.name not in self._shared:
            answers = self._journal()
            make = partial(_provider, binding, self._registry, answers, self._job.threads)
            self._shared[binding.name] = SharedModel(binding.spec, binding.identity, answers, self._gate(binding), make)
        name = binding.weights.location if binding.weights else binding.spec.model
        return ChatModel(role, self._shared[binding.name], name, partial(_folder, binding.weights, self._registry))

    def _journal(self) -> Answers:
        if self._answers is None:
            far = self._far and self._link is not None
            self._answers = RemoteAnswers(self._link) if far and self._link else Journal(self._registry.journal)
        return self._answers

    def _gate(self, binding: ModelBinding) -> Gate:
        # A model in this process shares nothing with those in others, except what may be spent.
        capped = binding.spec.max_calls is not None or binding.spec.budget_usd is not None
        if self._post is None or (binding.weights is not None and not capped):
            return governor(binding.model_copy(update={"spent": binding.spent + self._earlier.get(binding.name, Spent())}))
        return RemoteGate(self._post, binding.name)


class _Roles(dict[str, ChatModel]):
    """Models by role."""

    def __missing__(self, role: str) -> ChatModel:
        raise EngineError(f"the operator asks a model as {role!r} and does not declare it: @operator(..., models=[{role!r}])")


def _account(file: Path) -> dict[str, Spent]:
    """What a worker that was in this one's place has spent in this step, by model."""
    try:
        return {name: Spent.model_validate(spent) for name, spent in json.loads(file.read_text()).items()}
    except (OSError, ValueError):  # there was none
        return {}


def governor(binding: ModelBinding) -> Governor:
    """The limits of a model, with what the run has spent on it before."""
    return Governor(binding.spec, binding.spent.usd, binding.spent.calls)


def usage(log: CallLog) -> Usage:
    """Sums of the calls made for a row; reused answers are counted and cost nothing."""
    total = Usage()
    for call in log.calls:
        done = call.completion
        if call.reused:
            total += Usage(calls_reused=1)
        else:
            total += Usage(calls=1, tokens_in=done.tokens_in, tokens_out=done.tokens_out, cost_usd=call.cost_usd)
    return total


def _provider(binding: ModelBinding, registry: Registry, answers: Answers, threads: int) -> Provider:
    if binding.spec.provider == "openai" and binding.spec.mode == "batch":
        from engine.llm.batch import BatchProvider

        return BatchProvider(binding.spec, answers)
    if binding.spec.provider == "openai":
        from engine.llm.openai import OpenAIProvider

        return OpenAIProvider(binding.spec, answers)
    from engine.llm.transformers import TransformersProvider

    def weights() -> tuple[Path, Path | None]:
        assert binding.weights is not None
        folder = materialise(binding.weights, registry.store)
        if binding.weights.base is None:
            return folder, None
        return materialise(binding.weights.base, registry.store), folder

    return TransformersProvider(binding.spec, weights, threads)


def _folder(weights: Weights | None, registry: Registry) -> Path:
    if weights is None:
        raise EngineError("this role needs a model in this process (provider: transformers), not an API")
    if weights.base is not None:
        raise EngineError(
            f"{weights.location} is an adapter; training goes on from full weights only (train with `lora: null`)"
        )
    return materialise(weights, registry.store)
