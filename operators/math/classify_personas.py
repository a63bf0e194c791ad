"""Sort personas into occupation classes, so that problems can be rewritten for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BaseModel

from engine.operator import ChatModel, Context, Encoder, Params, operator, render, template
from operators.math.occupations import DESCRIPTIONS, OCCUPATIONS, Occupation
from operators.records import Persona

PROMPT = """\
Which occupation class does the person below belong to? Choose one of:
{% for each in classes %}
- {{ each.name }}: {{ each.description }}
{%- endfor %}

Answer with a JSON object that has the class's name as `occupation`.

Person: {{ persona }}"""


class Choice(BaseModel):
    """The teacher's answer."""

    occupation: Occupation


class ClassifyParams(Params):
    """Parameters of classify_personas."""

    method: Literal["llm", "embedding"] = "llm"
    overwrite: bool = False
    prompt: Annotated[str | None, template("persona", "classes", builtin=PROMPT)] = None

    def roles(self) -> set[str]:
        """The encoder or the teacher, depending on the method."""
        return {"encoder"} if self.method == "embedding" else {"teacher"}

    def calls(self) -> dict[str, int]:
        """One call, and a second one if the answer cannot be read."""
        return {} if self.method == "embedding" else {"teacher": 2}


@operator(outputs={"personas": Persona})
async def classify_personas(
    persona: Persona, ctx: Context, teacher: ChatModel | None, encoder: Encoder | None, params: ClassifyParams
) -> AsyncIterator[Persona]:
    """Assign one of 11 occupation classes to each persona: the ten major groups of ISCO-08, or `other`.

    A persona that already has one of these classes keeps it, at no cost.

    Metrics: `occupations` counts the classes.

    Source: PersonaMath v2 (arXiv 2410.01504).

    Args:
        method: `llm` asks the teacher (and asks again if the answer cannot be read); `embedding` chooses the class whose
            description is most similar to the persona, by a sentence encoder (role `encoder`): free, but less accurate.
        overwrite: whether to classify personas that already have a class.
        prompt: a template with {{ persona }} and {{ classes }} (a list with `name` and `description`) that replaces the
            built-in one.
    """
    if persona.occupation in OCCUPATIONS and not params.overwrite:
        ctx.count("occupations", persona.occupation)
        yield persona
        return
    if encoder is not None:
        classes, [vector] = await encoder.embed(list(DESCRIPTIONS.values())), await encoder.embed([persona.persona])
        found = OCCUPATIONS[int((classes @ vector).argmax())]
    else:
        assert teacher is not None
        choices = [{"name": name, "description": text} for name, text in DESCRIPTIONS.items()]
        text = render(params.prompt or PROMPT, persona=persona.persona, classes=choices)
        found = (await teacher.parse(text, Choice)).occupation
    ctx.count("occupations", found)
    yield persona.model_copy(update={"occupation": found})
