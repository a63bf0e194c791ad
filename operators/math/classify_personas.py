"""Sort personas into occupation classes, so that problems can be retold across all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BaseModel

from engine.operator import Context, operator
from engine.operator.prompts import prompt_with, render
from operators.math.occupations import DESCRIPTIONS, OCCUPATIONS, Occupation
from operators.records import Persona


class Choice(BaseModel):
    """What the teacher answers."""

    occupation: Occupation


@operator(
    outputs={"personas": Persona},
    models=["teacher"],
    encoders=["encoder"],
    uses=lambda params: ["encoder"] if params.method == "embedding" else ["teacher"],
    calls=lambda params: {} if params.method == "embedding" else {"teacher": 2},
)
async def classify_personas(
    persona: Persona,
    ctx: Context,
    *,
    method: Literal["llm", "embedding"] = "llm",
    overwrite: bool = False,
    prompt: Annotated[str | None, prompt_with("persona", "classes")] = None,
) -> AsyncIterator[Persona]:
    """Give a persona one of 11 occupation classes: the ten major groups of ISCO-08, and `other`.

    A persona that has one of them keeps it and costs nothing.

    Metrics: `occupations` counts the classes.

    Source: PersonaMath v2 (arXiv 2410.01504).

    Args:
        method: `llm` asks the teacher (once more when the answer cannot be read); `embedding` takes the class whose
            description is the most similar to the persona, with a sentence encoder (role `encoder`): free, and rougher.
        overwrite: classify personas that have a class, too.
        prompt: a template with {{ persona }} and {{ classes }} (a list with `name` and `description`) to use in place of
            the built-in one.
    """
    if persona.occupation in OCCUPATIONS and not overwrite:
        ctx.count("occupations", persona.occupation)
        yield persona
        return
    if method == "embedding":
        encoder = ctx.encoders["encoder"]
        classes, [vector] = await encoder.embed(list(DESCRIPTIONS.values())), await encoder.embed([persona.persona])
        found = OCCUPATIONS[int((classes @ vector).argmax())]
    else:
        choices = [{"name": name, "description": text} for name, text in DESCRIPTIONS.items()]
        text = render(prompt or PROMPT, persona=persona.persona, classes=choices)
        found = (await ctx.models["teacher"].parse(text, Choice)).occupation
    ctx.count("occupations", found)
    yield persona.model_copy(update={"occupation": found})


PROMPT = """\
Which occupation class does the person below belong to? Choose one of:
{% for each in classes %}
- {{ each.name }}: {{ each.description }}
{%- endfor %}

Answer with a JSON object that has the class's name as `occupation`.

Person: {{ persona }}"""
