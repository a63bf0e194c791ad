"""Drop rows whose text repeats an earlier row, and record which row they repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

from pydantic import Field

from engine.operator import Context, Encoder, InputTypes, Output, Params, Record, Table, derived, operator
from operators.transforms.near_duplicates import SimilarText, by_embedding, by_minhash
from operators.transforms.text import as_one, texts_of, tokens, wrong_fields

_THRESHOLDS = {"exact": 1.0, "minhash": 0.8, "embedding": 0.95}


class Duplicate(Record):
    """A row that was dropped. Row numbers are those in the operator's input; its versions are numbered through in order."""

    input_row: int
    duplicate_of: int
    kind: Literal["exact", "near"]
    similarity: float
    text: str
    duplicate_of_text: str


class DedupParams(Params):
    """Parameters of dedup."""

    method: Literal["exact", "minhash", "embedding"] = "minhash"
    threshold: Annotated[float | None, Field(gt=0, le=1)] = None
    fields: Annotated[list[str] | None, Field(min_length=1)] = None
    shingle: Annotated[int, Field(ge=1, le=100)] = 3

    def roles(self) -> set[str]:
        """The encoder, for method `embedding`."""
        return {"encoder"} if self.method == "embedding" else set()

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Fields without text, and a threshold for a method without one."""
        yield from wrong_fields(inputs["rows"], self.fields)
        if self.method == "exact" and self.threshold is not None:
            yield "threshold: the method exact has none; remove it, or choose minhash or embedding"


@operator(outputs={"kept": "rows", "dropped": Duplicate})
async def dedup(rows: Table[Record], ctx: Context, encoder: Encoder | None, params: DedupParams) -> AsyncIterator[Output]:
    """Keep the first of several rows with the same text unchanged; drop the others, and record which kept row each repeats.

    Every method finds exact duplicates: texts that differ only in case, white space, punctuation and Unicode variants.
    Operators, brackets and decimal points count: `3 + 4` is not `3 - 4`. A near duplicate is similar to a row that is kept. A
    row that is similar only to dropped rows is itself kept. Rows without text in the compared fields are kept.

    Problems made from the same template are similar. If a long one differs only in names and numbers, minhash and (even more
    often) embedding take it for a duplicate. Look at `dropped` before training; raise the threshold, or choose `exact`.

    Metrics: `rows` counts kept rows, exact duplicates and near duplicates.

    Args:
        method: `minhash` also finds texts that share most of their wording, `embedding` texts with the same meaning, by a
            sentence encoder (role `encoder`); `exact` finds exact duplicates only.
        threshold: texts with at least this similarity are duplicates: Jaccard similarity of the sets of shingles (default
            0.8), or cosine similarity of the vectors (default 0.95).
        fields: the fields to compare, taken together; by default the first text field that is not an id (a problem's
            question, an example's prompt). System messages do not count.
        shingle: the number of consecutive words or symbols in a shingle, for minhash.
    """
    texts = texts_of(rows, params.fields)
    keys = [tuple(" ".join(tokens(text)) for text in row) for row in texts]
    firsts: dict[tuple[str, ...], int] = {}
    for number, key in enumerate(keys):
        if any(key):
            firsts.setdefault(key, number)
    different = list(firsts.values())
    limit = params.threshold or _THRESHOLDS[params.method]
    near: dict[int, SimilarText] = {}
    if params.method == "minhash":
        near = by_minhash([keys[number] for number in different], limit, params.shingle, ctx.progress)
    elif encoder is not None:
        near = await by_embedding([as_one(texts[number]) for number in different], limit, encoder, ctx.progress)
    similar = {different[place]: SimilarText(different[found.place], found.similarity) for place, found in near.items()}
    for outcome in ("kept", "exact", "near"):
        ctx.count("rows", outcome, by=0)
    for number, row in enumerate(rows):
        first = firsts.get(keys[number], number)
        found = similar.get(first, SimilarText(first, 1.0))
        if found.place == number:
            ctx.count("rows", "kept")
            yield "kept", row
            continue
        kind: Literal["exact", "near"] = "near" if first in similar else "exact"
        ctx.count("rows", kind)
        dropped = Duplicate(
            input_row=number,
            duplicate_of=found.place,
            kind=kind,
            similarity=found.similarity,
            text=as_one(texts[number]),
            duplicate_of_text=as_one(texts[found.place]),
        )
        yield "dropped", derived(dropped, rows.ref(number), rows.ref(found.place))
