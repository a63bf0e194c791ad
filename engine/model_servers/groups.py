"""Models that share servers: which ones can, and where the servers answer for each of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from engine.execution.executor import Server
from engine.llm.types.model_spec import Address
from engine.llm.types.serve_spec import ServeSpec
from engine.pipeline.graph import BoundModel
from engine.pipeline.served_models import share
from engine.serving.launch import AdapterRoom, Launch, Served, Status
from registry import Model

_SEVERAL_PROCESSES = {"api-server-count", "data-parallel-size"}
"""With these, several processes of vLLM take requests, and a process does not tell the others about adapters that it loads."""


@dataclass(eq=False)
class Group:
    """Models that are served together, and their servers by number.

    Attributes:
        models: the models, by their names in the pipeline; at least one.
        room: the room for adapters that the servers load while they run; see Launch.
        log: the path of the servers' logs, without number and suffix.
        heard: the last status of each server, by number.
        told: the addresses that workers were last told, by model.
    """

    models: dict[str, BoundModel]
    room: AdapterRoom | None
    log: Path
    servers: dict[int, Server] = field(default_factory=dict)
    heard: dict[int, Status] = field(default_factory=dict)
    lost: Counter[int] = field(default_factory=Counter)
    told: dict[str, tuple[Address, ...]] = field(default_factory=dict)

    @property
    def serve(self) -> ServeSpec:
        """The settings of its servers."""
        serve = next(iter(self.models.values())).spec.serve
        assert serve is not None
        return serve

    def launch(self, number: int) -> Launch:
        """The message that starts one of its servers, with its present models."""
        log = self.log.with_name(f"{self.log.name}-{number}.log")
        return Launch(models=self._served, serve=self.serve, number=number, log=log, room=self.room)

    @property
    def launches(self) -> dict[int, Launch]:
        """The messages that start its servers, by number."""
        return {number: self.launch(number) for number in range(1, self.serve.replicas + 1)}

    @property
    def title(self) -> str:
        """How messages refer to its servers."""
        models = ", ".join(map(repr, self.models))
        return f"the server{'s' if self.serve.replicas > 1 else ''} of model{'' if len(self.models) == 1 else 's'} {models}"

    @property
    def gpus(self) -> float:
        """The number of GPUs that its servers hold."""
        return sum(server.gpus for server in self.servers.values())

    @property
    def holds_resources(self) -> bool:
        """Whether its servers have reserved anything that others could use instead."""
        return bool(self.gpus or self.serve.num_cpus or self.serve.memory)

    def addresses(self, model: str) -> tuple[Address, ...]:
        """Where the servers answer for one of its models now.

        An adapter that they load while they run has an address once all servers that are ready have loaded it.
        """
        ready = [status for _, status in sorted(self.heard.items()) if status.address is not None]
        name = self.models[model].spec.model
        having = [status for status in ready if self.room is None or name in status.loaded]
        if len(having) < len(ready) and model not in self.told:
            return ()
        found = [status.address for status in having if status.address is not None]
        if self.room is None and model == next(iter(self.models)):
            return tuple(found)  # a server may know full weights by another name than the pipeline; see known_as
        return tuple(each._replace(model=name) for each in found)

    def can_load(self, model: BoundModel) -> bool:
        """Whether its running servers can load a model."""
        return self.room is not None and all(share(each, model) for each in self.models.values())

    def add(self, name: str, model: BoundModel) -> None:
        """Make its servers load a model."""
        self.models[name] = model
        self._change()

    def remove(self, name: str) -> None:
        """Remove a model that its servers have refused."""
        del self.models[name]
        self.told.pop(name, None)
        if self.models:
            self._change()

    def _change(self) -> None:
        for server in self.servers.values():
            server.change(self._served)

    @property
    def _served(self) -> tuple[Served, ...]:
        return tuple(Served(model=name, name=each.spec.model, weights=each.weights) for name, each in self.models.items())


def will_share(one: BoundModel, other: BoundModel, made: Model) -> bool:
    """Whether a running server of one model can load the other, once a step has made it.

    Args:
        made: the model that the step is expected to make.
    """
    if one.spec.serve != other.spec.serve or one.spec.model == other.spec.model or not loads_adapters(one):
        return False
    assert one.weights is not None
    return made.format == "adapter" and one.weights.base is not None and made.base_model == one.weights.base.name


def loads_adapters(model: BoundModel) -> bool:
    """Whether a server of a model can load adapters while it runs: the model is an adapter, and vLLM is one process."""
    serve = model.spec.serve
    if serve is None or serve.engine != "vllm" or model.weights is None or model.weights.base is None:
        return False
    return _SEVERAL_PROCESSES.isdisjoint(name.replace("_", "-") for name in serve.args)


def expected_rank(made: Model) -> int:
    """The rank of an adapter that a step is expected to make; 0 if its settings do not state it."""
    try:
        return int(json.loads(made.config)["lora"]["r"])
    except (ValueError, LookupError, TypeError):
        return 0
