"""Part training rows from those that share their wording with a test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from engine.operator import Context, Record, Table, derived, operator
from operators.transforms.text import as_one, texts_of, tokens, words, wrong_fields

Tokens = tuple[str, ...]
_OPENING = 3


class Contaminated(Record):
    """A row that shares words with a reference row; rows by their numbers in the operator's inputs.

    `ngram` has the words that they share; of a short reference text, its words and symbols.
    """

    input_row: int
    text: str
    ngram: str
    reference_row: int
    reference_text: str


def _wrong(params: Any, types: Mapping[str, type[Record]]) -> list[str]:
    wrong = wrong_fields(types["rows"], params.fields)
    wrong += wrong_fields(types["reference"], params.reference_fields, "reference_fields")
    wrong += [f"ignore: {text!r} has no words" for text in params.ignore if not tokens(text)]
    return wrong


@operator(outputs={"clean": "rows", "contaminated": Contaminated}, checks=_wrong, aside=["reference"])
def decontaminate(
    rows: Table[Record],
    reference: Table[Record],
    ctx: Context,
    *,
    ngram: Annotated[int, Field(ge=2, le=100)] = 13,
    shortest: Annotated[int, Field(ge=3, le=100)] = 5,
    fields: Annotated[list[str] | None, Field(min_length=1)] = None,
    reference_fields: Annotated[list[str] | None, Field(min_length=1)] = None,
    ignore: tuple[str, ...] = (),
) -> Iterator[tuple[str, Record]]:
    """Part rows that share words with a test set from those that do not, which go on as they came.

    A row is contaminated when one of these holds; case, white space and punctuation do not count:

    * it has `ngram` words in a row that a reference text has, too, symbols left aside;
    * it has the whole of a reference text that is shorter than that and has at least `shortest` words, symbols counted;
    * it equals a reference row in all compared texts, however short they are.

    So a short text such as an answer ("72", "yes") never counts by itself. False alarms come from phrases that many
    problems have ("What is the value of x?" as a whole reference text, instructions): the column `ngram` shows them; name
    them in `ignore`, or raise `shortest`. Paraphrases are not found; dedup with embeddings compares meanings.

    Metrics: `rows` counts clean and contaminated ones.

    Args:
        ngram: how many words in a row make a row contaminated.
        shortest: shorter reference texts are only compared as whole rows.
        fields: whose texts are compared, each by itself; the first field of text that is no id by default.
        reference_fields: the same, of the reference.
        ignore: phrases that are cut out of all texts before, such as "Give the result as your final answer.".
    """
    cut = [_spaced(phrase) for phrase in sorted(ignore, key=len, reverse=True)]
    references = texts_of(reference, reference_fields)
    index = Index.of([_passages(each, cut) for each in references], ngram, shortest)
    texts = texts_of(rows, fields)
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
    """What a row has in common with a reference, and with which: the first that has it."""

    ngram: str
    reference: int


@dataclass(frozen=True)
class Index:
    """What of the references makes a row contaminated; each with the first reference that has it.

    Attributes:
        ngram: the number of words in `long`.
        long: runs of words.
        short: whole short texts.
        lengths: of the short texts that begin with these tokens.
        rows: whole rows.
    """

    ngram: int
    long: Mapping[Tokens, int]
    short: Mapping[Tokens, int]
    lengths: Mapping[Tokens, Sequence[int]]
    rows: Mapping[tuple[Tokens, ...], int]

    @classmethod
    def of(cls, references: Sequence[tuple[Tokens, ...]], ngram: int, shortest: int) -> Index:
        """The index of rows, given as passages of tokens."""
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
        """The first thing that a row has in common with a reference; None when there is none."""
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
    """All runs of so many tokens."""
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def _passages(texts: Sequence[str], cut: Sequence[str]) -> tuple[Tokens, ...]:
    """Tokens of the texts, one passage for each, and one for each part that a cut phrase leaves of it."""
    if not cut:
        return tuple(tuple(found) for text in texts if (found := tokens(text)))
    parts = [_spaced(text) for text in texts]
    for phrase in cut:
        parts = [part for each in parts for part in each.split(phrase)]
    return tuple(tuple(found) for part in parts if (found := part.split()))


def _spaced(text: str) -> str:
    """The text's tokens, each between two blanks of its own, so that a phrase is found as whole tokens only."""
    return "".join(f" {token} " for token in tokens(text))
