"""A single request within a model's limits, for code that calls a server without a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from engine.llm.limits.accounting import CallOutcome
from engine.llm.limits.estimates import TOKENS_PER_IMAGE, Estimate
from engine.llm.limits.governor import Gate
from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError, TransientError
from engine.llm.types.model_spec import ModelSpec


async def send_within_limits(
    gate: Gate,
    spec: ModelSpec,
    body: dict[str, Any],
    most_out: int,
    send: Callable[[], Awaitable[Any]],
    used: Callable[[Any], Completion],
) -> Any:
    """Send a chat completion when the limits allow it, and account for it.

    Args:
        gate: the model's limits.
        spec: the model.
        body: the request's body.
        most_out: the maximum of completion tokens.
        send: sends the request and returns the response's JSON.
        used: returns what a response used, as an answer without text.

    Raises:
        BudgetError: the request could cost more than is left.
    """
    # A token is at least one byte, except of images.
    tokens = len(str(body).encode(errors="replace")) + TOKENS_PER_IMAGE * str(body).count("'image_url':")
    estimate = Estimate(str(body), cost=spec.most(tokens, most_out))
    ticket = await gate.admit(estimate)
    outcome = CallOutcome("failed", accounted=False)
    try:
        answer = await send()
        outcome = _paid(spec, used(answer))
        return answer
    except TransientError as error:
        outcome = CallOutcome("failed", accounted=not error.billed)
        raise
    except ModelError:
        outcome = CallOutcome("refused")
        raise
    finally:
        gate.release(ticket, outcome)


def _paid(spec: ModelSpec, used: Completion) -> CallOutcome:
    tokens_in, tokens_out = used.tokens_in, used.tokens_out
    cost = spec.cost(tokens_in, tokens_out, used.tokens_cached, used.tokens_written)
    return CallOutcome("answered", tokens_in + tokens_out, cost, tokens_in, tokens_in > 0 and tokens_out > 0)
