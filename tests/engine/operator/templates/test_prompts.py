"""Prompts among parameters are recognised by their annotation, whatever their names."""

from __future__ import annotations

from typing import Annotated

from engine.operator import Params, Prompt, template
from engine.operator.templates.prompts import prompt_texts

BUILT_IN = "Q: {{ question }}"


class Asked(Params):
    """Parameters with texts, some of which are prompts."""

    words: Annotated[str | None, template("question", builtin=BUILT_IN)] = None
    extra: Annotated[str | None, template("question")] = None
    preface: Annotated[str | None, Prompt()] = None
    prompt: str = "is no prompt"


def test_prompts_are_those_that_are_set_and_the_built_in_ones() -> None:
    assert prompt_texts(Asked()) == {"words": BUILT_IN}
    set_ones = {"words": "Say {{ question }}", "preface": "Be brief {{"}
    assert prompt_texts(Asked.model_validate(set_ones)) == set_ones
