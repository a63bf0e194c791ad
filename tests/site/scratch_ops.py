"""A package of operators as a user would write it, for the pipelines of tests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ModelWrapValidatorHandler, PrivateAttr, model_validator

from engine.operator import (
    Batch,
    Capabilities,
    ChatModel,
    Context,
    Counters,
    Grouped,
    InputTypes,
    Metric,
    Model,
    Output,
    Params,
    Prompt,
    Record,
    Reject,
    Report,
    Table,
    derived,
    operator,
)
from operators.records import Message, SFTExample


class Word(Record):
    """A word."""

    text: str


@operator
async def shout(word: Word, *, mark: str = "!") -> AsyncIterator[Word]:
    """Say it loud."""
    yield Word(text=word.text.upper() + mark)


@operator(outputs={"long": Word, "short": Word})
async def by_length(word: Word, *, at: int = 2) -> AsyncIterator[tuple[str, Word]]:
    """Letters of long words one by one; short words as they are; `skip` is filtered, `bad` rejected."""
    if word.text == "skip":
        return
    if word.text == "bad":
        raise Reject("it is bad")
    if len(word.text) <= at:
        yield "short", word
        return
    for letter in word.text:
        yield "long", Word(text=letter)


@operator
async def ask(word: Word, ctx: Context, teacher: ChatModel, *, prompt: Annotated[str, Prompt()] = "Say") -> AsyncIterator[Word]:
    """Two answers, each from its own call, and a third made from both."""
    first = await teacher.chat(f"{prompt} {word.text} once")
    yield Word(text=first.text)
    second = await teacher.chat(f"{prompt} {word.text} twice")
    ctx.count("asked", word.text[:1])
    yield Word(text=second.text)


@operator
async def ask_number(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """One call per row, whose answer is parsed carelessly: as JSON if it is in brackets, otherwise as an integer."""
    answer = await teacher.chat(f"Say {word.text}")
    yield Word(text=str(json.loads(answer.text) if answer.text.startswith("[") else int(answer.text) + 1))


@operator
async def ask_once(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """One call per row."""
    answer = await teacher.chat(f"Say {word.text}")
    yield Word(text=answer.text)


@operator
async def number_of(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """The model's answer, if it is a number."""
    answer = await teacher.chat(f"Number of {word.text}")
    if not answer.text.isdigit():
        raise Reject(f"{answer.text!r} is no number")
    yield Word(text=answer.text)


class ThreeCalls(Params):
    """No parameters, three calls per row."""

    def calls(self) -> dict[str, int]:
        """Three samples."""
        return {"teacher": 3}


@operator
async def three_of(word: Word, teacher: ChatModel, params: ThreeCalls) -> AsyncIterator[Word]:
    """Three samples of one prompt."""
    for answer in await teacher.samples(f"Say {word.text}", 3):
        yield Word(text=answer.text)


class NeedsLogprobs(Params):
    """No parameters, log-probabilities."""

    def capabilities(self) -> Capabilities:
        """Of the teacher."""
        return {"teacher": ["logprobs"]}


@operator
async def sure(word: Word, teacher: ChatModel, params: NeedsLogprobs) -> AsyncIterator[Word]:
    """How sure the model is of its first token."""
    answer = await teacher.chat(f"Say {word.text}", logprobs=0)
    assert answer.logprobs
    yield Word(text=str(answer.logprobs[0].logprob))


@operator
async def draw(word: Word, ctx: Context, others: Table[Word]) -> AsyncIterator[Word]:
    """A seeded draw from another input."""
    await asyncio.sleep(0)
    yield Word(text=f"{word.text} {others[ctx.random.randrange(len(others))].text}")


@operator(outputs=Word)
def ordered(words: Batch[Word]) -> pa.Table:
    """Sorted; keeps `_row`, so lineage is known."""
    return words.sort_by("text")


@operator(outputs=Word)
def opaque(words: Batch[Word]) -> pa.Table:
    """One row per batch; drops `_row`."""
    return pa.table({"text": [",".join(words["text"].to_pylist())]})


@operator
def joined(words: Table[Word], ctx: Context) -> Iterator[Word]:
    """All words as one."""
    ctx.report("words", len(words))
    yield Word(text=" ".join(word.text for word in words))


@operator
def distinct(words: Table[Word]) -> Iterator[Word]:
    """Each word once, as one of the rows that it read."""
    seen: set[str] = set()
    for word in words:
        if word.text not in seen:
            seen.add(word.text)
            yield word


@operator(outputs={"pairs": Word, "lump": Word})
def paired(left: Table[Word], right: Table[Word]) -> Iterator[tuple[str, Word]]:
    """Joined words of both inputs, each from two rows, and a word that does not state its sources."""
    for one, other in zip(left, right, strict=False):
        yield "pairs", derived(Word(text=f"{one.text}-{other.text}"), one, other)
    yield "lump", Word(text="lump")


@operator
async def tagged(word: Word, tags: Table[Word], *, declared: bool = True) -> AsyncIterator[Word]:
    """The word with the tag that has its first letter."""
    for tag in tags:
        if tag.text[0] == word.text[0]:
            made = Word(text=f"{word.text} {tag.text}")
            yield derived(made, tag) if declared else made


@operator(outputs=Word)
def grouped(words: Batch[Word]) -> pa.Table:
    """Words with the same first letter in one row; `_row` lists them."""
    groups: dict[str, list[int]] = {}
    texts = dict(zip(words["_row"].to_pylist(), words["text"].to_pylist(), strict=True))
    for row, text in texts.items():
        groups.setdefault(text[0], []).append(row)
    return pa.table({"text": [" ".join(texts[r] for r in rows) for rows in groups.values()], "_row": list(groups.values())})


@operator
async def ask_best(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """The second of two answers; the first one is not used."""
    await teacher.chat(f"{word.text} first")
    answer = await teacher.chat(f"{word.text} second")
    yield derived(Word(text=answer.text), answer)


@operator
async def broken(word: Word) -> AsyncIterator[Word]:
    """Raises for `boom` and `unpaired`, makes an invalid record for `invalid`, and yields the wrong type for `wrong`."""
    if word.text == "boom":
        raise ZeroDivisionError("no such thing")
    if word.text == "unpaired":
        raise ValueError("no \ud800")
    if word.text == "invalid":
        yield Word.model_construct(text=None)
    elif word.text == "wrong":
        yield "a text"
    else:
        yield word


@operator
async def refuses(word: Word) -> AsyncIterator[Word]:
    """Rejects `unpaired` with a reason that is not Unicode."""
    if word.text == "unpaired":
        raise Reject("no \ud800")
    yield word


@operator
async def dies(word: Word) -> AsyncIterator[Word]:
    """Kills its process for `die`."""
    if word.text == "die":
        os._exit(3)
    yield word


@operator
async def mixed(word: Word) -> AsyncIterator[Word]:
    """Passes words on, except `drop`, which it drops, `new`, of which it makes another one, and `twice`."""
    if word.text == "new":
        yield Word(text="made")
    elif word.text != "drop":
        yield word
    if word.text == "twice":
        yield word


@operator
async def patient(word: Word, *, seconds: float = 0.5) -> AsyncIterator[Word]:
    """Waits before each row."""
    await asyncio.sleep(seconds)
    yield word


@operator
async def where(word: Word) -> AsyncIterator[Word]:
    """The node that it runs on."""
    import ray

    await asyncio.sleep(0.2)
    yield Word(text=ray.get_runtime_context().get_node_id())


@operator
async def ask_where(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """The node that it runs on and the model's answer."""
    import ray

    answer = await teacher.chat(f"Say {word.text}")
    yield Word(text=f"{ray.get_runtime_context().get_node_id()} {answer.text}")


class UniqueParams(Params):
    """A field that the rows must have."""

    of: str = "text"

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """The field is missing."""
        if self.of not in inputs["rows"].model_fields:
            yield f"no {self.of}"


@operator(outputs={"first": "rows", "again": "rows"})
def unique(rows: Table[Record], params: UniqueParams) -> Iterator[Output]:
    """Divides rows of any type into the first of each value and the others."""
    seen = set()
    for row in rows:
        value = getattr(row, params.of)
        yield ("again" if value in seen else "first"), row
        seen.add(value)


@operator
async def thirds(word: Word, ctx: Context, teacher: ChatModel, *, hard: bool = False) -> AsyncIterator[Word]:
    """Three answers per word. Those that say `no` are rejected, but not the word."""
    for part in range(3):
        answer = await teacher.chat(f"{part} {word.text}")
        if answer.text == "no":
            ctx.reject(f"part {part}: the answer is no")
            continue
        yield derived(Word(text=answer.text), answer)


class EitherParams(Params):
    """Which model to ask."""

    strict: bool = False

    def roles(self) -> set[str]:
        """The one that is asked."""
        return {"judge"} if self.strict else {"teacher"}


@operator
async def either(word: Word, teacher: ChatModel | None, judge: ChatModel | None, params: EitherParams) -> AsyncIterator[Word]:
    """Asks one model or the other."""
    asked = judge or teacher
    assert asked is not None
    answer = await asked.chat(word.text, max_tokens=4)
    yield Word(text=answer.text)


class AdapterParams(Params):
    """An adapter that tests/vllm_stand_in.py can load.

    Args:
        says: the beginning of its answers.
        foretold: the rank that it is expected to have; null: unknown until it is trained.
        deadly: whether it ends the server that loads it.
    """

    base: str
    says: str
    r: int | str = 4
    foretold: int | None = 4
    deadly: bool = False

    def expected_model(self, models: Mapping[str, Model]) -> Model | None:
        """An adapter."""
        config = json.dumps({"lora": {"r": self.foretold}})
        return Model(base_model=self.base, format="adapter", config=config) if self.foretold is not None else None


@operator(outputs={"model": Model})
def adapter_of(words: Table[Word], ctx: Context, params: AdapterParams) -> Iterator[Model]:
    """Makes an adapter without training one."""
    (ctx.scratch / "adapter_config.json").write_text(json.dumps({"r": params.r}))
    (ctx.scratch / "says").write_text(params.says)
    if params.deadly:
        (ctx.scratch / "deadly").touch()
    yield Model(base_model=params.base, format="adapter", files=ctx.keep(ctx.scratch))


@operator
async def lesson(word: Word, *, says: str) -> AsyncIterator[SFTExample]:
    """An example whose answer is always the same, whatever the word."""
    turns = [Message(role="user", content="q")], [Message(role="assistant", content=f"{says} " * 20)]
    yield SFTExample(prompt=turns[0], completion=turns[1])


@operator
def told(words: Table[Word], ctx: Context) -> Iterator[Report]:
    """A report with a table and a file."""
    (ctx.scratch / "words.csv").write_text("".join(f"{word.text}\n" for word in words))
    yield Report(title="Words", text=f"| words |\n|---|\n| {len(words)} |", files=ctx.keep(ctx.scratch))


class Size(Params):
    """The length of a text; inches are accepted, too."""

    centimetres: float = 1.0
    _notes: tuple[str, ...] = PrivateAttr(default=())

    def notes(self) -> tuple[str, ...]:
        """How it was read."""
        return self._notes

    @model_validator(mode="wrap")
    @classmethod
    def _inches(cls, given: Any, handler: ModelWrapValidatorHandler[Size]) -> Size:
        if "inches" not in given:
            return handler(given)
        made = handler({"centimetres": given["inches"] * 2.54})
        made._notes = (f"inches: {given['inches']} is centimetres: {made.centimetres}",)
        return made


@operator(outputs={"words": Word, "lengths": Word})
async def measure(
    word: Word, ctx: Context, others: Table[Word] | None = None, *, unit: str = "letters"
) -> AsyncIterator[tuple[str, Word]]:
    """Words followed by the number of the others, if there are any; and, in the end, how often each length occurs."""
    ctx.count("length", str(len(word.text)))
    yield "words", Word(text=word.text if others is None else f"{word.text} {len(others)}")


@measure.finish
def lengths(counts: Counters, *, unit: str) -> Iterator[tuple[Literal["lengths"], Word]]:
    """A word for each length, with how many there were."""
    for (_, length), number in sorted(counts.items()):
        yield "lengths", Word(text=f"{length}: {number:g} of {unit}")


@operator(distinct=[("teacher", "judge")])
async def sized(word: Word, teacher: ChatModel, judge: ChatModel, size: Size) -> AsyncIterator[Word]:
    """Its parameters are the fields of one class."""
    yield Word(text=f"{word.text} {size.centimetres:g}")


@operator
def count_up(words: Table[Word], ctx: Context, *, to: int = 3, fail: bool = False) -> Iterator[Word]:
    """Continues to count from its checkpoint, and fails while the file that the first word names exists."""
    file = ctx.checkpoints / "count"
    begun = int(file.read_text()) if file.exists() else 0
    for number in range(begun, to):
        file.write_text(str(number + 1))
        if number + 1 == to - 1 and Path(words[0].text).exists():
            raise ValueError("not yet")
    yield Word(text=f"from {begun} to {to}")


@operator
async def hinted(word: Word, hints: Table[Word]) -> AsyncIterator[Word]:
    """The word and a hint, which is looked up."""
    yield derived(Word(text=f"{word.text} {hints[0].text}"), hints[0])


@operator
async def family_sizes(words: Grouped[Word]) -> AsyncIterator[Word]:
    """The words of each family put together."""
    texts: dict[int, str] = {}
    for family, word in zip(words.groups, words, strict=True):
        texts[family] = texts.get(family, "") + word.text
    for text in texts.values():
        yield Word(text=text)


@operator
async def doubled(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """Twice the number in the model's answer, of which it checks neither form nor size."""
    answer = await teacher.chat(f"Size of {word.text}")
    yield Word(text=str(2 * int(answer.text)))


@operator
async def counts_wrongly(word: Word, ctx: Context, teacher: ChatModel) -> AsyncIterator[Word]:
    """Counts with the model's answer, as if it were a number."""
    answer = await teacher.chat(f"Size of {word.text}")
    ctx.count("size", by=answer.text)  # type: ignore[arg-type]
    yield word


@operator
async def fills_the_memory(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """Computes something with torch from an answer."""
    import torch

    yield Word(text=(await teacher.chat(word.text)).text)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@operator
async def ends_wrongly(word: Word) -> AsyncIterator[Word]:
    """Its finish function divides by a counter that does not exist."""
    yield word


@ends_wrongly.finish
def ratio(counts: Counters) -> Iterator[Metric]:
    """One over nothing."""
    yield Metric(metric="ratio", slice="", value=1 / counts["words", ""])


@operator(outputs=Word)
def returns_a_list(words: Batch[Word]) -> pa.Table:
    """Not a table."""
    return words.to_pylist()


@operator(outputs=Word)
def renames_columns(words: Batch[Word]) -> pa.Table:
    """Rows without the field that they need."""
    return words.rename_columns(["_row", "txt"])


class Halves(Params):
    """Divides by a parameter."""

    by: int = 2

    def calls(self) -> dict[str, int]:
        """As many as halves."""
        return {"teacher": 4 // self.by}


class Wishes(Params):
    """Asks for something that depends on a parameter."""

    by: int = 2

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Zero is refused."""
        if not self.by:
            yield "by must not be 0"

    def capabilities(self) -> Capabilities:
        """Several samples, if there is more than one."""
        return {"teacher": ["n"] if 4 // self.by > 1 else []}


@operator
async def wishful(word: Word, teacher: ChatModel, params: Wishes) -> AsyncIterator[Word]:
    """Its parameters fail with 0, and say so."""
    yield word


@operator
async def ask_same(words: Table[Word], teacher: ChatModel) -> AsyncIterator[Word]:
    """Asks the same question for each row, one after another."""
    for word in words:
        answer = await teacher.chat("Say it")
        yield derived(Word(text=f"{word.text} {answer.text}"), word, answer)


@operator
async def halved(word: Word, teacher: ChatModel, params: Halves) -> AsyncIterator[Word]:
    """Its parameters fail with 0."""
    yield word


class Guess(BaseModel):
    """A word, and whether it is meant."""

    word: str
    sure: bool


@operator
async def guessed(word: Word, teacher: ChatModel) -> AsyncIterator[Word]:
    """A structured answer."""
    answer = await teacher.parse(f"Which word comes after {word.text}, and are you sure?", Guess)
    yield Word(text=f"{answer.word} {answer.sure}")
