"""Let the teacher look at its own wrong solution, find the mistake and solve the problem anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from pydantic import Field

from engine.llm.chat import ChatModel
from engine.llm.types.completions import Completion
from engine.operator import Context, Metric, derived, operator
from engine.operator.prompts import prompt_with, render
from operators.math.solving import Attempt, attempt
from operators.records import MathSolution


async def repair(
    teacher: ChatModel, question: str, gold: str, wrong: str, *, rounds: int, prompt: str | None
) -> tuple[Attempt | None, list[Completion]]:
    """Reflect on a wrong solution, at most so many rounds, each on the last one's solution.

    Returns:
        The last complete attempt (None when all were cut off), and all answers that led to it.
    """
    last: Attempt | None = None
    answers = []
    for number in range(rounds):
        text = render(prompt or PROMPT, question=question, solution=last.solution if last else wrong)
        # Another sample each round: the same solution once more must not get the same answer once more.
        made = await attempt(teacher, text, gold, sample=number)
        answers.append(made.completion)
        if made.verdict is None:
            continue
        last = made
        if made.verdict == "correct":
            break
    return last, answers


def repair_rate(counts: Mapping[tuple[str, str], float]) -> list[Metric]:
    """`repair_rate`: the share of wrong solutions that reflection repaired (the paper's is about 0.1)."""
    outcomes = {part: value for (metric, part), value in counts.items() if metric == "reflection"}
    total = sum(outcomes.values())
    return [Metric(metric="repair_rate", slice="", value=outcomes.get("repaired", 0) / total)] if total else []


@operator(
    outputs={"solved": MathSolution, "unsolved": MathSolution},
    models=["teacher"],
    calls=lambda params: {"teacher": params.rounds},
    summary=repair_rate,
)
async def reflect(
    unsolved: MathSolution,
    ctx: Context,
    *,
    rounds: Annotated[int, Field(ge=1, le=100)] = 1,
    prompt: Annotated[str | None, prompt_with("question", "solution")] = None,
) -> AsyncIterator[tuple[str, MathSolution]]:
    """Repair a wrong solution by reflection: the teacher is shown its own solution and asked for the mistake and a new one.

    A repaired solution goes to `solved`, as stage 2. What stays wrong goes to `unsolved` with the last complete attempt.
    The gold answer is never shown; that the solution is wrong is all that the teacher is told.

    Metrics: `reflection` counts what became of the rows, `repair_rate` is the share that was repaired.

    Source: PersonaMath, stage 2 (arXiv 2410.01504).

    Args:
        rounds: tries; each starts from the last one's solution.
        prompt: a template with {{ question }} and {{ solution }} to use in place of the built-in one.
    """
    last, answers = await repair(
        ctx.models["teacher"], unsolved.question, unsolved.answer, unsolved.solution, rounds=rounds, prompt=prompt
    )
    if last is None or last.verdict is None:
        ctx.count("reflection", "cut off")
        yield "unsolved", unsolved
        return
    ctx.count("reflection", "repaired" if last.verdict == "correct" else f"still {last.verdict}")
    changes = {"solution": last.solution, "predicted": last.predicted, "verdict": last.verdict, "stage": 2}
    yield ("solved" if last.verdict == "correct" else "unsolved"), derived(unsolved.model_copy(update=changes), *answers)


PROMPT = """\
Below are a problem and your solution of it. Its final answer was checked, and it is wrong or cannot be read. Go through the \
solution step by step, say which step goes wrong and why, and then solve the problem again from the beginning, each \
calculation on its own line. End with a line that has only the final answer in \\boxed{}.

Problem: {{ question }}

Solution:
{{ solution }}"""
