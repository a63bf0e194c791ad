"""Show the teacher its own wrong solution, and have it find the mistake and solve the problem again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from pydantic import Field

from engine.operator import ChatModel, Completion, Context, Counters, Metric, Params, derived, operator, render, template
from operators.math.attempts import Attempt, attempt
from operators.records import MathSolution

PROMPT = """\
Below are a problem and your solution of it. Its final answer was checked, and it is wrong or cannot be read. Go through the \
solution step by step, say which step goes wrong and why, and then solve the problem again from the beginning, each \
calculation on its own line. End with a line that has only the final answer in \\boxed{}.

Problem: {{ question }}

Solution:
{{ solution }}"""


async def repair(
    teacher: ChatModel, question: str, gold: str, wrong: str, *, rounds: int, prompt: str | None
) -> tuple[Attempt | None, list[Completion]]:
    """Reflect on a wrong solution for at most `rounds` rounds, each starting from the previous round's solution.

    Returns:
        The last complete attempt (None if all were cut off), and all answers.
    """
    last: Attempt | None = None
    answers = []
    for number in range(rounds):
        text = render(prompt or PROMPT, question=question, solution=last.solution if last else wrong)
        # Each round takes another sample, because the same solution must not get the same answer again.
        made = await attempt(teacher, text, gold, sample=number)
        answers.append(made.completion)
        if made.verdict is None:
            continue
        last = made
        if made.verdict == "correct":
            break
    return last, answers


class ReflectParams(Params):
    """Parameters of reflect."""

    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    prompt: Annotated[str | None, template("question", "solution", builtin=PROMPT)] = None

    def calls(self) -> dict[str, int]:
        """One call for each round."""
        return {"teacher": self.rounds}


@operator(outputs={"solved": MathSolution, "unsolved": MathSolution})
async def reflect(
    unsolved: MathSolution, ctx: Context, teacher: ChatModel, params: ReflectParams
) -> AsyncIterator[tuple[str, MathSolution]]:
    """Repair a wrong solution by reflection: ask the teacher to find the mistake in its solution, and to solve the problem
    again.

    A repaired solution goes to `solved`, as stage 2. A row that is still wrong goes to `unsolved` with its last complete
    attempt. The teacher learns only that its solution is wrong; the gold answer is never shown.

    Metrics: `reflection` counts rows by outcome; `repair_rate` is the share that was repaired.

    Source: PersonaMath, stage 2 (arXiv 2410.01504).

    Args:
        rounds: the number of attempts; each starts from the previous attempt's solution.
        prompt: a template with {{ question }} and {{ solution }} that replaces the built-in one.
    """
    last, answers = await repair(
        teacher, unsolved.question, unsolved.answer, unsolved.solution, rounds=params.rounds, prompt=params.prompt
    )
    if last is None or last.verdict is None:
        ctx.count("reflection", "cut off")
        yield "unsolved", unsolved
        return
    ctx.count("reflection", "repaired" if last.verdict == "correct" else f"still {last.verdict}")
    changes = {"solution": last.solution, "predicted": last.predicted, "verdict": last.verdict, "stage": 2}
    changes["thinking"] = last.completion.reasoning
    yield ("solved" if last.verdict == "correct" else "unsolved"), derived(unsolved.model_copy(update=changes), *answers)


@reflect.finish
def repair_rate(counts: Counters) -> Iterator[Metric]:
    """`repair_rate`: the share of wrong solutions that reflection repaired (about 0.1 in the paper)."""
    outcomes = {part: value for (metric, part), value in counts.items() if metric == "reflection"}
    if total := sum(outcomes.values()):
        yield Metric(metric="repair_rate", slice="", value=outcomes.get("repaired", 0) / total)
