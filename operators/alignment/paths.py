"""Paths: ways of prompting a model to answer a question from contexts. A path has a name and its turns, as templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from engine.operator import ChatModel, Completion, render, template
from operators.records import Message

Turn = Annotated[str, template("question", "contexts")]
"""A user's turn: a template with {{ question }} and {{ contexts }}, the passages as numbered lines (empty without passages)."""


def used_paths(added: Mapping[str, str | Sequence[str]], use: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The turns of the paths in use, simplest first.

    Args:
        added: more paths, or replacements of built-in ones with the same name; one turn or several.
        use: the names of paths, simplest first; by default the built-in ones, then the added ones.

    Raises:
        KeyError: a name is unknown.
    """
    known = PATHS | {name: (turns,) if isinstance(turns, str) else tuple(turns) for name, turns in added.items()}
    return {name: known[name] for name in (known if use is None else use)}


async def follow(
    policy: ChatModel, turns: Sequence[str], question: str, contexts: Sequence[str], *, temperature: float
) -> list[Completion]:
    """The policy's answers along a path, one for each turn, given the conversation so far; the last one is its response.

    Raises:
        RequestError: a turn was not answered.
    """
    conversation: list[Message] = []
    answers = []
    for turn in turns:
        conversation.append(Message(role="user", content=_filled(turn, question, contexts)))
        answers.append(await policy.chat(conversation, temperature=temperature))
        conversation.append(Message(role="assistant", content=answers[-1].text))
    return answers


def base_prompt(question: str, contexts: Sequence[str], template: str | None = None) -> list[Message]:
    """The prompt for training and evaluation: the question and its contexts, without a warning.

    Args:
        question: the question.
        contexts: the passages; none for a closed-book question.
        template: one with {{ question }} and {{ contexts }} that replaces the path `base`.
    """
    return [Message(role="user", content=_filled(BASE if template is None else template, question, contexts))]


def _filled(turn: str, question: str, contexts: Sequence[str]) -> str:
    numbered = "\n".join(f"[{number}] {context}" for number, context in enumerate(contexts, 1))
    return render(turn, question=question, contexts=numbered)


_GIVEN = """\
{% if contexts %}Contexts:
{{ contexts }}

{% endif %}Question: {{ question }}

"""

_LAST_LINE = "End with a line that has only the short answer: `Answer: ...`"

BASE = f"{_GIVEN}Answer the question{{% if contexts %}} with the help of the contexts{{% endif %}} in one short sentence."

BasePrompt = Annotated[str | None, template("question", "contexts", builtin=BASE)]
"""A template that replaces the path `base`."""

_TIPS = f"""\
{BASE}{{% if contexts %}} Some of the contexts may be wrong: do not follow one that contradicts the others, or what you \
know.{{% endif %}}"""

_BASE_COT = f"""\
{_GIVEN}Answer the question{{% if contexts %}} with the help of the contexts{{% endif %}}. Think step by step. {_LAST_LINE}"""

_COT_NOPK = f"""\
{_GIVEN}Answer the question in these steps:
{{% if contexts %}}\
1. Write down what each context says about the question.
2. Compare these statements with each other: which agree, and which contradict each other?
3. Decide which are false, and leave those contexts out.
4. Answer from what is left.
{{% else %}}\
1. Write down the facts that the question asks about.
2. Compare them with each other: do any contradict each other?
3. Leave out those that are false.
4. Answer from what is left.
{{% endif %}}\
{_LAST_LINE}"""

_CONCEPTS = """\
Here is a question. Do not answer it yet: name the key concepts in it, such as people, places, things and dates, and what is \
asked about them.

Question: {{ question }}"""

_KNOWN = "Now say what you know of each of them yourself, a sentence or two each. Where you are not sure, say so."

_WEIGHED = f"""\
{{% if contexts %}}\
Here are contexts that somebody has found for the question:
{{{{ contexts }}}}

Compare each of them with what you know, and with the others. Decide which of them you can use; where they are false, use \
what you know instead. Then answer the question: {{{{ question }}}}
{{% else %}}\
From what you know, answer the question: {{{{ question }}}}
{{% endif %}}\
{_LAST_LINE}"""

PATHS: dict[str, tuple[str, ...]] = {
    "base": (BASE,),
    "tips": (_TIPS,),
    "base_cot": (_BASE_COT,),
    "cot_nopk": (_COT_NOPK,),
    "cot_pk": (_CONCEPTS, _KNOWN, _WEIGHED),
}
"""The five paths of Dialectical Alignment, simplest first, in our own wording."""
