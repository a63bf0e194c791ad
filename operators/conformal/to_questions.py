"""Turn problems into questions whose answers can be sampled and calibrated."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.operator import operator
from operators.math.answers.extraction import gold_answer
from operators.records import MathProblem, Question


@operator
async def to_questions(problem: MathProblem) -> AsyncIterator[Question]:
    """Turn a problem or a solution (such as a rewrite) into a question with its gold answer; `source` becomes `group`."""
    yield Question(question=problem.question, answers=[gold_answer(problem.answer)], group=problem.source, id=problem.id)
