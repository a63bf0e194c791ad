"""Make training examples of rows: a conversation whose last turn is to be learnt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

from pydantic import ValidationError

from engine.operator import InputTypes, Params, Record, Reject, Wrong, operator, plain, template_problem
from operators.generic.new_fields import type_of_field, unknown_fields
from operators.generic.tools import CALLS_FIELD, ToolsParameter, are_calls, tool_problems, tools_of
from operators.generic.turns import Turns, conversation, turn_problems, turns_of
from operators.records import Message, SFTExample


class ChatParams(Params):
    """Parameters of to_chat."""

    messages: Turns
    thinking: str | None = None
    tool_calls: str | None = None
    tools: ToolsParameter = None

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Turns that do not fit the rows, or that do not make an example."""
        record = inputs["row"]
        named = {"thinking": self.thinking, "tool_calls": self.tool_calls}
        yield from unknown_fields(record, {(name,): field for name, field in named.items() if field is not None})
        kind = type_of_field(record, self.thinking) if self.thinking else None
        if kind is not None and kind.kind != "str":
            yield Wrong(f"thinking: field {self.thinking!r} is {kind}; expected str", ("thinking",))
        kind = type_of_field(record, self.tool_calls) if self.tool_calls else None
        if kind is not None and not are_calls(kind):
            expected = f"{CALLS_FIELD.type}, as `generate` makes it"
            yield Wrong(f"tool_calls: field {self.tool_calls!r} is {kind}; expected {expected}", ("tool_calls",))
        if self.tools is not None:
            yield from tool_problems(self.tools, record)
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
        tool_calls: the field with the calls of the last turn, such as that of `generate`'s `tools`. With calls, the turn needs
            no text.
        tools: the tools that the model could call: a list of them, as for `generate`, or the field with them as JSON text.
    """
    fields = plain(row)
    calls = fields[params.tool_calls] if params.tool_calls is not None else None
    *before, last = conversation(turns_of(params.messages), row, last_may_be_empty=bool(calls))
    thinking = fields[params.thinking] if params.thinking is not None else None
    try:
        learnt = Message.model_validate({**last, "thinking": thinking or None, "tool_calls": calls or None})
    except ValidationError as why:
        raise Reject(f"{params.tool_calls}: not calls of tools: {why.errors(include_url=False)[0]['msg']}") from why
    has_tools = params.tools is not None and (not isinstance(params.tools, str) or fields[params.tools])
    tools = json.dumps(tools_of(params.tools, row), ensure_ascii=False) if has_tools else None
    yield SFTExample(prompt=[Message.model_validate(each) for each in before], completion=[learnt], tools=tools)
