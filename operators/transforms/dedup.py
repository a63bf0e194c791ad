"""Drop rows whose text says what a row before them says, and say which row that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.operator import Context, Record, Table, derived, operator
from operators.transforms.near import Near, by_embedding, by_minhash
from operators.transforms.text import as_one, texts_of, tokens, wrong_fields

_THRESHOLDS = {"exact": 1.0, "minhash": 0.8, "embedding": 0.95}


class Duplicate(Record):
    """A row that was dropped; rows by their numbers in the operator's input (of all its versions laid end to end)."""

    input_row: int
    duplicate_of: int
    kind: Literal["exact", "near"]
    similarity: float
    text: str
    duplicate_of_text: str


def _wrong(params: Any, types: Mapping[str, type[Record]]) -> list[str]:
    wrong = wrong_fields(types["rows"], params.fields)
    if params.method == "exact" and params.threshold is not None:
        wrong.append("threshold: method exact compares with none; leave it out, or choose minhash or embedding")
    return wrong


@operator(
    outputs={"kept": "rows", "dropped": Duplicate},
    encoders=["encoder"],
    uses=lambda params: ["encoder"] if params.method == "embedding" else [],
    checks=_wrong,
)
async def dedup(
    rows: Table[Record],
    ctx: Context,
    *,
    method: Literal["exact", "minhash", "embedding"] = "minhash",
    threshold: Annotated[float | None, Field(gt=0, le=1)] = None,
    fields: Annotated[list[str] | None, Field(min_length=1)] = None,
    shingle: Annotated[int, Field(ge=1, le=100)] = 3,
) -> AsyncIterator[tuple[str, Record]]:
    """Keep the first of rows that say the same, as it came; drop the others and say which kept row each repeats.

    Exact duplicates are found by every method: texts that differ only in case, white space, punctuation and Unicode
    variants. Operators, brackets and decimal points count: `3 + 4` is not `3 - 4`. Near duplicates are like a row that is
    kept: what is like a dropped row only stays. Rows without any text in the fields stay.

    Problems made from one template are like each other: when only names and numbers differ in a long one, minhash and
    (sooner) embedding take it for a duplicate. Look at `dropped` before training, raise the threshold or choose `exact`.

    Metrics: `rows` counts what was kept and what was an exact or a near duplicate.

    Args:
        method: `minhash` finds texts that share most of their wording, `embedding` texts that mean the same, with a
            sentence encoder (role `encoder`), `exact` neither.
        threshold: texts that are at least as similar are duplicates: Jaccard similarity of the sets of shingles (default
            0.8), or cosine similarity of the vectors (default 0.95).
        fields: whose texts are compared, all of them together; the first field of text that is no id by default
            (a problem's question, an example's prompt). System messages do not count.
        shingle: so many words or symbols in a row are compared, for minhash.
    """
    texts = texts_of(rows, fields)
    keys = [tuple(" ".join(tokens(text)) for text in row) for row in texts]
    firsts: dict[tuple[str, ...], int] = {}
    for number, key in enumerate(keys):
        if any(key):
            firsts.setdefault(key, number)
    different = list(firsts.values())
    limit = threshold or _THRESHOLDS[method]
    near: dict[int, Near] = {}
    if method == "minhash":
        near = by_minhash([keys[number] for number in different], limit, shingle, ctx.progress)
    elif method == "embedding":
        near = await by_embedding([as_one(texts[number]) for number in different], limit, ctx.encoders["encoder"], ctx.progress)
    like = {different[place]: Near(different[found.place], found.similarity) for place, found in near.items()}
    for outcome in ("kept", "exact", "near"):
        ctx.count("rows", outcome, by=0)
    for number, row in enumerate(rows):
        first = firsts.get(keys[number], number)
        found = like.get(first, Near(first, 1.0))
        if found.place == number:
            ctx.count("rows", "kept")
            yield "kept", row
            continue
        kind: Literal["exact", "near"] = "near" if first in like else "exact"
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
