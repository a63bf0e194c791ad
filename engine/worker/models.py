"""The models of a step in one worker: what fills each role, and what their calls cost."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.jobs.messages import Job, ModelBinding, Usage
from engine.llm.chat import CallLog, ChatModel
from engine.llm.client import ModelClient
from engine.llm.types.errors import ModelError
from engine.worker.shared_models import SharedModels
from registry import ModelUsage
from registry.counted import counted

if TYPE_CHECKING:
    from engine.llm.encoder import Encoder


class Models:
    """Makes clients on first use and keeps them for the step. Use it from one event loop only.

    Args:
        job: the job, which names the models.
        shared: the models that other steps in this process use as well.
    """

    def __init__(self, job: Job, shared: SharedModels) -> None:
        self._job = job
        self._shared = shared
        self._clients: dict[str, ModelClient] = {}
        self._stopped: ModelError | None = None

    def role(self, role: str) -> ChatModel | Encoder | None:
        """The model in a role, as the operator sees it; None if the step has none in it."""
        binding = self._job.models.get(role)
        if binding is None:
            return None
        return self._encoder(role, binding) if binding.spec.encodes else self._chat_model(role, binding)

    def stop(self, why: ModelError) -> None:
        """Send no further request of this step."""
        self._stopped = why
        for model in self._clients.values():
            model.stop(why)

    def waiting(self) -> str:
        """What rows are waiting for: servers that do not answer, with their errors, or a number of answers."""
        errors = [model.trouble for model in self._clients.values() if model.trouble]
        asked = sum(model.asking for model in self._clients.values())
        return "; ".join(errors) or (f"waiting for {counted(asked, 'answer')}" if asked else "")

    def notes(self) -> tuple[str, ...]:
        """What users should know about their models' servers."""
        return tuple(note for model in self._clients.values() for note in model.notes)

    def _chat_model(self, role: str, binding: ModelBinding) -> ChatModel:
        if binding.name not in self._clients:
            make = partial(self._shared.provider, self._job.step, binding, self._job.threads)
            client = ModelClient(binding.spec, binding.identity, self._shared.answers(), self._shared.gate(binding), make)
            self._clients[binding.name] = client
            if self._stopped:
                client.stop(self._stopped)
        here = partial(self._shared.weights, binding.weights) if binding.weights else None
        return ChatModel(role, self._clients[binding.name], here)

    def _encoder(self, role: str, binding: ModelBinding) -> Encoder:
        from engine.llm.encoder import Encoder

        assert binding.weights is not None
        model = self._shared.encoder(self._job.step, binding, self._job.threads)
        return Encoder(role, model, binding.weights.location, binding.identity)


def usage(logs: Iterable[CallLog]) -> Usage:
    """The sum of the calls made for rows. Reused answers count and cost nothing; discarded ones cost and do not count."""
    used: dict[str, list[Any]] = {}

    def add(model: str, *amounts: float) -> None:
        used[model] = [have + more for have, more in zip(used.get(model, [0, 0, 0, 0, 0.0]), amounts, strict=True)]

    for log in logs:
        for call in log.calls:
            done = call.completion
            if call.reused:
                add(call.model, 0, 1, 0, 0, 0.0)
            else:
                add(call.model, 1, 0, done.tokens_in, done.tokens_out, call.cost_usd)
        for model, done, cost in log.discarded:
            add(model, 0, 0, done.tokens_in, done.tokens_out, cost)
    by_model = {model: ModelUsage(**dict(zip(ModelUsage.model_fields, sums, strict=True))) for model, sums in used.items()}
    return Usage(**sum(by_model.values(), ModelUsage()).model_dump(), by_model=by_model)
