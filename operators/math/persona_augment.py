"""Retell solved problems in the worlds of personas, solve the retold ones, and keep what gives the seed's answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from engine.llm.chat import ChatModel
from engine.llm.types.completions import Completion
from engine.llm.types.errors import RequestError
from engine.operator import Context, Reject, Table, derived, operator
from engine.operator.prompts import prompt_with, render
from operators.math.answers import gold_answer
from operators.math.reflect import PROMPT as REFLECT_PROMPT
from operators.math.reflect import repair
from operators.math.regenerate_cot import PROMPT as SOLVE_PROMPT
from operators.math.rewrites import clean, problem_with
from operators.math.solving import Attempt, attempt, cut_off
from operators.records import MathSolution, Persona


@operator(
    outputs={"solved": MathSolution, "rejected": MathSolution},
    models=["teacher"],
    calls=lambda params: {
        "teacher": params.personas_per_problem * (2 + (params.rounds if params.solve_with == "reflect" else 0))
    },
)
async def persona_augment(
    solution: MathSolution,
    personas: Table[Persona],
    ctx: Context,
    *,
    personas_per_problem: Annotated[int, Field(ge=1, le=1000)] = 5,
    solve_with: Literal["cot", "reflect"] = "cot",
    rounds: Annotated[int, Field(ge=1, le=100)] = 1,
    check_quantities: bool = True,
    rewrite_prompt: Annotated[str | None, prompt_with("question", "persona")] = None,
    solve_prompt: Annotated[str | None, prompt_with("question")] = None,
    reflect_prompt: Annotated[str | None, prompt_with("question", "solution")] = None,
) -> AsyncIterator[tuple[str, MathSolution]]:
    """Rewrite a problem for several personas, and solve each rewrite.

    A rewrite keeps quantities, relations and what is asked for; setting and wording change. It is dropped, with a reason
    in `rejects`, when it equals the original or another rewrite, reveals the answer, or names other quantities. Of the
    others, those whose solution ends in the seed's gold answer go to `solved`, the rest to `rejected` with their verdict.
    A row that leads to nothing because requests failed is rejected itself.
    Rewrites keep the seed's `id`, `source` and `stage`, and have the persona and its occupation.

    Metrics: `rewrites` counts what became of them.

    Source: PersonaMath (arXiv 2410.01504): 5 personas imitate version 1, 11 (one of each class) version 2; rewrites of stage
    2 are solved with reflection.

    Args:
        personas_per_problem: how many are drawn, over as many occupation classes as there are; fewer when there are fewer.
        solve_with: `cot` solves once; `reflect` lets the teacher look at a wrong solution again.
        rounds: tries of reflection.
        check_quantities: whether rewrites must name the original's quantities and no others.
        rewrite_prompt: a template with {{ question }} and {{ persona }} to use in place of the built-in one.
        solve_prompt: one with {{ question }}; that of regenerate_cot by default.
        reflect_prompt: one with {{ question }} and {{ solution }}; that of reflect by default.
    """
    if not len(personas):
        raise Reject("there are no personas to draw from")
    teacher = ctx.models["teacher"]
    gold = gold_answer(solution.answer)
    kept: list[str] = []
    failed: RequestError | None = None
    led = False
    for row in draw(strata(personas), personas_per_problem, ctx.random):
        persona = personas[row]
        try:
            rewrite = await teacher.chat(
                render(rewrite_prompt or REWRITE_PROMPT, question=solution.question, persona=persona.persona)
            )
            problem = clean(rewrite.text)
            trouble = (
                cut_off(teacher)
                if rewrite.truncated
                else problem_with(solution.question, problem, gold, others=kept, check_quantities=check_quantities)
            )
            if trouble is None:
                kept.append(problem)
                solve = render(solve_prompt or SOLVE_PROMPT, question=problem)
                made, answers = await _solved(
                    teacher, problem, solve, gold, rounds if solve_with == "reflect" else 0, reflect_prompt
                )
                trouble = cut_off(teacher) if made.verdict is None else None
        except RequestError as error:
            trouble = str(error)
            failed = error if error.completion is None else failed
        if trouble is not None:
            ctx.count("rewrites", "rejected")
            ctx.reject(trouble)
            continue
        assert made.verdict is not None
        led = True
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
    if failed is not None and not led:
        raise failed  # the row counts for max_reject_ratio, so that an outage fails the step


async def _solved(
    teacher: ChatModel, problem: str, prompt: str, gold: str, rounds: int, reflect_prompt: str | None
) -> tuple[Attempt, list[Completion]]:
    """The attempt that counts, and the answers that led to it."""
    first = await attempt(teacher, prompt, gold)
    if not rounds or first.verdict in ("correct", None):
        return first, [first.completion]
    last, answers = await repair(teacher, problem, gold, first.solution, rounds=rounds, prompt=reflect_prompt or REFLECT_PROMPT)
    return last or first, [first.completion, *answers]


@lru_cache(maxsize=4)
def strata(personas: Table[Persona]) -> tuple[tuple[int, ...], ...]:
    """Row numbers of the personas, one tuple for each occupation class (those without one are a class of their own)."""
    classes: dict[str, list[int]] = {}
    for row, occupation in enumerate(personas.arrow.column("occupation").to_pylist()):
        classes.setdefault(occupation or "", []).append(row)
    return tuple(tuple(classes[name]) for name in sorted(classes))


def draw(classes: tuple[tuple[int, ...], ...], count: int, draws: random.Random) -> list[int]:
    """`count` different rows (all, when there are fewer): one of each class in random order, then a second of each, ..."""
    order = [draws.sample(rows, min(len(rows), count)) for rows in draws.sample(classes, len(classes))]
    longest = max(map(len, order), default=0)
    return [rows[turn] for turn in range(longest) for rows in order if turn < len(rows)][:count]


REWRITE_PROMPT = """\
Rewrite the problem below so that it plays in the world of the person described: their place, their things, their words. \
Keep every number, how the quantities relate to each other, and what is asked for, so that the answer stays the same. \
Change the setting and the wording throughout; add no numbers, drop none, and do not give the answer or any hint at it. \
Answer with the rewritten problem and nothing else.

Persona: {{ persona }}

Problem: {{ question }}"""
