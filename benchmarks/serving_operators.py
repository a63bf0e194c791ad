"""The operator of `benchmarks.serving`, as a pipeline would have it beside its file."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.operator import ChatModel, Record, operator


class Text(Record):
    """A text."""

    text: str


@operator
async def continued(prompt: Text, teacher: ChatModel) -> AsyncIterator[Text]:
    """The answer to a prompt, also where max_tokens has ended it."""
    yield Text(text=(await teacher.chat(prompt.text)).text)
