"""What a model may cost: an upper bound on the server's invoice, whatever the server says or fails to say."""

from __future__ import annotations

from engine.llm.limits.accounting import Outcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.types.model_spec import ModelSpec

TEMPLATE_TOKENS = 128
"""What a chat template may add to a prompt, until an answer has shown it: the price of the first request on its own."""

UNSEEN_TEMPLATE_TOKENS = 16_384
"""The same for requests that are sent together before anything was answered: only a large budget lets them go at once."""

UNSEEN_TEMPLATE_TOKENS_IN_BATCH = 1024
"""The same in a batch, where an answer to learn from may take a day."""

_ROUNDING = 1e-12


class Budget:
    """The account of one model in one run.

    A request in flight holds the most that it can cost: the bound that the client worked out from its bytes and
    `max_tokens`, and a margin for what no client can see. No template adds more tokens than the shortest prompt was
    billed in all, so the margin is the least that was billed for a prompt. It is never less than twice the worst overrun
    of a bound.

    A request that was sent and not accounted for (time-outs, resets, no usable `usage`) costs the most that it held.

    Args:
        spec: has the prices, `budget_usd` and `max_calls`.
        spent: what the run has spent on the model before.
    """

    def __init__(self, spec: ModelSpec, spent: Spent) -> None:
        self._spec = spec
        self._before = spent
        self.usd = 0.0
        self.calls = 0
        self._unknown_usd = 0.0
        self._held_usd = 0.0
        self._out = 0
        self._template_usd: float | None = None
        self._overrun_usd = 0.0

    @property
    def made(self) -> Spent:
        """What was spent through this account; requests in flight count with the most that they can cost."""
        return Spent(usd=self.usd + self._held(self._out), calls=self.calls)

    @property
    def spent_usd(self) -> float:
        """What the run has spent in all, without requests in flight."""
        return self._before.usd + self.usd

    @property
    def calls_left(self) -> float:
        """How many more requests may be sent."""
        most = self._spec.max_calls
        return float("inf") if most is None else most - self._before.calls - self.calls

    def fits(self, ask: Estimate) -> bool:
        """Whether a request may be sent now, beside those in flight."""
        budget = self._spec.budget_usd
        return budget is None or self.spent_usd + self._held(self._out + 1) + ask.cost <= budget + _ROUNDING

    def hold(self, ask: Estimate) -> None:
        """A request is sent."""
        self._out += 1
        self._held_usd += ask.cost
        self.calls += 1

    def settle(self, ask: Estimate, outcome: Outcome) -> None:
        """A request has ended."""
        most = ask.cost + self._margin(1)
        self._out -= 1
        self._held_usd = self._held_usd - ask.cost if self._out else 0.0
        if outcome.kind == "unsent":
            self.calls -= 1
            return
        self.usd += outcome.cost if outcome.accounted else max(outcome.cost, most)
        if not outcome.accounted:
            self._unknown_usd += max(outcome.cost, most)
        if outcome.kind == "answered":
            self._learn(ask, outcome)

    def correct(self, usd: float) -> None:
        """Add what turned out later."""
        self.usd += usd

    def refusal(self, ask: Estimate) -> str:
        """Why a request can never be sent in this run; nothing when it can be, now or after others have ended."""
        spec = self._spec
        if self.calls_left < 1:
            return f"max_calls {spec.max_calls} of model {spec.model} is used up in this run; raise it to get further in one"
        if self._out or self.fits(ask):
            return ""
        left = max(0.0, (spec.budget_usd or 0.0) - self.spent_usd)
        spent = f"${self.spent_usd:.4f} are spent"
        if self._unknown_usd:
            spent += f" (${self._unknown_usd:.4f} of it, at most, for requests whose cost the server did not say)"
        return (
            f"budget_usd {spec.budget_usd:g} of model {spec.model} is used up: {spent}, "
            f"${left:.4f} are left, and the next call may cost ${ask.cost + self._margin(1):.4f}; "
            "it holds for one run: raise it to get further in one"
        )

    def _held(self, requests: int) -> float:
        return self._held_usd + requests * self._margin(requests)

    def _margin(self, requests: int) -> float:
        """What each of so many requests may cost beyond its bound."""
        if self._template_usd is None:
            unseen = UNSEEN_TEMPLATE_TOKENS_IN_BATCH if self._spec.mode == "batch" else UNSEEN_TEMPLATE_TOKENS
            return self._spec.cost(TEMPLATE_TOKENS if requests == 1 else unseen, 0)
        return max(self._template_usd, 2 * self._overrun_usd)

    def _learn(self, ask: Estimate, outcome: Outcome) -> None:
        if not outcome.accounted:
            return
        template = self._spec.cost(outcome.tokens_in, 0)
        self._template_usd = template if self._template_usd is None else min(self._template_usd, template)
        self._overrun_usd = max(self._overrun_usd, outcome.cost - ask.cost)
