"""Ask a model about each row, and keep its answer as new fields."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from engine.operator import (
    Calls,
    Capabilities,
    Capability,
    ChatModel,
    Completion,
    Context,
    Described,
    DescribedField,
    FieldTypes,
    InputTypes,
    OutputTypes,
    Params,
    Prompt,
    Record,
    Reject,
    RequestError,
    Wrong,
    derived,
    field_problems,
    fields_of,
    operator,
    plain,
    template_problem,
)
from operators.generic.images import BOUND_BYTES, MOST_IMAGES, image_parts, takes_images
from operators.generic.new_fields import At, clashes, grown, new_field, type_of_field, unknown_fields, with_new
from operators.generic.tools import CALLS_FIELD, TOOL_CALLS, TOOLS_BYTES, ToolsParameter, calls_in, tool_problems, tools_of
from operators.generic.turns import TextOrTurns, conversation, turn_problems, turns_of

_SAMPLE = "sample"


class GenerateParams(Params):
    """Parameters of generate."""

    prompt: TextOrTurns
    system: Annotated[str | None, Prompt()] = None
    into: str | None = None
    fields: Annotated[dict[str, Any] | None, FieldTypes()] = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    reasoning: str | None = None
    images: str | None = None
    tools: ToolsParameter = None
    keep: list[str] | None = None

    @cached_property
    def text_field(self) -> str:
        """The field that gets an answer as text."""
        return "response" if self.into is None else self.into

    @cached_property
    def answer_fields(self) -> tuple[DescribedField, ...]:
        """The fields that get the answer."""
        return (new_field(self.text_field, "str"),) if self.fields is None else fields_of(self.fields)

    @cached_property
    def new(self) -> tuple[DescribedField, ...]:
        """All new fields, in order."""
        calls = (CALLS_FIELD,) if self.tools is not None else ()
        reasoning = (new_field(self.reasoning, "str", optional=True),) if self.reasoning else ()
        sample = (new_field(_SAMPLE, "int"),) if self.samples > 1 else ()
        return (*self.answer_fields, *calls, *reasoning, *sample)

    def made(self, record: type[Record]) -> type[Record]:
        """The type of the rows that are made from rows of a type."""
        return grown(record, self.new, None if self.keep is None else tuple(self.keep))

    def calls(self) -> Calls:
        """A call for each sample, and one more to repair an answer with fields."""
        return {"model": self.samples * (1 if self.fields is None else 2)}

    def capabilities(self) -> Capabilities:
        """Several samples have to differ, and a model may take neither images nor tools."""
        wanted: list[Capability] = ["sampling"] if self.samples > 1 else []
        wanted += ["images"] if self.images is not None else []
        wanted += ["tools"] if self.tools is not None else []
        return {"model": wanted} if wanted else {}

    def prompt_bytes(self) -> int | None:
        """With images or tools, their bound; the parameters are in it, too."""
        if self.images is None and self.tools is None:
            return None
        images = 0 if self.images is None else MOST_IMAGES * BOUND_BYTES
        return len(self.model_dump_json().encode()) + images + (0 if self.tools is None else TOOLS_BYTES)

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Templates and fields that do not fit the rows."""
        record = inputs["row"]
        yield from turn_problems(self.prompt, record, "prompt")
        if self.system is not None:
            if isinstance(self.prompt, list) and any(
                isinstance(each, dict) and each.get("role") == "system" for each in self.prompt
            ):
                yield Wrong("system: the prompt has a turn of the system already; remove one of them", ("system",))
            if problem := template_problem(self.system, record, needs_field=False):
                yield Wrong(f"system: {problem}", ("system",))
        if self.images is not None:
            yield from unknown_fields(record, {("images",): self.images})
            kind = type_of_field(record, self.images)
            if kind is not None and not takes_images(kind):
                yield Wrong(
                    f"images: field {self.images!r} is {kind}; expected images: str or bytes, or a list of these",
                    ("images",),
                )
        if self.tools is not None:
            yield from tool_problems(self.tools, record)
            if self.fields is not None:
                yield Wrong("tools and fields: an answer either calls tools or has fields; remove one of them", ("tools",))
        yield from self._output_problems(record)

    def _output_problems(self, record: type[Record]) -> Iterator[Wrong]:
        keep = self.keep
        if keep is not None:
            yield from unknown_fields(record, {("keep", place): name for place, name in enumerate(keep)})
            for place, name in enumerate(keep):
                if name in keep[:place]:
                    yield Wrong(f"keep: {name!r} is listed twice", ("keep", place))
            keep = [name for name in keep if name in record.model_fields]
        if self.into is not None and self.fields is not None:
            yield Wrong("into and fields: an answer is either a text or has fields; remove one of them", ("into",))
            return
        new: dict[str, At] = {}
        wrong: list[Wrong] = []
        if self.fields is None:
            new[self.text_field] = ("into",)
        else:
            wrong += field_problems(self.fields, ("fields",))
            new |= {name: ("fields", name) for name in self.fields}
        further = {
            "tools": TOOL_CALLS if self.tools is not None else None,
            "reasoning": self.reasoning,
            "samples": _SAMPLE if self.samples > 1 else None,
        }
        for parameter, field in further.items():
            if field is not None and field in new:
                wrong.append(Wrong(f"{parameter}: there is a new field {field!r} already; choose another name", (parameter,)))
            elif field is not None:
                new[field] = (parameter,)
        yield from wrong
        reported = {at for _, at in wrong}
        named = {name: at for name, at in new.items() if at not in reported}
        yield from clashes(record, named, keep, cure="leave it out with `keep`")

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """The row and the new fields."""
        return {"out": self.made(inputs["row"])}


@operator(outputs=Record)
async def generate(row: Record, ctx: Context, model: ChatModel, params: GenerateParams) -> AsyncIterator[Record]:
    """Ask a model about each row. The answer becomes a new field, or several.

        steps:
          answers: {op: generate, in: questions, with: {prompt: "Answer briefly: {{ question }}"}}

    The fields of the row are the variables of the prompt; `row` is the whole row, for fields whose names cannot be variables
    (`{{ row["a name"] }}`). A null prints nothing. What a template may compute and print is limited.

    An answer that was cut off at max_tokens is not used. With `fields`, the answer is a JSON object: the server enforces its
    schema where it can, the prompt asks for it otherwise, and the model gets one chance to repair an answer that does not fit.
    If it still does not fit, the row is rejected, and the reason quotes its beginning. With several samples, a sample that
    fails is left out with a reason in `rejects`; the row is rejected if all fail.

    Metrics: `answers` by outcome (`kept`, `cut off`, `failed`).

    Args:
        prompt: a template, or a conversation: a list of `{role: user, content: ...}` with templates, whose last turn is the
            user's.
        system: a template for the system message.
        into: the field for the answer as text; `response` by default.
        fields: the fields of a structured answer, as under `types:`, for example
            `{why: {type: str, description: one sentence}, score: "1 | 2 | 3"}`. Models answer in this order, so ask for reasons
            first. They can be of the types of the file and of packages, such as `list[Ticket]`.
        samples: the number of answers for each row. With several, each becomes a row with its number, from 0, in `sample`.
        reasoning: a field for the model's reasoning before its answer; null if the server returns none, or if the answer is
            from a journal of an older version. Reasoning at the beginning of the text (`<think>...</think>`) counts, too.
        images: a field with an image or a list of images: PNG, JPEG, GIF or WebP, at most 20 MB each and 16 for a row. Files
            are read with the rows if the dataset lists the field under its own `images:`. Other fields can have http(s) URLs,
            data URLs, or bytes, also as `{bytes, path}`, the form of Hugging Face datasets. A URL is sent as it is, and the
            server fetches it: its content is not recorded, and when it changes, the step does not run again. Whether the model
            takes images is tested before the step starts.
        tools: the tools that the model may call: a list of `{name, description, parameters}` (parameters: a JSON Schema), the
            same for all servers, or a field of the row with such a list as JSON text. The calls of the answer are in the new
            field `tool_calls`, in the form of SFTExample; it is null if there are none. An answer that calls another tool, or
            with arguments that do not fit the schema, is left out with a reason; regular expressions of a schema are not
            tested. Whether the model takes tools is tested before the step starts.
        keep: the fields of the row that stay; all by default. Editing it repeats no calls.
    """
    messages: list[dict[str, Any]] = [*conversation(turns_of(params.prompt), row, params.system)]
    if params.images is not None:
        parts = await image_parts(plain(row)[params.images], ctx)
        messages[-1] = {**messages[-1], "content": [{"type": "text", "text": messages[-1]["content"]}, *parts]}
    made = params.made(type(row))
    tools = tools_of(params.tools, row)
    failed: list[tuple[int, Exception]] = []
    for number, answer in enumerate(await _answers(model, messages, tools, params)):
        try:
            if isinstance(answer, RequestError):
                raise answer
            fields, completion, source = answer
            new = {**fields, **_further(params, completion, number)}
            if params.fields is None:
                new |= _text(params, completion, model)
            if params.tools is not None:
                new[TOOL_CALLS] = calls_in(completion, tools)
        except (Reject, RequestError) as error:
            ctx.count("answers", "cut off" if isinstance(error, _CutOffError) else "failed")
            failed.append((number, error))
            continue
        ctx.count("answers", "kept")
        yield derived(with_new(made, row, new), source)
    if len(failed) == params.samples:
        raise failed[0][1]
    for number, why in failed:
        ctx.reject(f"sample {number}: {why}")


_Answer = tuple[Mapping[str, Any], Completion, BaseModel]
"""The fields of an answer, the answer itself, and what stands for its calls."""


async def _answers(
    model: ChatModel, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], params: GenerateParams
) -> list[_Answer | RequestError]:
    if params.fields is None:
        return [
            each if isinstance(each, RequestError) else ({}, each, each)
            for each in await model.each_sample(messages, params.samples, tools=tools)
        ]
    answer = answer_type(params.answer_fields)
    return [
        each if isinstance(each, RequestError) else (each[0].model_dump(), each[1], each[0])
        for each in await model.parse_each(messages, answer, params.samples)
    ]


@lru_cache(maxsize=256)
def answer_type(fields: tuple[DescribedField, ...]) -> type[BaseModel]:
    """The class of a structured answer. What a model adds to the fields is ignored."""
    record = Described(name="Answer", fields=fields).record()
    return type("Answer", (record,), {"__module__": __name__, "model_config": ConfigDict(extra="ignore")})


class _CutOffError(Reject):
    """The answer was cut off."""


def _text(params: GenerateParams, completion: Completion, model: ChatModel) -> dict[str, str]:
    if completion.truncated:
        raise _CutOffError(f"the answer was {model.cut_off(completion)}, or at a limit of the server")
    return {params.text_field: completion.text.strip()}


def _further(params: GenerateParams, completion: Completion, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if params.reasoning is not None:
        found[params.reasoning] = completion.reasoning
    if params.samples > 1:
        found[_SAMPLE] = number
    return found
