"""Rewrite solved problems for personas, solve the rewrites, and keep those with the original answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from engine.operator import (
    ChatModel,
    Completion,
    Context,
    Params,
    Reject,
    RequestError,
    Table,
    derived,
    operator,
    render,
    template,
)
from operators.math.answers.extraction import gold_answer
from operators.math.attempts import Attempt, attempt, cut_off
from operators.math.reflect import PROMPT as REFLECT_PROMPT
from operators.math.reflect import repair
from operators.math.regenerate_cot import PROMPT as SOLVE_PROMPT
from operators.math.rewrites import clean, problem_with
from operators.records import MathSolution, Persona

REWRITE_PROMPT = """\
Rewrite the problem below so that it plays in the world of the person described: their place, their things, their words. \
Keep every number, how the quantities relate to each other, and what is asked for, so that the answer stays the same. \
Change the setting and the wording throughout; add no numbers, drop none, and do not give the answer or any hint at it. \
Answer with the rewritten problem and nothing else.

Persona: {{ persona }}

Problem: {{ question }}"""


class AugmentParams(Params):
    """Parameters of persona_augment."""

    personas_per_problem: Annotated[int, Field(ge=1, le=1000)] = 5
    solve_with: Literal["cot", "reflect"] = "cot"
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    check_quantities: bool = True
    rewrite_prompt: Annotated[str | None, template("question", "persona", builtin=REWRITE_PROMPT)] = None
    solve_prompt: Annotated[str | None, template("question", builtin=SOLVE_PROMPT)] = None
    reflect_prompt: Annotated[str | None, template("question", "solution", builtin=REFLECT_PROMPT)] = None

    @property
    def reflections(self) -> int:
        """The maximum number of rounds of reflection on a wrong solution."""
        return self.rounds if self.solve_with == "reflect" else 0

    def calls(self) -> dict[str, int]:
        """For each persona a rewrite, a solution, and the rounds of reflection."""
        return {"teacher": self.personas_per_problem * (2 + self.reflections)}


@operator(outputs={"solved": MathSolution, "rejected": MathSolution})
async def persona_augment(
    solution: MathSolution, personas: Table[Persona], ctx: Context, teacher: ChatModel, params: AugmentParams
) -> AsyncIterator[tuple[str, MathSolution]]:
    """Rewrite a problem for several personas, and solve each rewrite.

    A rewrite keeps the quantities, their relations and what is asked; the setting and the wording change. It is dropped, with a
    reason in `rejects`, if it equals the original or another rewrite, reveals the answer, or has other quantities. Rewrites
    whose solution ends in the original gold answer go to `solved`, the rest to `rejected` with their verdict. A row without any
    rewrite because requests failed is rejected as a whole. Rewrites keep the original's `id`, `source` and `stage`, and have
    the persona and its occupation.

    Metrics: `rewrites` by outcome.

    Source: PersonaMath (arXiv 2410.01504). Use 5 personas for version 1, and 11 (one of each class) for version 2; rewrites of
    stage 2 are solved with reflection.

    Args:
        personas_per_problem: how many personas to draw, from as many occupation classes as possible; fewer if there are
            not enough.
        solve_with: `cot` solves once; `reflect` also has the teacher revise a wrong solution.
        rounds: the maximum number of rounds of reflection.
        check_quantities: whether rewrites must have the original's quantities and no others.
        rewrite_prompt: a template with {{ question }} and {{ persona }} that replaces the built-in one.
        solve_prompt: a template with {{ question }}; that of regenerate_cot by default.
        reflect_prompt: a template with {{ question }} and {{ solution }}; that of reflect by default.
    """
    if not len(personas):
        raise Reject("there are no personas to draw from")
    gold = gold_answer(solution.answer)
    kept: list[str] = []
    failed: RequestError | None = None
    produced = False
    for row in draw(strata(personas), params.personas_per_problem, ctx.random):
        persona = personas[row]
        try:
            rewrite = await teacher.chat(
                render(params.rewrite_prompt or REWRITE_PROMPT, question=solution.question, persona=persona.persona)
            )
            problem = clean(rewrite.text)
            reason = (
                cut_off(teacher, rewrite)
                if rewrite.truncated
                else problem_with(solution.question, problem, gold, others=kept, check_quantities=params.check_quantities)
            )
            if reason is None:
                kept.append(problem)
                made, answers = await _solved(teacher, problem, gold, params)
                reason = cut_off(teacher, made.completion) if made.verdict is None else None
        except RequestError as error:
            reason = str(error)
            failed = error if error.completion is None else failed
        if reason is not None:
            ctx.count("rewrites", "rejected")
            ctx.reject(reason)
            continue
        assert made.verdict is not None
        produced = True
        ctx.count("rewrites", made.verdict)
        record = solution.model_copy(
            update={
                "question": problem,
                "solution": made.solution,
                "predicted": made.predicted,
                "verdict": made.verdict,
                "persona": persona.persona,
                "occupation": persona.occupation,
            }
        )
        yield ("solved" if made.verdict == "correct" else "rejected"), derived(record, persona, rewrite, *answers)
    if failed is not None and not produced:
        raise failed  # the row counts towards max_reject_ratio, so that an outage fails the step


async def _solved(teacher: ChatModel, problem: str, gold: str, params: AugmentParams) -> tuple[Attempt, list[Completion]]:
    """The attempt that counts, and all answers that led to it."""
    first = await attempt(teacher, render(params.solve_prompt or SOLVE_PROMPT, question=problem), gold)
    if not params.reflections or first.verdict in ("correct", None):
        return first, [first.completion]
    last, answers = await repair(
        teacher, problem, gold, first.solution, rounds=params.reflections, prompt=params.reflect_prompt
    )
    return last or first, [first.completion, *answers]


@lru_cache(maxsize=4)
def strata(personas: Table[Persona]) -> tuple[tuple[int, ...], ...]:
    """The row numbers of the personas, one tuple for each occupation class (personas without one form another class)."""
    classes: dict[str, list[int]] = {}
    for row, occupation in enumerate(personas.arrow.column("occupation").to_pylist()):
        classes.setdefault(occupation or "", []).append(row)
    return tuple(tuple(classes[name]) for name in sorted(classes))


def draw(classes: tuple[tuple[int, ...], ...], count: int, draws: random.Random) -> list[int]:
    """`count` different rows (or all, if there are fewer): one from each class in random order, then a second from each, ..."""
    order = [draws.sample(rows, min(len(rows), count)) for rows in draws.sample(classes, len(classes))]
    longest = max(map(len, order), default=0)
    return [rows[turn] for turn in range(longest) for rows in order if turn < len(rows)][:count]
