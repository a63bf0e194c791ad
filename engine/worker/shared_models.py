"""What all steps in one worker process share: the journal, limits, connections and loaded models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.jobs.messages import ModelBinding
from engine.llm.journal.answers import Answers, Journal
from engine.llm.limits.governor import Gate, Governor
from engine.llm.providers.replicas import Replicas
from engine.llm.service_client import RemoteAnswers, RemoteGate, WorkerConnection
from engine.llm.shared_service import Transport
from engine.llm.types.model_spec import Address
from engine.llm.types.provider import Provider
from engine.llm.weights import LocalWeights, ModelWeights, local_weights, materialise
from registry import Registry

if TYPE_CHECKING:
    from engine.llm.local.sentence_transformers import LocalEncoder


class SharedModels:
    """Makes on first use what the steps' models need, and keeps it for the run. Use it from one event loop only.

    Args:
        registry: has the journal and the weights.
        transport: to the Service that keeps the limits shared by several processes; None if there is none.
        name: of the process, by which the Service knows it.
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
        self._providers: dict[tuple[str, int, int], Provider] = {}
        self._encoders: dict[tuple[str, int, int], LocalEncoder] = {}
        self._replicas: dict[str, Replicas] = {}

    def answers(self) -> Answers:
        """The journal."""
        if self._answers is None:
            remote = self._transport if self._remote else None
            self._answers = RemoteAnswers(remote) if remote else Journal(self._registry.journal)
        return self._answers

    def gate(self, binding: ModelBinding) -> Gate:
        """The limits of a model."""
        if binding.name not in self._gates:
            connection = self._connection if binding.shared else None
            own = RemoteGate(connection, binding.name) if connection else Governor.on_this_machine(binding.spec, binding.spent)
            self._gates[binding.name] = own
        return self._gates[binding.name]

    def provider(self, binding: ModelBinding, threads: int) -> Provider:
        """What answers a model's requests. Models with the same weights share it.

        Batches are a step's own: one that fails drops those it has not sent.
        """
        if binding.spec.mode == "batch":
            return self._new_provider(binding, threads)
        key = _loaded_as(binding, threads)
        if key not in self._providers:
            self._providers[key] = self._new_provider(binding, threads)
        return self._providers[key]

    def encoder(self, binding: ModelBinding, threads: int) -> LocalEncoder:
        """A sentence encoder."""
        from engine.llm.local.sentence_transformers import LocalEncoder

        key = _loaded_as(binding, threads)
        if key not in self._encoders:
            assert binding.weights is not None
            folder = partial(materialise, binding.weights, self._registry.store)
            self._encoders[key] = LocalEncoder(binding.spec, folder, threads)
        return self._encoders[key]

    def weights(self, weights: ModelWeights) -> LocalWeights:
        """The folders with a model's weights on this machine."""
        return local_weights(weights, self._registry.store)

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        """These servers of a model answer now, and no others."""
        self._servers(model).update(addresses)

    def _servers(self, model: str) -> Replicas:
        return self._replicas.setdefault(model, Replicas())

    async def delivered(self) -> None:
        """Wait until the Service has received what was sent."""
        if self._connection:
            await self._connection.delivered()

    async def close(self) -> None:
        """Release connections, models and the journal."""
        for provider in self._providers.values():
            await provider.close()
        if self._connection:
            await self._connection.close()
        if isinstance(self._answers, Journal):
            self._answers.close()

    def _new_provider(self, binding: ModelBinding, threads: int) -> Provider:
        spec = binding.spec
        if spec.provider == "openai" and spec.mode == "batch":
            from engine.llm.providers.batch import BatchProvider

            return BatchProvider(spec, self.answers())
        if spec.provider == "openai":
            from engine.llm.providers.openai import OpenAIProvider

            return OpenAIProvider(spec, self.answers(), self._servers(binding.name) if spec.serve else None)
        from engine.llm.local.transformers import TransformersProvider

        def folders() -> tuple[Path, Path | None]:
            assert binding.weights is not None
            here = self.weights(binding.weights)
            return here.folder, here.adapter

        return TransformersProvider(spec, folders, threads)


def _loaded_as(binding: ModelBinding, threads: int) -> tuple[str, int, int]:
    """What models must have in common to be one: the weights and the size of batches; behind an API, the name."""
    return (binding.identity if binding.weights else binding.name, binding.spec.batch_size, threads)
