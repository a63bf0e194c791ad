"""Spread each item over the cells of a grid: by number of poisoned contexts, with or without factual ones, by order."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Annotated, Literal

from pydantic import Field

from engine.operator import Context, InputTypes, Params, Reject, Table, derived, operator
from operators.alignment.cells import cell_name
from operators.alignment.conclusions import mentions, normalise
from operators.ids import same_id
from operators.records import ConflictCase, ConflictItem, FactualPassage
from registry.counted import counted


class GridParams(Params):
    """Parameters of conflict_grid."""

    pcn: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 1, 2, 3, 4, 5]
    fc: Annotated[list[bool], Field(min_length=1)] = [False, True]
    factual_first: Annotated[list[bool], Field(min_length=1)] = [True]
    temperatures: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.0]
    factual_passages: Annotated[int, Field(ge=1, le=2)] = 1
    leaky: Literal["keep", "drop"] = "keep"

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Repeated values, which would make the same case twice."""
        for name in ("pcn", "fc", "factual_first", "temperatures"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                yield f"{name}: a value is repeated"


@operator
async def conflict_grid(
    item: ConflictItem, ctx: Context, params: GridParams, facts: Table[FactualPassage] | None = None
) -> AsyncIterator[ConflictCase]:
    """Make a case for each item and cell: the question with poisoned passages, factual ones, both, or none.

    Passages are drawn with a seed, so an item always yields the same cases. The passages of a cell with few poisoned ones are a
    subset of those of a cell with more. Equal passages count once. Cells that an item cannot fill are listed in `rejects` with
    the reason. An item is rejected if it fills no cell, or if its answers are equal or empty. If an item has no id, its cases
    get one derived from its question.

    The ids 1 and 1.0 are the same, because pandas turns 1 into 1.0 in a column with gaps.

    Metrics: `cases` by cell; `facts`, how many were given and how many of them belong to an item; `poisoned_passages`, and how
    many of them name the correct answer (11% and 19% in PoisonedRAG's files for NQ and HotpotQA).

    Source: Dialectical Alignment (arXiv 2404.00486).

    Args:
        facts: more factual passages. One belongs to the item with its id or, if it has no id, with its question.
        pcn: the numbers of poisoned passages.
        fc: whether to add factual passages; [false, true] makes cases of both kinds.
        factual_first: whether factual passages precede poisoned ones; [true, false] makes a case of each order.
        temperatures: the temperatures at which a model will answer.
        factual_passages: the number of factual passages in a case that has any.
        leaky: whether to keep or drop poisoned passages that name the correct answer.
    """
    ident = question_id(item.question) if item.id is None else item.id
    matching = list(_matching(facts, ident, item.question)) if facts is not None else []
    if facts is not None:
        ctx.report("facts", len(facts), "given")
        ctx.count("facts", "matched to an item", by=len(matching))
    if reason := _unusable(item):
        raise Reject(reason)
    poisoned = _drawn(item.poisoned, ctx)
    found = {fact.passage: fact for fact in matching}
    factual = _drawn([*item.factual, *found], ctx)

    leaks = {passage for passage in poisoned if mentions(passage, item.correct_answer)}
    ctx.count("poisoned_passages", "all", by=len(poisoned))
    ctx.count("poisoned_passages", "naming the correct answer", by=len(leaks))
    if params.leaky == "drop":
        poisoned = [passage for passage in poisoned if passage not in leaks]

    lacking: dict[str, list[str]] = {}
    produced = False
    for number, with_facts in product(params.pcn, params.fc):
        wanted = params.factual_passages if with_facts else 0
        if lacks := _lacks("poisoned", number, poisoned) or _lacks("factual", wanted, factual):
            lacking.setdefault(lacks, []).append(cell_name(number, with_facts))
            continue
        opposing, backing = poisoned[:number], factual[:wanted]
        named = [found[passage] for passage in backing if passage not in item.factual]
        for first, temperature in product(params.factual_first if opposing and backing else [False], params.temperatures):
            case = ConflictCase(
                question=item.question,
                correct_answer=item.correct_answer,
                incorrect_answer=item.incorrect_answer,
                contexts=[*backing, *opposing] if first else [*opposing, *backing],
                pcn=number,
                fc=with_facts,
                factual_first=first,
                temperature=temperature,
                source=item.source,
                id=ident,
            )
            produced = True
            ctx.count("cases", cell_name(number, with_facts))
            yield derived(case, *named)
    reasons = [f"{lacks}, too few for {', '.join(cells)}" for lacks, cells in lacking.items()]
    if not produced:
        raise Reject("; ".join(reasons))
    for reason in reasons:
        ctx.reject(reason)


def question_id(question: str) -> str:
    """An id derived from a question, ignoring case, punctuation and accents."""
    return hashlib.sha256(normalise(question).encode()).hexdigest()[:12]


def _unusable(item: ConflictItem) -> str | None:
    correct, incorrect = normalise(item.correct_answer), normalise(item.incorrect_answer)
    if not correct or not incorrect:
        return f"its {'incorrect' if correct else 'correct'} answer is empty"
    if correct == incorrect:
        return f"its incorrect answer equals its correct answer: {item.correct_answer}"
    return None


def _drawn(passages: Iterable[str], ctx: Context) -> list[str]:
    """The passages in random order, without empty or repeated ones."""
    different = list(dict.fromkeys(passage for passage in passages if passage.strip()))
    return ctx.random.sample(different, len(different))


def _lacks(kind: str, wanted: int, passages: Sequence[str]) -> str | None:
    return f"it has {counted(passages, f'{kind} passage')}" if len(passages) < wanted else None


def _matching(facts: Table[FactualPassage], ident: str, question: str) -> Iterator[FactualPassage]:
    """The facts for an item, in order."""
    by_id, by_question = _places(facts)
    for row in sorted({*by_id.get(same_id(ident), ()), *by_question.get(normalise(question), ())}):
        yield facts[row]


@lru_cache(maxsize=4)
def _places(facts: Table[FactualPassage]) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
    """(id -> rows, question -> rows); a row with an id is found only by its id."""
    by_id: dict[str, list[int]] = {}
    by_question: dict[str, list[int]] = {}
    for row, fact in enumerate(facts):
        if fact.id is not None:
            by_id.setdefault(same_id(fact.id), []).append(row)
        elif fact.question is not None:
            by_question.setdefault(normalise(fact.question), []).append(row)
        else:
            raise ValueError(
                f"row {row} of the facts has neither an `id` nor a `question`; give it that of the item it belongs to"
            )
    return by_id, by_question
