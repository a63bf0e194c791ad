"""What a model may cost: an upper bound on the server's invoice, whatever usage the server reports or omits."""

from __future__ import annotations

from engine.llm.limits.accounting import CallOutcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.types.model_spec import ModelSpec

TEMPLATE_TOKENS = 128
"""What a chat template may add to a prompt, until an answer has shown it. Applies to a first request that is sent alone."""

UNSEEN_TEMPLATE_TOKENS = 16_384
"""The same for requests that are sent together before any answer: only a large budget lets them go at once."""

UNSEEN_TEMPLATE_TOKENS_IN_BATCH = 1024
"""The same in a batch, where the first answer may take a day."""

_ROUNDING = 1e-12


class Budget:
    """The account of one model in one run.

    A request in flight holds the maximum that it can cost: the bound that the client computed from its bytes and
    `max_tokens`, plus a margin for what no client can see. A template cannot add more tokens than the shortest prompt
    was billed for in total, so the margin is the smallest amount billed for a prompt. It is at least twice the worst
    overrun of a bound.

    A request that was sent but not accounted for (time-outs, resets, no usable `usage`) costs the amount that it held.

    Args:
        spec: the model, with its prices, `budget_usd` and `max_calls`.
        spent: the run's earlier spending on the model.
    """

    def __init__(self, spec: ModelSpec, spent: Spent) -> None:
        self._spec = spec
        self._before = spent
        self.usd = 0.0
        self.calls = 0
        self._unknown_usd = 0.0
        self._held_usd = 0.0
        self._in_flight = 0
        self._template_usd: float | None = None
        self._overrun_usd = 0.0

    def spent_before(self, spent: Spent) -> None:
        """Set what the run has spent on the model outside of this account."""
        self._before = spent

    @property
    def made(self) -> Spent:
        """What was spent through this account; requests in flight count with their maximum cost."""
        return Spent(usd=self.usd + self._held(self._in_flight), calls=self.calls)

    @property
    def spent_usd(self) -> float:
        """What the run has spent in total, without requests in flight."""
        return self._before.usd + self.usd

    @property
    def calls_left(self) -> float:
        """The number of requests that may still be sent."""
        most = self._spec.max_calls
        return float("inf") if most is None else most - self._before.calls - self.calls

    def fits(self, estimate: Estimate) -> bool:
        """Whether a request may be sent now, in addition to those in flight."""
        budget = self._spec.budget_usd
        return budget is None or self.spent_usd + self._held(self._in_flight + 1) + estimate.cost <= budget + _ROUNDING

    def hold(self, estimate: Estimate) -> None:
        """Hold the maximum cost of a request that is about to be sent."""
        self._in_flight += 1
        self._held_usd += estimate.cost
        self.calls += 1

    def charge(self, estimate: Estimate, outcome: CallOutcome) -> None:
        """Replace what a request held with its actual cost, when it has ended."""
        most = estimate.cost + self._margin(1)
        self._in_flight -= 1
        self._held_usd = self._held_usd - estimate.cost if self._in_flight else 0.0
        if outcome.kind == "unsent":
            self.calls -= 1
            return
        self.usd += outcome.cost if outcome.accounted else max(outcome.cost, most)
        if not outcome.accounted:
            self._unknown_usd += max(outcome.cost, most)
        if outcome.kind == "answered":
            self._learn(estimate, outcome)

    def correct(self, usd: float) -> None:
        """Add a cost that became known later."""
        self.usd += usd

    def refusal(self, estimate: Estimate) -> str:
        """Why a request can never be sent in this run; empty if it can, now or after others have ended."""
        spec = self._spec
        if self.calls_left < 1:
            return f"max_calls {spec.max_calls} of model {spec.model} is used up; raise it to get further in one run"
        if self._in_flight or self.fits(estimate):
            return ""
        left = max(0.0, (spec.budget_usd or 0.0) - self.spent_usd)
        spent = f"${self.spent_usd:.4f} spent"
        if self._unknown_usd:
            spent += f" (of which up to ${self._unknown_usd:.4f} for requests whose cost the server did not report)"
        return (
            f"budget_usd {spec.budget_usd:g} of model {spec.model} is used up: {spent}, "
            f"${left:.4f} left, and the next call may cost ${estimate.cost + self._margin(1):.4f}; "
            "the budget is per run: raise it to get further in one run"
        )

    def _held(self, requests: int) -> float:
        return self._held_usd + requests * self._margin(requests)

    def _margin(self, requests: int) -> float:
        """What each request may cost beyond its bound, if `requests` are in flight."""
        if self._template_usd is None:
            unseen = UNSEEN_TEMPLATE_TOKENS_IN_BATCH if self._spec.mode == "batch" else UNSEEN_TEMPLATE_TOKENS
            return self._spec.most(TEMPLATE_TOKENS if requests == 1 else unseen, 0)
        return max(self._template_usd, 2 * self._overrun_usd)

    def _learn(self, estimate: Estimate, outcome: CallOutcome) -> None:
        if not outcome.accounted:
            return
        template = self._spec.most(outcome.tokens_in, 0)
        self._template_usd = template if self._template_usd is None else min(self._template_usd, template)
        self._overrun_usd = max(self._overrun_usd, outcome.cost - estimate.cost)
