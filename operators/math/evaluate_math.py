"""Measure how many held-out problems a model solves: with greedy answers, the verifier of the training data, and intervals."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

from engine.operator import ChatModel, Context, Counters, Metric, Prompt, RequestError, derived, operator, template
from operators.math.answers.extraction import gold_answer
from operators.math.answers.verify import verify
from operators.math.prompts import conversation
from operators.records import MathProblem, MathSolution
from operators.shares import Share

_STATED = re.compile(r"\\boxed|####|answer\s*(?:is|:|=)", re.IGNORECASE)
_ALL = ""


@operator(outputs={"predictions": MathSolution})
async def evaluate_math(
    problem: MathProblem,
    ctx: Context,
    student: ChatModel,
    *,
    prompt: Annotated[str | None, template("question")] = None,
    format: Literal["messages", "alpaca"] = "messages",
    system: Annotated[str | None, Prompt()] = None,
) -> AsyncIterator[MathSolution]:
    """Have a model solve problems greedily (temperature 0), and compare its final answers with the gold answers.

    An answer that was cut off at max_tokens counts if it states the final answer before that. A missing answer, or one that
    cannot be read, counts as not solved; the verdict says which it is.

    Metrics: `accuracy` with `accuracy_ci_low` and `accuracy_ci_high` (95%, Wilson) over all problems (slice '') and by
    source; the counts `problems`, `solved` and `verdicts`.

    Args:
        prompt: a template with {{ question }} for the user's turn; the bare question by default. Use the same `prompt`,
            `format` and `system` as in to_sft, so that the student sees what it was trained on.
        format: see to_sft.
        system: a system message that comes first.
    """
    turns = conversation(problem.question, prompt=prompt, format=format, system=system)
    gold = gold_answer(problem.answer)
    answers = []
    try:
        answer = await student.chat(turns, temperature=0.0)
        answers.append(answer)
        text = answer.text.strip()
        verdict, predicted = await verify(gold, text)
        if answer.truncated and not _STATED.search(text):
            verdict, predicted = "unparsed", None
    except RequestError as error:
        if not error.declined:
            raise
        text, verdict, predicted = "", "unparsed", None  # the model ended its turn at once, which also counts as an answer
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


@evaluate_math.finish
def accuracy(counts: Counters) -> Iterator[Metric]:
    """`accuracy` with its interval, over all problems (slice '') and by source."""
    for (metric, part), total in counts.items():
        if metric == "problems":
            yield from Share.of(counts.get(("solved", part), 0), total).metrics("accuracy", part)
