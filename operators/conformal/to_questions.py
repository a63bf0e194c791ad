"""Problems as questions, so that answers to them can be sampled and calibrated."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.operator import operator
from operators.math.answers import gold_answer
from operators.records import MathProblem, Question


@operator(outputs=Question)
async def to_questions(problem: MathProblem) -> AsyncIterator[Question]:
    """A problem (or a solved one, such as a persona's rewrite) as a question with its gold answer; its source is the group."""
    yield Question(question=problem.question, answers=[gold_answer(problem.answer)], group=problem.source, id=problem.id)
