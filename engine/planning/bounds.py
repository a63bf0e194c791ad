"""Upper bounds of the calls, tokens and cost of a step."""

from __future__ import annotations

from typing import NamedTuple

from engine.fingerprint.code import code_of
from engine.llm.limits.estimates import BYTES_PER_TOKEN
from engine.packages.catalogue import full_name
from engine.pipeline.graph import Step
from engine.planning.inputs import Inputs, memory_of, streamed_memory


class Bounds(NamedTuple):
    """Upper bounds, with notes on limits that the step may reach."""

    calls: int
    tokens: int
    cost_usd: float
    notes: tuple[str, ...]


def bounds_of(step: Step, inputs: Inputs, rows: int, left: int) -> Bounds:
    """Upper bounds of calls, tokens and cost for `left` of `rows` rows.

    A prompt is bounded in bytes (a token has at least one): the row's text, the operator's own texts, its parameters and the
    answers to the calls before it; or the operator's own bound (`prompt_bytes`). Whole inputs count for every row.
    """
    calls = tokens = 0
    cost = 0.0
    notes = [*step.notes]
    streamed = streamed_memory(step, inputs)
    whole = sum(memory_of(inputs.get(name, ())) for name, port in step.operator.inputs.items() if port.whole)
    texts = [text for text in code_of(full_name(step.operator)).code.values() if text.startswith("builtins.")]
    own = sum(map(len, texts)) + len(step.params.model_dump_json())
    prompt = step.operator.prompt_bytes(step.params)
    for role, per_row in step.operator.calls_per_row(step.params).items():
        spec = step.models[role].spec
        asked = per_row * left
        longest = spec.longest_answer(spec.max_tokens)
        answers = (per_row - 1) * longest * BYTES_PER_TOKEN
        added = (own + whole + answers if prompt is None else prompt) + len((spec.system or "").encode())
        tokens_in = per_row * streamed * left // max(1, rows) + asked * added
        tokens_out = asked * longest
        calls += asked
        tokens += tokens_in + tokens_out
        price = spec.most(tokens_in, tokens_out)
        cost += price
        if longest > spec.max_tokens and price:
            notes.append(
                f"{role} has no max_tokens: the bounds assume {longest:,} tokens per answer, in case the model turns out to "
                f"reason (otherwise {spec.max_tokens}); set max_tokens for closer bounds"
            )
        if spec.budget_usd is not None and price > spec.budget_usd:
            notes.append(f"budget_usd {spec.budget_usd:g} of {role} may stop the step")
        if spec.max_calls is not None and asked > spec.max_calls:
            notes.append(f"max_calls {spec.max_calls} of {role} may stop the step")
    return Bounds(calls, tokens, cost, tuple(notes))
