"""Messages between the driver and a node about a server that the node runs, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.llm.types.model_spec import Address
from engine.llm.types.serve_spec import ServeSpec
from engine.llm.weights import ModelWeights


class Beside(BaseModel):
    """A further model on a server: the same weights under another name, or an adapter on them.

    Args:
        model, name, weights: see Launch.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    name: str
    weights: ModelWeights


class Launch(BaseModel):
    """A server to run.

    Args:
        model: the pipeline's name of the model.
        beside: the other models that it serves.
        name: what its requests call it, if the server lets us choose: the pipeline's name of the weights.
        number: of the server among the replicas, from 1.
        log: the file for what it prints.
        gpus: how many it has.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    name: str
    serve: ServeSpec
    weights: ModelWeights | None
    number: int
    log: Path
    gpus: float = 0.0
    beside: tuple[Beside, ...] = ()

    def unreserved(self) -> Launch:
        """The same server where nothing reserves GPUs: it sees those there are."""
        return self.model_copy(update={"gpus": 1.0 if self.serve.num_gpus is None else self.serve.num_gpus})

    @property
    def title(self) -> str:
        """The server in messages."""
        which = f"server {self.number} of {self.serve.replicas}" if self.serve.replicas > 1 else "the server"
        models = [self.model, *(each.model for each in self.beside)]
        return f"{which} of model{'' if len(models) == 1 else 's'} {', '.join(map(repr, models))}"


class Status(BaseModel):
    """How a server is.

    Args:
        state: `starting` also while it is restarted; `failed`: it will not be started again; `lost`: its process on the node
            died, or the node.
        address: where it answers, once it is ready.
        deaths: how often it has died after it was ready.
        why: what ended it last, for the user.
        seconds: how long the last start took.
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["starting", "ready", "failed", "lost"] = "starting"
    address: Address | None = None
    deaths: int = 0
    why: str = ""
    seconds: float = 0.0
