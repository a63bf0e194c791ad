"""Messages between the driver and a node about a server that the node runs, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.llm.types.model_spec import Address
from engine.llm.types.serve_spec import ServeSpec
from engine.llm.weights import ModelWeights


class Served(BaseModel):
    """A model that a server answers for.

    Args:
        model: the pipeline's name of the model.
        name: its name in requests, if the server lets us choose: the pipeline's name of the weights.
        weights: None if only the server's command knows them.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    name: str
    weights: ModelWeights | None


class AdapterRoom(BaseModel):
    """The room that a server reserves for adapters that it loads while it runs.

    Args:
        adapters: the number of adapters that there will be.
        rank: the largest rank of those that are not trained yet, as far as it is known.
    """

    model_config = ConfigDict(frozen=True)

    adapters: int
    rank: int = 0


class Launch(BaseModel):
    """A server to run.

    Args:
        models: what it serves: one model, the same weights under several names, or adapters on one base model.
        number: the number of the server among the replicas, from 1.
        log: the file for what it prints.
        gpus: the number of GPUs that it has.
        room: the room for adapters. The server is then started without any, and loads them while it runs. None: it is started
            with its models, and loads no others.
    """

    model_config = ConfigDict(frozen=True)

    models: tuple[Served, ...]
    serve: ServeSpec
    number: int
    log: Path
    gpus: float = 0.0
    room: AdapterRoom | None = None

    def unreserved(self) -> Launch:
        """The same server for a machine where nobody reserves GPUs: it sees all GPUs of the machine."""
        return self.model_copy(update={"gpus": 1.0 if self.serve.num_gpus is None else self.serve.num_gpus})

    @property
    def title(self) -> str:
        """A name for the server in messages."""
        which = f"server {self.number} of {self.serve.replicas}" if self.serve.replicas > 1 else "the server"
        models = [repr(each.model) for each in self.models]
        return f"{which} of model{'' if len(models) == 1 else 's'} {', '.join(models)}"


class Status(BaseModel):
    """The state of a server.

    Args:
        state: `starting` also while it is restarted; `failed`: it will not be started again; `lost`: its process on the node
            died, or the node.
        address: the URL of the server, once it is ready.
        deaths: the number of times that it has died after it was ready.
        why: the cause of its last end, for the user.
        seconds: the duration of the last start.
        loaded: the adapters that it has loaded, by the names that requests use.
        refused: the adapters that it could not load, and why.
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["starting", "ready", "failed", "lost"] = "starting"
    address: Address | None = None
    deaths: int = 0
    why: str = ""
    seconds: float = 0.0
    loaded: tuple[str, ...] = ()
    refused: dict[str, str] = {}
