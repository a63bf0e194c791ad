"""Solve problems again with a detailed chain of thought, and verify the solutions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import Field

from engine.operator import ChatModel, Context, Params, Reject, RequestError, derived, operator, render, template
from operators.math.answers.extraction import gold_answer
from operators.math.attempts import attempt, cut_off
from operators.records import MathProblem, MathSolution

PROMPT = """\
Solve the following problem. Think step by step: say what is given and what is asked, carry out each calculation on its \
own line, and check the result. Then end with a line that has only the final answer in \\boxed{}.

Problem: {{ question }}"""


class SolveParams(Params):
    """Parameters of regenerate_cot."""

    attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    prompt: Annotated[str | None, template("question", builtin=PROMPT)] = None

    def calls(self) -> dict[str, int]:
        """One call for each attempt."""
        return {"teacher": self.attempts}

    def prompt_bytes(self) -> int:
        """The template; no prompt contains an answer."""
        return len((self.prompt or PROMPT).encode())


@operator(outputs={"solved": MathSolution, "unsolved": MathSolution})
async def regenerate_cot(
    problem: MathProblem, ctx: Context, teacher: ChatModel, params: SolveParams
) -> AsyncIterator[tuple[str, MathSolution]]:
    """Solve a problem again with a detailed chain of thought.

    The first sample whose final answer equals the gold answer goes to `solved`. If there is none, the last complete sample
    goes to `unsolved` with its verdict, for reflection to start from. Samples that were cut off at max_tokens, refused,
    filtered or empty are never kept; a problem with no other samples is rejected.

    The gold answer may be bare, at the end of a worked solution (`#### 72`, GSM8K), or in a `\\boxed{}` (MATH). The outputs
    contain it bare.

    Source: PersonaMath, stage 1 (arXiv 2410.01504), which makes one attempt.

    Args:
        attempts: the number of samples per problem; the first correct one is kept.
        prompt: a template with {{ question }} that replaces the built-in one.
    """
    gold = gold_answer(problem.answer)
    text = render(params.prompt or PROMPT, question=problem.question)
    unsolved: MathSolution | None = None
    failed: RequestError | None = None
    reason = ""
    for sample in range(params.attempts):
        try:
            made = await attempt(teacher, text, gold, sample=sample)
        except RequestError as error:
            if error.completion is None:  # the request itself failed
                raise
            failed = error
            ctx.count("samples", "unusable")
            continue
        ctx.count("samples", made.verdict or "cut off")
        if made.verdict is None:
            reason = cut_off(teacher, made.completion)
            continue
        record = MathSolution(
            question=problem.question,
            answer=gold,
            solution=made.solution,
            predicted=made.predicted,
            verdict=made.verdict,
            source=problem.source,
            id=problem.id,
            thinking=made.completion.reasoning,
        )
        record = derived(record, made.completion)
        if made.verdict == "correct":
            yield "solved", record
            return
        unsolved = record
    if unsolved is None:
        raise failed or Reject(reason)
    yield "unsolved", unsolved
