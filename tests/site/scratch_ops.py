"""A package of operators that is not the engine's, as a user would write one; the tests run pipelines of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator

from engine.operator import Batch, Context, Counters, Record, Reject, Report, Table, derived, operator


class Word(Record):
    """A word."""

    text: str


@operator(outputs=Word)
async def shout(word: Word, *, mark: str = "!") -> AsyncIterator[Word]:
    """Say it loud."""
    yield Word(text=word.text.upper() + mark)


@operator(outputs={"long": Word, "short": Word})
async def split(word: Word, *, at: int = 2) -> AsyncIterator[tuple[str, Word]]:
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


@operator(outputs=Word, models=["teacher"])
async def ask(word: Word, ctx: Context, *, prompt: str = "Say") -> AsyncIterator[Word]:
    """Two answers, each from a call of its own, and one that both have made."""
    first = await ctx.models["teacher"].chat(f"{prompt} {word.text} once")
    yield Word(text=first.text)
    second = await ctx.models["teacher"].chat(f"{prompt} {word.text} twice")
    ctx.count("asked", word.text[:1])
    yield Word(text=second.text)


@operator(outputs=Word, models=["teacher"])
async def ask_number(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """One call a row, whose answer is read without care: as JSON if it is in brackets, else as an integer."""
    answer = await ctx.models["teacher"].chat(f"Say {word.text}")
    yield Word(text=str(json.loads(answer.text) if answer.text.startswith("[") else int(answer.text) + 1))


@operator(outputs=Word, models=["teacher"])
async def ask_once(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """One call a row."""
    answer = await ctx.models["teacher"].chat(f"Say {word.text}")
    yield Word(text=answer.text)


@operator(outputs=Word, models=["teacher"])
async def number_of(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """The model's answer, if it is a number."""
    answer = await ctx.models["teacher"].chat(f"Number of {word.text}")
    if not answer.text.isdigit():
        raise Reject(f"{answer.text!r} is no number")
    yield Word(text=answer.text)


@operator(outputs=Word, models=["teacher"], calls=lambda params: {"teacher": 3})
async def three_of(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """Three samples of one prompt."""
    for answer in await ctx.models["teacher"].samples(f"Say {word.text}", 3):
        yield Word(text=answer.text)


@operator(outputs=Word, models=["teacher"], needs=lambda params: {"teacher": ["logprobs"]})
async def sure(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """How sure the model is of its first token."""
    answer = await ctx.models["teacher"].chat(f"Say {word.text}", logprobs=0)
    assert answer.logprobs
    yield Word(text=str(answer.logprobs[0].logprob))


@operator(outputs=Word)
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
    """One row a batch; drops `_row`."""
    return pa.table({"text": [",".join(words["text"].to_pylist())]})


@operator(outputs=Word)
def joined(words: Table[Word], ctx: Context) -> Iterator[Word]:
    """All words as one."""
    ctx.report("words", len(words))
    yield Word(text=" ".join(word.text for word in words))


@operator(outputs=Word)
def distinct(words: Table[Word]) -> Iterator[Word]:
    """Each word once: yields rows that it read."""
    seen: set[str] = set()
    for word in words:
        if word.text not in seen:
            seen.add(word.text)
            yield word


@operator(outputs={"pairs": Word, "lump": Word})
def paired(left: Table[Word], right: Table[Word]) -> Iterator[tuple[str, Word]]:
    """Words of both inputs put together, each from two rows, and one of which nobody is told where it came from."""
    for one, other in zip(left, right, strict=False):
        yield "pairs", derived(Word(text=f"{one.text}-{other.text}"), one, other)
    yield "lump", Word(text="lump")


@operator(outputs=Word)
async def tagged(word: Word, tags: Table[Word], *, tell: bool = True) -> AsyncIterator[Word]:
    """The word with the tag that has its first letter."""
    for tag in tags:
        if tag.text[0] == word.text[0]:
            made = Word(text=f"{word.text} {tag.text}")
            yield derived(made, tag) if tell else made


@operator(outputs=Word)
def grouped(words: Batch[Word]) -> pa.Table:
    """Words with the same first letter in one row; `_row` lists them."""
    groups: dict[str, list[int]] = {}
    texts = dict(zip(words["_row"].to_pylist(), words["text"].to_pylist(), strict=True))
    for row, text in texts.items():
        groups.setdefault(text[0], []).append(row)
    return pa.table({"text": [" ".join(texts[r] for r in rows) for rows in groups.values()], "_row": list(groups.values())})


@operator(outputs=Word, models=["teacher"])
async def ask_best(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """The second of two answers: the first one led to nothing."""
    await ctx.models["teacher"].chat(f"{word.text} first")
    answer = await ctx.models["teacher"].chat(f"{word.text} second")
    yield derived(Word(text=answer.text), answer)


@operator(outputs=Word)
async def broken(word: Word) -> AsyncIterator[Word]:
    """Raises on `boom`, makes an invalid record of `invalid`, and the wrong type of `wrong`."""
    if word.text == "boom":
        raise ZeroDivisionError("no such thing")
    if word.text == "invalid":
        yield Word.model_construct(text=None)
    elif word.text == "wrong":
        yield "a text"
    else:
        yield word


@operator(outputs=Word)
async def dies(word: Word) -> AsyncIterator[Word]:
    """Takes its process with it on `die`."""
    if word.text == "die":
        os._exit(3)
    yield word


@operator(outputs=Word)
async def where(word: Word) -> AsyncIterator[Word]:
    """The node that it runs on."""
    import ray

    await asyncio.sleep(0.2)
    yield Word(text=ray.get_runtime_context().get_node_id())


@operator(outputs=Word, models=["teacher"])
async def ask_where(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """The node that it runs on and the model's answer."""
    import ray

    answer = await ctx.models["teacher"].chat(f"Say {word.text}")
    yield Word(text=f"{ray.get_runtime_context().get_node_id()} {answer.text}")


@operator(outputs=Word)
async def undeclared(word: Word, *, ctx: Context) -> AsyncIterator[Word]:
    """Asks a model that it does not declare."""
    yield Word(text=(await ctx.models["teacher"].chat(word.text)).text)


@operator(
    outputs={"first": "rows", "again": "rows"},
    checks=lambda params, types: [] if params.of in types["rows"].model_fields else [f"no {params.of}"],
)
def unique(rows: Table[Record], *, of: str = "text") -> Iterator[tuple[str, Record]]:
    """Rows of any type, the first of each value apart from those that come again."""
    seen = set()
    for row in rows:
        value = getattr(row, of)
        yield ("again" if value in seen else "first"), row
        seen.add(value)


@operator(outputs=Word, models=["teacher"])
async def thirds(word: Word, ctx: Context, *, hard: bool = False) -> AsyncIterator[Word]:
    """Three answers a word; those that say `no` are rejected, the word is not."""
    for part in range(3):
        answer = await ctx.models["teacher"].chat(f"{part} {word.text}")
        if answer.text == "no":
            ctx.reject(f"part {part}: the answer is no")
            continue
        yield derived(Word(text=answer.text), answer)


@operator(outputs=Word, models=["teacher", "judge"], uses=lambda params: ["judge"] if params.strict else ["teacher"])
async def either(word: Word, ctx: Context, *, strict: bool = False) -> AsyncIterator[Word]:
    """Asks one model or the other."""
    answer = await ctx.models["judge" if strict else "teacher"].chat(word.text, max_tokens=4)
    yield Word(text=answer.text)


@operator(outputs=Report)
def told(words: Table[Word], ctx: Context) -> Iterator[Report]:
    """A report with a table and a file."""
    (ctx.scratch / "words.csv").write_text("".join(f"{word.text}\n" for word in words))
    yield Report(title="Words", text=f"| words |\n|---|\n| {len(words)} |", files=ctx.keep(ctx.scratch))


class Size(BaseModel):
    """How long a text is to be; inches are read, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    centimetres: float = 1.0
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
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


def lengths(counts: Counters, params: Any) -> Iterator[Word]:
    """A word for each length, with how many there were."""
    for (_, length), number in sorted(counts.items()):
        yield Word(text=f"{length}: {number:g} of {params.unit}")


@operator(outputs={"words": Word, "lengths": Word}, closing={"lengths": lengths})
async def measure(
    word: Word, ctx: Context, others: Table[Word] | None = None, *, unit: str = "letters"
) -> AsyncIterator[tuple[str, Word]]:
    """Words with the number of others behind them, where there are any; their lengths in the end."""
    ctx.count("length", str(len(word.text)))
    yield "words", Word(text=word.text if others is None else f"{word.text} {len(others)}")


@operator(outputs=Word, models=["teacher", "judge"], apart=[("teacher", "judge")])
async def sized(word: Word, ctx: Context, size: Size) -> AsyncIterator[Word]:
    """Its parameters are one model's fields."""
    yield Word(text=f"{word.text} {size.centimetres:g}")


@operator(outputs=Word)
def count_up(words: Table[Word], ctx: Context, *, to: int = 3, fail: bool = False) -> Iterator[Word]:
    """Goes on counting where it was, and fails while the file `fail` stands where it is told."""
    file = ctx.checkpoints / "count"
    begun = int(file.read_text()) if file.exists() else 0
    for number in range(begun, to):
        file.write_text(str(number + 1))
        if number + 1 == to - 1 and Path(words[0].text).exists():
            raise ValueError("not yet")
    yield Word(text=f"from {begun} to {to}")


@operator(outputs=Word)
async def hinted(word: Word, hints: Table[Word]) -> AsyncIterator[Word]:
    """The word and a hint, which is looked up."""
    yield derived(Word(text=f"{word.text} {hints[0].text}"), hints[0])


@operator(outputs=Word, families=["words"])
async def family_sizes(words: Table[Word]) -> AsyncIterator[Word]:
    """The words of each family put together."""
    texts: dict[int, str] = {}
    for family, word in zip(words.families, words, strict=True):
        texts[family] = texts.get(family, "") + word.text
    for text in texts.values():
        yield Word(text=text)


@operator(outputs=Word, models=["teacher"])
async def doubled(word: Word, ctx: Context) -> AsyncIterator[Word]:
    """Twice the number that the model gives; it trusts the model to give one of a reasonable size."""
    answer = await ctx.models["teacher"].chat(f"Size of {word.text}")
    yield Word(text=str(2 * int(answer.text)))
