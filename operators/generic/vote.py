"""Let the samples of a question vote: the answer on which most agree."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from engine.operator import (
    Context,
    Encoder,
    InputTypes,
    Output,
    OutputTypes,
    Params,
    Record,
    Table,
    Wrong,
    derived,
    operator,
)
from operators.conformal.equivalence import Equivalence
from operators.conformal.pools import DistinctAnswer, distinct_answers
from operators.generic.new_fields import At, clashes, grown, new_field, type_of_field, unknown_fields, with_new
from operators.records import SampledAnswers

_NEW = (new_field("votes", "int"), new_field("share", "float"))


class VoteParams(Params):
    """Parameters of vote."""

    by: str | list[str]
    answer: str
    equivalence: Equivalence = "qa"
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.85
    options: str | None = None
    at_least: int | float | None = None

    @property
    def names(self) -> list[str]:
        """The fields that name the question."""
        return [self.by] if isinstance(self.by, str) else list(self.by)

    def roles(self) -> set[str]:
        """The encoder, for answers that are the same in meaning."""
        return {"encoder"} if self.equivalence == "embedding" else set()

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Fields that do not fit, and a threshold that is none."""
        record = inputs["rows"]
        by: dict[At, str] = {
            ("by",) if isinstance(self.by, str) else ("by", place): name for place, name in enumerate(self.names)
        }
        yield from unknown_fields(record, {**by, ("answer",): self.answer})
        if not self.names:
            yield Wrong("by: name the fields that samples of one question have in common", ("by",))
        if self.answer in self.names:
            yield Wrong(f"answer: {self.answer!r} names the question, too", ("answer",))
        kind = type_of_field(record, self.answer)
        if kind is not None and kind.kind in ("list", "dict", "struct", "bytes"):
            yield Wrong(f"answer: field {self.answer!r} is {kind}; expected a text or a number", ("answer",))
        if self.options is not None:
            yield from unknown_fields(record, {("options",): self.options})
            listed = type_of_field(record, self.options)
            if listed is not None and not (listed.kind == "list" and listed.item and listed.item.kind == "str"):
                yield Wrong(f"options: field {self.options!r} is {listed}; expected list[str]", ("options",))
        if (least := self.at_least) is not None:
            share = isinstance(least, float)
            if share and not 0 < least <= 1:
                yield Wrong(
                    f"at_least: {least} is neither a share (0.6; 1.0 for all) nor a number of samples (3)", ("at_least",)
                )
            elif not share and least < 2:
                yield Wrong("at_least: give at least 2 samples, or a share (0.6; 1.0 for all)", ("at_least",))
        yield from clashes(record, {each.name: ("by",) for each in _NEW})

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """A sample, with its votes."""
        made = grown(inputs["rows"], _NEW)
        return {"agreed": made, "disagreed": made}


@dataclass
class _Question:
    """A question's samples: those with an answer, and the number of all."""

    rows: list[int] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    samples: int = 0


@operator(outputs={"agreed": Record, "disagreed": Record})
async def vote(rows: Table[Record], ctx: Context, encoder: Encoder | None, params: VoteParams) -> AsyncIterator[Output]:
    """Keep one of the samples of each question: the first that has the answer on which most samples agree (self-consistency).

        steps:
          samples: {op: generate, in: questions, with: {prompt: "{{ question }}", fields: {why: str, answer: str}, samples: 8}}
          voted: {op: vote, in: samples, with: {by: question, answer: answer, equivalence: math, at_least: 0.5}}

    The sample gets `votes`, how many samples agree with it, and `share`, their share of all samples of the question. It goes to
    `agreed`; if fewer than `at_least` agree, or if another answer has as many votes, it goes to `disagreed`. A sample without
    an answer, or with one that is none of the options, counts as a sample and votes for nothing. All samples that agree are
    sources of the row.

    Metrics: `questions` by outcome (`agreed`, `too few`, `tie`, `no answer`); `samples`, `empty_answers`.

    Source: self-consistency (arXiv 2203.11171).

    Args:
        by: the field, or the fields, that the samples of one question have in common.
        answer: the field with the answer.
        equivalence: when two answers are the same, as for cp_calibrate: `exact`: equal text; `qa`: equal first line without
            case, punctuation and articles; `math`: equal final answer, verified; `embedding`: equal under `qa`, or at least as
            similar as `min_similarity` (role `encoder`).
        min_similarity: the cosine similarity for `embedding`.
        options: a field with the options of multiple choice; an answer is then the option that it names.
        at_least: a share of the question's samples (0.6), or a number of samples (3). By default most votes are enough.
    """
    questions = grouped(rows, params)
    asked = [_as_samples(each, rows, params) for each in questions]
    found = await distinct_answers(asked, params.equivalence, encoder, params.min_similarity, ctx.progress)
    made = grown(rows.record, _NEW)
    for question, distinct in zip(questions, found, strict=True):
        ctx.count("samples", by=question.samples)
        ctx.count("empty_answers", by=question.samples - len(question.rows))
        answers = [each for each in distinct if each.possible]
        if not answers:
            ctx.count("questions", "no answer")
            continue
        best = max(answers, key=lambda each: (each.count, -each.first))
        outcome = _outcome(best, answers, question.samples, params.at_least)
        ctx.count("questions", outcome)
        members = [question.rows[number] for number in sorted(best.members)]
        new = {"votes": best.count, "share": best.count / question.samples}
        row = with_new(made, rows[members[0]], new)
        yield "agreed" if outcome == "agreed" else "disagreed", derived(row, *(rows.ref(member) for member in members))


def grouped(rows: Table[Record], params: VoteParams) -> list[_Question]:
    """The questions, in order of their first samples."""
    columns = [rows.arrow.column(name).to_pylist() for name in params.names]
    found: dict[str, _Question] = {}
    for place, answer in enumerate(rows.arrow.column(params.answer).to_pylist()):
        key = json.dumps([column[place] for column in columns], sort_keys=True, default=str)
        question = found.setdefault(key, _Question())
        question.samples += 1
        text = "" if answer is None else str(answer)
        if text.strip():
            question.rows.append(place)
            question.answers.append(text)
    return list(found.values())


def _as_samples(question: _Question, rows: Table[Record], params: VoteParams) -> SampledAnswers:
    """A question as cp_calibrate has it, so that its rules about equal answers apply."""
    if not question.rows:
        return SampledAnswers(question="", answers=[], samples=[])
    first = question.rows[0]
    names = [rows.arrow.column(name)[first].as_py() for name in params.names]
    text = " ".join(each for each in names if isinstance(each, str))
    options: Any = rows.arrow.column(params.options)[first].as_py() if params.options else None
    return SampledAnswers(question=text, answers=[], samples=question.answers, options=options or None)


def _outcome(best: DistinctAnswer, answers: Sequence[DistinctAnswer], samples: int, at_least: float | None) -> str:
    if sum(each.count == best.count for each in answers) > 1:
        return "tie"
    if at_least is None:
        return "agreed"
    needed = at_least * samples - 1e-9 if isinstance(at_least, float) else at_least
    return "agreed" if best.count >= needed else "too few"
