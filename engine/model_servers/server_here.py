"""A server of a model on this machine, without Ray, for as long as a command uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError
from engine.llm.types.model_spec import Address
from engine.pipeline.graph import BoundModel
from engine.serving.launch import Launch, Served
from engine.serving.replica import Replica
from registry import Registry

_LOOK_SECONDS = 0.1


@contextmanager
def server_here(name: str, model: BoundModel, registry: Registry) -> Iterator[Address]:
    """Start one server of a model that the engine serves, and stop it at the end.

    Raises:
        EngineError: a step has yet to train the model, or its server does not start; the text has the last lines of its log.
    """
    serve, weights = model.spec.serve, model.weights
    assert serve is not None
    if model.made_by is not None and weights is None:
        raise EngineError(f"model {name!r} is trained by step {model.made_by.name!r}; its server starts when that step has run")
    launch = Launch(
        models=(Served(model=name, name=model.spec.model, weights=weights),),
        serve=serve.model_copy(update={"replicas": 1}),
        number=1,
        log=registry.root.absolute() / "runs" / f"probe.{name}-1.log",
    ).unreserved()
    replica = Replica(launch, "127.0.0.1", registry.store)
    try:
        while (status := replica.status).address is None:
            if status.state == "failed":
                raise EngineError(f"{launch.title} cannot be used: {status.why}")
            time.sleep(_LOOK_SECONDS)
        yield status.address
    finally:
        replica.stop()
