"""Make training examples of rows: a conversation whose last turn is to be learnt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from engine.operator import InputTypes, Params, Record, Wrong, operator, template_problem
from operators.generic.turns import Turns, conversation, turn_problems, turns_of
from operators.records import Message, SFTExample


class ChatParams(Params):
    """Parameters of to_chat."""

    messages: Turns

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Turns that do not fit the rows, or that are no example."""
        record = inputs["row"]
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
    """
    *before, last = [Message.model_validate(each) for each in conversation(turns_of(params.messages), row)]
    yield SFTExample(prompt=before, completion=[last])
