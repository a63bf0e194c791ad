"""Make training examples of rows: a conversation whose last turn is to be learnt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from engine.operator import InputTypes, Params, Record, Reject, Wrong, operator, template_problem
from operators.generic.new_fields import type_of_field, unknown_fields
from operators.generic.turns import Turns, conversation, turn_problems, turns_of
from operators.records import Message, SFTExample, read_tools


class ChatParams(Params):
    """Parameters of to_chat."""

    messages: Turns
    thinking: str | None = None
    tools: str | None = None

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Turns that do not fit the rows, or that are no example."""
        record = inputs["row"]
        for name in ("thinking", "tools"):
            field = getattr(self, name)
            if field is None:
                continue
            yield from unknown_fields(record, {(name,): field})
            kind = type_of_field(record, field)
            if kind is not None and kind.kind != "str":
                yield Wrong(f"{name}: field {field!r} is {kind}; expected str", (name,))
        found = list(turn_problems(self.messages, record, "messages", last="assistant"))
        yield from found
        if found:
            return
        last = len(self.messages) - 1
        if all(each["role"] != "user" for each in self.messages):
            yield Wrong("messages: there is no turn of the user, so there is no prompt", ("messages",))
        if problem := template_problem(self.messages[last]["content"], record):
            yield Wrong(f"messages: the turn to learn: {problem}", ("messages", last, "content"))


@operator
async def to_chat(row: Record, params: ChatParams) -> AsyncIterator[SFTExample]:
    """Make a training example of each row: a conversation, whose last turn is the completion to learn.

        steps:
          sft:
            op: to_chat
            in: answers
            with:
              messages:
              - {role: user, content: "{{ question }}"}
              - {role: assistant, content: "{{ response }}"}

    A row with an empty turn is rejected; an empty system message is left out.

    Args:
        messages: the turns, `{role: system | user | assistant, content: TEMPLATE}`. The last one is the assistant's.
        thinking: the field with the reasoning before the last turn, such as that of `generate`'s `reasoning`.
        tools: the field with the tools that the model could call, as JSON text.
    """
    *before, last = [Message.model_validate(each) for each in conversation(turns_of(params.messages), row)]
    if params.thinking is not None:
        last = last.model_copy(update={"thinking": getattr(row, params.thinking) or None})
    tools = getattr(row, params.tools) if params.tools is not None else None
    try:
        if tools:
            read_tools(tools)
    except ValueError as error:
        raise Reject(str(error)) from error
    yield SFTExample(prompt=before, completion=[last], tools=tools or None)
