"""The models of a job in one worker: what fills each role, and what their calls cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.jobs.messages import Job, ModelBinding, Usage
from engine.llm.chat import CallLog, ChatModel
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Answers, Journal
from engine.llm.limits.accounting import Spent
from engine.llm.limits.governor import Gate, Governor
from engine.llm.limits.machine_share import machine_share
from engine.llm.service_client import RemoteAnswers, RemoteGate, WorkerConnection
from engine.llm.shared_service import Transport
from engine.llm.types.errors import ModelError
from engine.llm.types.provider import Provider
from engine.llm.weights import LocalWeights, ModelWeights, materialise
from registry import Registry

if TYPE_CHECKING:
    from engine.llm.encoder import Encoder
    from engine.llm.local.sentence_transformers import LocalEncoder


class Models:
    """Makes clients on first use and keeps them for the job. Use it from one event loop only.

    Args:
        job: names the models.
        registry: has the journal and the weights.
        transport: to the Service whose limits this worker shares with others; None if it is the only one.
        name: of the worker, by which the Service knows it.
        remote: the journal is on another machine, and is also reached through the Service.
    """

    def __init__(
        self,
        job: Job,
        registry: Registry,
        transport: Transport | None = None,
        name: str | None = None,
        *,
        remote: bool = False,
    ) -> None:
        self._job = job
        self._registry = registry
        self._transport = transport
        self._remote = remote
        self._connection = WorkerConnection(transport, name) if transport else None
        self._answers: Answers | None = None
        self._clients: dict[str, ModelClient] = {}
        self._encoders: dict[str, LocalEncoder] = {}
        self._reported: dict[str, Spent] = {}

    def role(self, role: str) -> ChatModel | Encoder | None:
        """The model in a role, as the operator sees it; None if the step has none in it."""
        binding = self._job.models.get(role)
        if binding is None:
            return None
        return self._encoder(role, binding) if binding.spec.encodes else self._chat_model(role, binding)

    def stop(self, why: ModelError) -> None:
        """Send no further request."""
        for model in self._clients.values():
            model.stop(why)
        for encoder in self._encoders.values():
            encoder.stop(why)

    def spent(self) -> dict[str, Spent]:
        """What this worker has spent since the last call, by the models' names in the pipeline. See Gate.spent."""
        new = {}
        for name, model in self._clients.items():
            before = self._reported.get(name, Spent())
            self._reported[name] = model.spent
            new[name] = Spent(usd=model.spent.usd - before.usd, calls=model.spent.calls - before.calls)
        return new

    async def delivered(self) -> None:
        """Wait until the Service has received what was sent."""
        if self._connection:
            await self._connection.delivered()

    def waiting(self) -> str:
        """What rows are waiting for: servers that do not answer, with their errors, or a number of answers."""
        errors = [model.trouble for model in self._clients.values() if model.trouble]
        asked = sum(model.asking for model in self._clients.values())
        return "; ".join(errors) or (f"waiting for {asked} {'answer' if asked == 1 else 'answers'}" if asked else "")

    def notes(self) -> tuple[str, ...]:
        """What users should know about their models' servers."""
        return tuple(note for model in self._clients.values() for note in model.notes)

    def _chat_model(self, role: str, binding: ModelBinding) -> ChatModel:
        if binding.name not in self._clients:
            answers = self._journal()
            make = partial(_provider, binding, self._registry, answers, self._job.threads)
            self._clients[binding.name] = ModelClient(binding.spec, binding.identity, answers, self._gate(binding), make)
        here = partial(_local, binding.weights, self._registry) if binding.weights else None
        return ChatModel(role, self._clients[binding.name], here)

    def _encoder(self, role: str, binding: ModelBinding) -> Encoder:
        from engine.llm.encoder import Encoder
        from engine.llm.local.sentence_transformers import LocalEncoder

        assert binding.weights is not None
        if binding.name not in self._encoders:
            folder = partial(materialise, binding.weights, self._registry.store)
            self._encoders[binding.name] = LocalEncoder(binding.spec, folder, self._job.threads)
        return Encoder(role, self._encoders[binding.name], binding.weights.location, binding.identity)

    def _journal(self) -> Answers:
        if self._answers is None:
            remote = self._transport if self._remote else None
            self._answers = RemoteAnswers(remote) if remote else Journal(self._registry.journal)
        return self._answers

    def _gate(self, binding: ModelBinding) -> Gate:
        # A local model shares only its budget with other processes.
        if self._connection is None or (binding.weights is not None and not binding.spec.capped):
            return governor(binding)
        return RemoteGate(self._connection, binding.name)


def governor(binding: ModelBinding) -> Governor:
    """The limits of a model, counting what the run has already spent on it."""
    return Governor(binding.spec, binding.spent.usd, binding.spent.calls, share=machine_share(binding.spec))


def usage(log: CallLog) -> Usage:
    """The sum of the calls made for a row. Reused answers are counted and cost nothing."""
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
        from engine.llm.providers.batch import BatchProvider

        return BatchProvider(binding.spec, answers)
    if binding.spec.provider == "openai":
        from engine.llm.providers.openai import OpenAIProvider

        return OpenAIProvider(binding.spec, answers)
    from engine.llm.local.transformers import TransformersProvider

    def weights() -> tuple[Path, Path | None]:
        assert binding.weights is not None
        here = _local(binding.weights, registry)
        return here.folder, here.adapter

    return TransformersProvider(binding.spec, weights, threads)


def _local(weights: ModelWeights, registry: Registry) -> LocalWeights:
    folder = materialise(weights, registry.store)
    if weights.base is None:
        return LocalWeights(folder, None, weights.name)
    return LocalWeights(materialise(weights.base, registry.store), folder, weights.base.name)
