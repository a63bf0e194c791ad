"""Separate training rows that share wording with a test set from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from engine.operator import Context, InputTypes, Lookup, Output, Params, Record, Table, derived, operator
from operators.transforms.text import as_one, texts_of, tokens, words, wrong_fields

Tokens = tuple[str, ...]
_OPENING = 3


class Contaminated(Record):
    """A row that shares words with a reference row. Row numbers are those in the operator's inputs.

    `ngram` contains the shared words or, for a short reference text, its words and symbols.
    """

    input_row: int
    text: str
    ngram: str
    reference_row: int
    reference_text: str


class DecontaminateParams(Params):
    """Parameters of decontaminate."""

    ngram: Annotated[int, Field(ge=2, le=100)] = 13
    shortest: Annotated[int, Field(ge=3, le=100)] = 5
    fields: Annotated[list[str] | None, Field(min_length=1)] = None
    reference_fields: Annotated[list[str] | None, Field(min_length=1)] = None
    ignore: tuple[str, ...] = ()

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Fields without text, and phrases without words."""
        yield from wrong_fields(inputs["rows"], self.fields)
        yield from wrong_fields(inputs["reference"], self.reference_fields, "reference_fields")
        for text in self.ignore:
            if not tokens(text):
                yield f"ignore: {text!r} has no words"


@operator(outputs={"clean": "rows", "contaminated": Contaminated})
def decontaminate(
    rows: Table[Record], reference: Lookup[Record], ctx: Context, params: DecontaminateParams
) -> Iterator[Output]:
    """Separate rows that share words with a test set (`contaminated`) from the others (`clean`), which stay unchanged.

    A row is contaminated in each of these cases, ignoring case, white space and punctuation:

    * it shares `ngram` consecutive words with a reference text, ignoring symbols;
    * it contains, symbols included, a whole reference text that is shorter than that but has at least `shortest` words;
    * it equals a reference row in all compared texts, however short they are.

    A short text, such as the answer "72" or "yes", therefore never counts by itself. False alarms come from phrases that many
    problems contain: instructions, or a whole reference text like "What is the value of x?". The column `ngram` shows them;
    list them in `ignore`, or raise `shortest`. Paraphrases are not found; to compare meanings, use dedup with embeddings.

    Metrics: `rows` counts clean and contaminated rows.

    Args:
        ngram: the number of consecutive shared words that makes a row contaminated.
        shortest: a reference text with fewer words is compared only as part of a whole row.
        fields: the fields to compare, one by one; by default the first text field that is not an id.
        reference_fields: the same for the reference.
        ignore: phrases to remove from all texts first, for instance "Give the result as your final answer."
    """
    cut = [_spaced(phrase) for phrase in sorted(params.ignore, key=len, reverse=True)]
    references = texts_of(reference, params.reference_fields)
    index = Index.of([_passages(each, cut) for each in references], params.ngram, params.shortest)
    texts = texts_of(rows, params.fields)
    for outcome in ("clean", "contaminated"):
        ctx.count("rows", outcome, by=0)
    for number, row in enumerate(rows):
        if number % 10_000 == 0:
            ctx.progress(number, len(rows))
        shared = index.find(_passages(texts[number], cut))
        if shared is None:
            ctx.count("rows", "clean")
            yield "clean", row
            continue
        ctx.count("rows", "contaminated")
        found = Contaminated(
            input_row=number,
            text=as_one(texts[number]),
            ngram=shared.ngram,
            reference_row=shared.reference,
            reference_text=as_one(references[shared.reference]),
        )
        yield "contaminated", derived(found, rows.ref(number), reference.ref(shared.reference))


class Shared(NamedTuple):
    """The words that a row shares with a reference, and the first reference that contains them."""

    ngram: str
    reference: int


@dataclass(frozen=True)
class Index:
    """All texts that make a row contaminated, each with the first reference that contains it.

    Attributes:
        ngram: the number of words in each key of `long`.
        long: the runs of `ngram` words in the longer texts.
        short: whole short texts.
        lengths: first tokens -> the lengths of the short texts that begin with them.
        rows: whole rows.
    """

    ngram: int
    long: Mapping[Tokens, int]
    short: Mapping[Tokens, int]
    lengths: Mapping[Tokens, Sequence[int]]
    rows: Mapping[tuple[Tokens, ...], int]

    @classmethod
    def of(cls, references: Sequence[tuple[Tokens, ...]], ngram: int, shortest: int) -> Index:
        """The index of reference rows, given as passages of tokens."""
        long: dict[Tokens, int] = {}
        short: dict[Tokens, int] = {}
        lengths: dict[Tokens, list[int]] = {}
        whole: dict[tuple[Tokens, ...], int] = {}
        for number, passages in enumerate(references):
            if passages:
                whole.setdefault(passages, number)
            for passage in passages:
                plain = words(passage)
                if len(plain) >= ngram:
                    for run in _runs(plain, ngram):
                        long.setdefault(run, number)
                elif len(plain) >= shortest and passage not in short:
                    short[passage] = number
                    known = lengths.setdefault(passage[:_OPENING], [])
                    if len(passage) not in known:
                        known.append(len(passage))
        return cls(ngram, long, short, lengths, whole)

    def find(self, passages: tuple[Tokens, ...]) -> Shared | None:
        """The first text that a row shares with a reference; None if there is none."""
        for passage in passages:
            for run in _runs(words(passage), self.ngram):
                if run in self.long:
                    return Shared(" ".join(run), self.long[run])
        for passage in passages if self.short else ():
            for start, opening in enumerate(_runs(passage, _OPENING)):
                for length in self.lengths.get(opening, ()):
                    if (text := passage[start : start + length]) in self.short:
                        return Shared(" ".join(text), self.short[text])
        if passages in self.rows:
            return Shared(" ".join(token for passage in passages for token in passage), self.rows[passages])
        return None


def _runs(tokens: Sequence[str], length: int) -> Iterator[Tokens]:
    """All runs of `length` tokens."""
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def _passages(texts: Sequence[str], cut: Sequence[str]) -> tuple[Tokens, ...]:
    """The tokens of the texts as passages: one passage for each text, or for each part of it between removed phrases."""
    if not cut:
        return tuple(tuple(found) for text in texts if (found := tokens(text)))
    parts = [_spaced(text) for text in texts]
    for phrase in cut:
        parts = [part for each in parts for part in each.split(phrase)]
    return tuple(tuple(found) for part in parts if (found := part.split()))


def _spaced(text: str) -> str:
    """The text's tokens, each with a blank on both sides, so that a phrase matches whole tokens only."""
    return "".join(f" {token} " for token in tokens(text))
