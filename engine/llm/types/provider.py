"""The interface of everything that answers requests: API servers, their batches, models in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError
from engine.llm.types.requests import Request


class Provider(Protocol):
    """Sends requests to one model. Retries, limits and the journal are not its work.

    Attributes:
        notes: what users should know about the server, such as what it cannot do.
    """

    notes: list[str]

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers to requests that differ in nothing but `sample`, in order.

        A provider that cannot give several answers to a prompt at once gives those of the first requests only (at
        least one), and is asked again for the others. Raises TransientError, RequestError or EndpointError.
        """
        ...

    def stop(self, why: ModelError) -> None:
        """The step has failed: requests that can be collected another time need not come to their end."""
        ...

    async def close(self) -> None:
        """Let connections and memory go."""
        ...
