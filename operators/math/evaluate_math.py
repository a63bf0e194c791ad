"""How many held-out problems does a model solve? Greedy answers, the verifier of the training data, intervals."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Literal

from engine.llm.types.errors import RequestError
from engine.operator import Context, Metric, derived, operator
from engine.operator.prompts import prompt_with
from operators.intervals import wilson
from operators.math.answers import gold_answer
from operators.math.prompts import conversation
from operators.math.verify import verify
from operators.records import MathProblem, MathSolution

_STATED = re.compile(r"\\boxed|####|answer\s*(?:is|:|=)", re.IGNORECASE)
_ALL = ""


def accuracy(counts: Mapping[tuple[str, str], float]) -> list[Metric]:
    """`accuracy`, `ci_low` and `ci_high` (Wilson, 95 %) and `problems`, of all problems and by source."""
    metrics = []
    for part, total in counts.items():
        if part[0] != "problems":
            continue
        right = counts.get(("solved", part[1]), 0)
        low, high = wilson(right, total)
        named = {"accuracy": right / total, "ci_low": low, "ci_high": high}
        metrics += [Metric(metric=name, slice=part[1], value=value) for name, value in named.items()]
    return metrics


@operator(outputs={"predictions": MathSolution}, models=["student"], summary=accuracy)
async def evaluate_math(
    problem: MathProblem,
    ctx: Context,
    *,
    prompt: Annotated[str | None, prompt_with("question")] = None,
    format: Literal["messages", "alpaca"] = "messages",
    system: str | None = None,
) -> AsyncIterator[MathSolution]:
    """Let a model solve problems greedily (temperature 0) and compare its final answers with the gold answers.

    An answer that max_tokens cut off counts when it has stated its final answer by then. No answer, or one that cannot be
    read, is not solved; its verdict says which.

    Metrics: `accuracy` with `ci_low` and `ci_high` (95 %, Wilson) by source and over all (slice ''), `problems` and `solved`
    as numbers, `verdicts`.

    Args:
        prompt: a template with {{ question }} for the user's turn; the bare question by default. Give the student what
            it was trained on: the same `prompt`, `format` and `system` as to_sft.
        format: see to_sft.
        system: a system message in front of it.
    """
    turns = conversation(problem.question, prompt=prompt, format=format, system=system)
    gold = gold_answer(problem.answer)
    answers = []
    try:
        answer = await ctx.models["student"].chat(turns, temperature=0.0)
        answers.append(answer)
        text = answer.text.strip()
        verdict, predicted = await verify(gold, text)
        if answer.truncated and not _STATED.search(text):
            verdict, predicted = "unparsed", None
    except RequestError as error:
        if not error.declined:
            raise
        text, verdict, predicted = "", "unparsed", None  # the model ended its turn at once: that is an answer, too
    for part in dict.fromkeys((_ALL, problem.source or _ALL)):
        ctx.count("problems", part)
        ctx.count("solved", part, by=verdict == "correct")
    ctx.count("verdicts", verdict)
    record = MathSolution(
        question=problem.question,
        answer=gold,
        solution=text,
        predicted=predicted,
        verdict=verdict,
        source=problem.source,
        id=problem.id,
    )
    yield derived(record, *answers)
