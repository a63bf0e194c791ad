"""What all steps in one worker process share: the journal, limits, connections and loaded models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from engine.jobs.messages import ModelBinding
from engine.llm.journal.answers import Answers, Journal
from engine.llm.limits.governor import Gate, Governor
from engine.llm.providers.replicas import Replicas
from engine.llm.service_client import RemoteAnswers, RemoteGate, WorkerConnection
from engine.llm.shared_service import Transport
from engine.llm.types.model_spec import Address, ModelSpec
from engine.llm.types.provider import Provider
from engine.llm.weights import LocalWeights, ModelWeights, local_weights, materialise
from registry import Registry

if TYPE_CHECKING:
    from engine.llm.local.sentence_transformers import LocalEncoder
    from engine.llm.local.transformers import TransformersProvider

    LocalModel: TypeAlias = TransformersProvider | LocalEncoder

LoadedAs = tuple[str, str, int, int]


@dataclass
class _Kept:
    """A model in this process, and the open steps that use it."""

    model: LocalModel
    users: set[str] = field(default_factory=set)


class SharedModels:
    """Makes on first use what the steps' models need, and keeps it for other steps. Use it from one event loop only.

    Args:
        registry: the registry with the journal and the weights.
        transport: the transport to the Service that keeps the limits shared by several processes; None if there is none.
        name: the name of the process, by which the Service knows it.
        remote: the journal is on another machine, and is also reached through the Service.
    """

    def __init__(
        self, registry: Registry, transport: Transport | None = None, name: str | None = None, *, remote: bool = False
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._remote = remote
        self._connection = WorkerConnection(transport, name) if transport else None
        self._answers: Answers | None = None
        self._gates: dict[str, Gate] = {}
        self._servers: dict[str, Provider] = {}
        self._batches: dict[str, list[Provider]] = {}
        self._local: dict[LoadedAs, _Kept] = {}
        self._freed: list[Future[None]] = []
        self._replicas: dict[str, Replicas] = {}

    def answers(self) -> Answers:
        """The journal of answers, on this machine or through the Service."""
        if self._answers is None:
            remote = self._transport if self._remote else None
            self._answers = RemoteAnswers(remote) if remote else Journal(self._registry.journal)
        return self._answers

    def gate(self, binding: ModelBinding) -> Gate:
        """The limits of a model: its own governor, or a connection to a shared one."""
        if binding.name not in self._gates:
            connection = self._connection if binding.shared else None
            own = RemoteGate(connection, binding.name) if connection else Governor.on_this_machine(binding.spec, binding.spent)
            self._gates[binding.name] = own
        return self._gates[binding.name]

    def provider(self, step: str, binding: ModelBinding, threads: int) -> Provider:
        """What answers the requests of a step's model. Models with the same weights, or with the same name, share it.

        Batches are a step's own: one that fails drops those it has not sent.
        """
        spec = binding.spec
        if spec.mode == "batch":
            from engine.llm.batches.provider import BatchProvider

            own = BatchProvider(spec, self.answers())
            self._batches.setdefault(step, []).append(own)
            return own
        if spec.remote:
            if binding.name not in self._servers:
                replicas = self._replicas_of(binding.name) if spec.serve else None
                self._servers[binding.name] = _client(spec, self.answers(), replicas)
            return self._servers[binding.name]
        from engine.llm.local.transformers import TransformersProvider

        def folders() -> tuple[Path, Path | None]:
            assert binding.weights is not None
            self._wait_for_memory()
            here = self.weights(binding.weights)
            return here.folder, here.adapter

        model = self._loaded(step, binding, threads, lambda: TransformersProvider(spec, folders, threads))
        assert isinstance(model, TransformersProvider)
        return model.share()

    def encoder(self, step: str, binding: ModelBinding, threads: int) -> LocalEncoder:
        """A sentence encoder of a step."""
        from engine.llm.local.sentence_transformers import LocalEncoder

        def folder() -> Path:
            assert binding.weights is not None
            self._wait_for_memory()
            return materialise(binding.weights, self._registry.store)

        model = self._loaded(step, binding, threads, lambda: LocalEncoder(binding.spec, folder, threads))
        assert isinstance(model, LocalEncoder)
        return model

    def weights(self, weights: ModelWeights) -> LocalWeights:
        """The folders with a model's weights on this machine."""
        return local_weights(weights, self._registry.store)

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """These servers of a model answer now, and no others."""
        self._replicas_of(model).update(addresses)

    def _replicas_of(self, model: str) -> Replicas:
        return self._replicas.setdefault(model, Replicas())

    async def delivered(self) -> None:
        """Wait until the Service has received what was sent."""
        if self._connection:
            await self._connection.delivered()

    async def release(self, step: str) -> None:
        """A step has ended. Its local models stay for other steps, until one needs the memory for another model."""
        for kept in self._local.values():
            kept.users.discard(step)
        for own in self._batches.pop(step, []):
            await own.close()

    async def close(self) -> None:
        """Release connections, models and the journal."""
        models = [kept.model for kept in self._local.values()]
        for each in (*self._servers.values(), *chain(*self._batches.values()), *models):
            await each.close()
        if self._connection:
            await self._connection.close()
        if isinstance(self._answers, Journal):
            self._answers.close()

    def _loaded(self, step: str, binding: ModelBinding, threads: int, make: Callable[[], LocalModel]) -> LocalModel:
        """A model in this process, loaded when it is first asked. Those that no step uses any more make room for it."""
        key = _loaded_as(binding, threads)
        if key not in self._local:
            loop = asyncio.get_running_loop()
            for unused in [each for each, kept in self._local.items() if not kept.users]:
                self._freed.append(asyncio.run_coroutine_threadsafe(_free(self._local.pop(unused).model), loop))
            self._local[key] = _Kept(make())
        self._local[key].users.add(step)
        return self._local[key].model

    def _wait_for_memory(self) -> None:
        """Wait until unused models are gone. In the thread that loads another one; only one does at a time."""
        while self._freed:
            self._freed.pop().result()


def _client(spec: ModelSpec, answers: Answers, replicas: Replicas | None) -> Provider:
    """A client of a model's server, or of those that the run serves."""
    if spec.provider == "anthropic":
        from engine.llm.providers.anthropic import AnthropicProvider

        return AnthropicProvider(spec, answers)
    from engine.llm.providers.openai import OpenAIProvider

    return OpenAIProvider(spec, answers, replicas)


async def _free(model: LocalModel) -> None:
    from engine.llm.local import memory

    await model.close()
    memory.release()


def _loaded_as(binding: ModelBinding, threads: int) -> LoadedAs:
    """What two models must have in common to be loaded once: the weights, how they are used, and the size of batches."""
    return binding.spec.provider, binding.identity, binding.spec.batch_size, threads
