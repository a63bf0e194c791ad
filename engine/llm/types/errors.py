"""How a call to a model fails, by what the failure concerns: this request, every request, or only this moment."""

from __future__ import annotations

from typing import Any

from engine.llm.types.completions import Completion


class ModelError(Exception):
    """A call to a model did not give a usable answer."""


class EndpointError(ModelError):
    """Something is wrong with the endpoint (key, model name, address): every call would fail, so the step stops."""


class RequestError(ModelError):
    """This request, or its answer's content, is at fault: the row is rejected with the reason.

    Args:
        message: why, with the server's words.
        completion: the answer, where there was one: it was paid for.
        refused: the server refused the request as it was put (400, 422).

    Attributes:
        found: (request, answer) of other samples of the prompt, which are there.
    """

    @property
    def declined(self) -> bool:
        """Whether the model itself gave no answer: it ended its turn at once, or refused."""
        return self.completion is not None and self.completion.finish_reason in ("stop", "length", "refusal")

    def __init__(self, message: str, completion: Completion | None = None, *, refused: bool = False) -> None:
        super().__init__(message)
        self.completion = completion
        self.refused = refused
        self.found: list[Any] = []


class TransientError(ModelError):
    """A failure that may pass (408, 409, 429, 5xx, time-outs, resets).

    Args:
        message: what happened, with the server's words.
        retry_after: the server's wish in seconds.
        unreachable: nobody listens there; when that does not pass, it concerns every request.
        throttled: the server takes no more for now (429).
        differently: the provider will put it in other words, at once; this is no try of the request's.
        refused: the server may have broken down over how the request was put (5xx).
        completion: the part of an answer that came, where one did: it may have been paid for.
        down: the endpoint, not the request, is in trouble (nobody listens, a gateway without its server, a reset).
        billed: the server may bill the request all the same, because it may have worked on it.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        unreachable: bool = False,
        throttled: bool = False,
        differently: bool = False,
        refused: bool = False,
        completion: Completion | None = None,
        down: bool = False,
        billed: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.throttled = throttled
        self.differently = differently
        self.refused = refused
        self.completion = completion
        self.down = down or unreachable
        self.billed = billed and not (unreachable or throttled or differently)


class BudgetError(ModelError):
    """The next call could exceed the model's budget: the step stops, finished work is kept."""


class StoppedError(ModelError):
    """The call was not sent, because the step has failed elsewhere."""
