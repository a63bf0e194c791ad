"""How a call to a model fails. The class says what is affected: every request, this request, or only this attempt."""

from __future__ import annotations

from typing import Any

from engine.llm.types.completions import Completion


class ModelError(Exception):
    """A call to a model did not return a usable answer."""


class EndpointError(ModelError):
    """Something is wrong with the endpoint (key, model name, address): every call would fail, so the step stops."""


class UnknownModelError(EndpointError):
    """The server has no model of this name."""


class RequestError(ModelError):
    """Something is wrong with this request or with the content of its answer: the row is rejected with the reason.

    Args:
        message: the reason, with the server's words.
        completion: the answer, if there was one: it was paid for.
        refused: the server rejected the form of the request (400, 422).
        parameter: the sampling parameter that it rejects in every request, if it says so.

    Attributes:
        found: (request, answer) of the prompt's other samples, which succeeded.
    """

    @property
    def declined(self) -> bool:
        """Whether the model itself gave no answer: it ended its turn at once, or refused."""
        return self.completion is not None and self.completion.finish_reason in ("stop", "length", "refusal")

    def __init__(
        self, message: str, completion: Completion | None = None, *, refused: bool = False, parameter: str | None = None
    ) -> None:
        super().__init__(message)
        self.completion = completion
        self.refused = refused
        self.parameter = parameter
        self.found: list[Any] = []


class TransientError(ModelError):
    """A transient failure (408, 409, 429, 5xx, time-outs, resets).

    Args:
        message: what happened, with the server's words.
        retry_after: seconds that the server asks to wait.
        unreachable: nothing listens at the address; if that does not pass, it affects every request.
        throttled: the server accepts no more requests for now (429).
        adapted: the provider will send the request in another form, at once. Does not count as an attempt.
        refused: the form of the request may have broken the server (5xx).
        completion: the part of the answer that arrived, if any: it may have been paid for.
        down: the endpoint is in trouble, not the request (nothing listens, a gateway without its server, a reset).
        billed: the server may bill the request anyway, because it may have processed it.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        unreachable: bool = False,
        throttled: bool = False,
        adapted: bool = False,
        refused: bool = False,
        completion: Completion | None = None,
        down: bool = False,
        billed: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.throttled = throttled
        self.adapted = adapted
        self.refused = refused
        self.completion = completion
        self.down = down or unreachable
        self.billed = billed and not (unreachable or throttled or adapted)


class BudgetError(ModelError):
    """The next call could exceed the model's budget: the step stops, finished work is kept."""


class StoppedError(ModelError):
    """The call was not sent, because the step has failed elsewhere."""
