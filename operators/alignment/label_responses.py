"""Judged responses as single examples that are wanted or not, for train_kto."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.operator import operator
from operators.alignment.paths import Turn, base_prompt
from operators.records import LabelledExample, Message, PathResponse


@operator(outputs=LabelledExample)
async def label_responses(response: PathResponse, *, prompt: Turn | None = None) -> AsyncIterator[LabelledExample]:
    """Make each judged response an example with the label that it is correct; no pairs are needed.

    The prompt is that of the path `base`, whatever path led to the response.

    Args:
        prompt: a template with {{ question }} and {{ contexts }} to use in place of the built-in one.
    """
    yield LabelledExample(
        prompt=base_prompt(response.question, response.contexts, prompt),
        completion=[Message(role="assistant", content=response.response)],
        label=response.correct,
    )
