"""The interface of everything that answers requests: API servers, their batches, in-process models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError
from engine.llm.types.requests import Request


class Provider(Protocol):
    """Sends requests to one model. The client handles retries, limits and the journal.

    Attributes:
        notes: what users should know about the server, such as what it cannot do.
    """

    notes: list[str]

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers, in order, to requests that differ only in `sample`.

        A provider that cannot return several answers to a prompt at once returns those of the first requests (at least
        one), and is called again for the others. Raises TransientError, RequestError or EndpointError.
        """
        ...

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """The step that made the requests with these keys has failed: those that have cost nothing yet fail with `why`."""
        ...

    async def close(self) -> None:
        """Release connections and memory."""
        ...
