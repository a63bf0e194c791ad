"""Turn judged responses into single labelled examples, for train_kto."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.operator import operator
from operators.alignment.paths import BasePrompt, base_prompt
from operators.records import LabelledExample, Message, PathResponse


@operator
async def label_responses(response: PathResponse, *, prompt: BasePrompt = None) -> AsyncIterator[LabelledExample]:
    """Turn each judged response into an example labelled as correct or not; this needs no pairs.

    The prompt is that of the path `base`, whatever path the response came from.

    Args:
        prompt: a template with {{ question }} and {{ contexts }} that replaces the built-in one.
    """
    yield LabelledExample(
        prompt=base_prompt(response.question, response.contexts, prompt),
        completion=[Message(role="assistant", content=response.response)],
        label=response.correct,
    )
