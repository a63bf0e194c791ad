"""Let people decide about rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.operator import (
    Context,
    Decision,
    DescribedField,
    DescribedType,
    InputTypes,
    Outcome,
    OutputTypes,
    Params,
    Record,
    Reviews,
    ReviewTask,
    Table,
    Wrong,
    derived,
    operator,
)
from operators.agreement import krippendorff_alpha
from operators.generic.new_fields import At, clashes, grown, type_of_field, unknown_fields, with_new, words_field

_KEYS = 9
"""Labels that have a key on the page."""


class ReviewParams(Params):
    """Parameters of review."""

    n: Annotated[int | None, Field(ge=1)] = None
    share: Annotated[float | None, Field(gt=0, le=1)] = None
    all: Literal[True] | None = None
    reviewers: Annotated[int, Field(ge=1, le=100)] = 1
    instructions: str = ""
    labels: list[str] = []
    choice: Literal["single", "multiple"] = "single"
    label_field: str | None = None
    fields: list[str] | None = None

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Several numbers of rows, labels that cannot be used, and fields that do not fit."""
        record = inputs["rows"]
        given = [name for name in ("n", "share", "all") if getattr(self, name) is not None]
        if len(given) > 1:
            yield Wrong(f"{given[0]} and {given[1]}: give one of n, share and all", at=(given[1],))
        seen: set[str] = set()
        for place, label in enumerate(self.labels):
            if not label.strip() or label != label.strip() or not label.isprintable():
                yield Wrong(f"labels: {label!r} cannot be a label; give a word or a few", at=("labels", place))
            elif label in seen:
                yield Wrong(f"labels: {label!r} is listed twice", at=("labels", place))
            seen.add(label)
        names: dict[At, str] = {("fields", place): name for place, name in enumerate(self.fields or ())}
        yield from unknown_fields(record, names)
        if self.label_field is not None:
            yield from self._label_field(record, self.label_field)
        elif self.choice == "multiple" and not self.labels:
            yield Wrong("choice: there are no labels to choose from; give `labels`", at=("choice",))

    def _label_field(self, record: type[Record], name: str) -> Iterator[Wrong]:
        at: At = ("label_field",)
        if not self.labels:
            yield Wrong("label_field: there are no labels; give `labels`", at)
            return
        kind = type_of_field(record, name)
        if kind is None:
            yield from clashes(record, {name: at})
        elif not _takes(kind, self.labels, self.choice):
            expected = _label_type(self.labels, self.choice)
            yield Wrong(f"label_field: field {name!r} is {kind}, which does not take all labels; expected {expected}", at)
        if name in (self.fields or ()):
            yield Wrong(f"fields: {name!r} takes the label, so it cannot be edited; leave it out", at=("fields",))

    def notes(self) -> list[str]:
        """Labels without a key."""
        more = len(self.labels) - _KEYS
        return [f"the last {more} of {len(self.labels)} labels have no key; the keys are 1 to 9"] if more > 0 else []

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """The rows, with a new field if labels go into one."""
        record = inputs["rows"]
        if self.label_field is None or self.label_field in record.model_fields:
            return {"out": record}
        return {"out": grown(record, (DescribedField(name=self.label_field, type=_label_type(self.labels, self.choice)),))}

    def review(self, inputs: InputTypes) -> ReviewTask:
        """What reviewers are asked."""
        editable = self.fields if self.fields is not None else list(inputs["rows"].model_fields)
        return ReviewTask(
            instructions=self.instructions,
            labels=tuple(self.labels),
            choice=self.choice,
            label_field=self.label_field,
            fields=tuple(name for name in editable if name != self.label_field),
            n=self.n,
            share=self.share,
            reviewers=self.reviewers,
        )


def _label_type(labels: list[str], choice: str) -> DescribedType:
    words = words_field("label", labels).type
    return words if choice == "single" else DescribedType(kind="list", item=words)


def _takes(kind: DescribedType, labels: list[str], choice: str) -> bool:
    """Whether a field can have each of the labels, or lists of them."""
    if choice == "multiple":
        return kind.kind == "list" and kind.item is not None and _takes(kind.item, labels, "single")
    return kind.kind == "str" or (kind.kind == "words" and set(labels) <= set(kind.words))


@operator(outputs={"out": Record})
def review(rows: Table[Record], ctx: Context, reviews: Reviews, params: ReviewParams) -> Iterator[Record]:
    """Let people approve, edit, label or reject rows, and continue with those that they let through.

        checked:
          op: review
          in: answers
          with: {n: 50, labels: [correct, partly], label_field: quality, instructions: Is the answer right?}

    The step waits until enough rows are decided: the run ends, says how many are missing and how to review them, and other
    branches finish. The next run continues. Rows that were approved come out as they are, edited ones with the new values, and
    rejected ones go to `rejects` with the reviewer's reason. Undecided rows beyond `n` or `share` are left out and
    counted as filtered.

    Decisions are about the content of a row. When something before this step changes, unchanged rows keep their decisions,
    and equal rows share one. With several `reviewers`, the verdict of most of them wins, then the values of most of
    those who let the row through; while there is a tie, the row is undecided and waits for one more reviewer. Every decision
    that exists when the step runs counts, even beyond `n`. `max_reject_ratio` is 1 here unless the pipeline sets it.

    Metrics: `rows` counts approved, edited, rejected and undecided rows. `krippendorff_alpha` has the agreement of those who
    decided about the same rows beyond chance: of their verdicts, and for each label of whether it was given. It is left out
    if all decisions are the same.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).

    Args:
        n: how many different rows have to be decided; of fewer rows, all. Reviewers are asked in an order as good as random,
            so those that are decided are a random sample.
        share: the same as a part of the different rows, above 0 and up to 1.
        all: true: all rows; the default.
        reviewers: how many people have to decide about each row.
        instructions: what the reviewers have to know, in Markdown.
        labels: what they can label rows with; the first nine have keys.
        choice: `single`: one label for a row; `multiple`: any number.
        label_field: the field that the label goes into (for `multiple`, the list of labels): one of the row, or a new one. Then
            a row needs a label to come out. Without it, labels stay with the decisions.
        fields: the fields that may be edited; by default, all.
    """
    made = params.outputs({"rows": rows.record})["out"]
    ids = rows.row_ids()
    undecided = 0
    for number, row_id in enumerate(ids):
        outcome = reviews.outcome(row_id)
        if outcome is None:
            undecided += 1
        elif not outcome.accepted:
            ctx.count("rows", "rejected")
            ctx.reject(outcome.reason, row=rows.ref(number))
        else:
            ctx.count("rows", "edited" if outcome.fields else "approved")
            yield derived(with_new(made, rows[number], _new(outcome, params)), rows.ref(number))
    ctx.count("rows", "undecided", by=undecided)
    for name, alpha in _agreement([reviews.decisions(each) for each in dict.fromkeys(ids)], params.labels).items():
        ctx.report("krippendorff_alpha", alpha, name)


def _new(outcome: Outcome, params: ReviewParams) -> Mapping[str, Any]:
    """The values that reviewers gave a row."""
    if params.label_field is None:
        return outcome.fields
    label: Any = [each for each in params.labels if each in outcome.labels]
    return {**outcome.fields, params.label_field: label if params.choice == "multiple" else label[0]}


def _agreement(units: list[tuple[Decision, ...]], labels: list[str]) -> dict[str, float]:
    """Krippendorff's alpha of verdicts, and of each label; rows without labels, such as rejected ones, say nothing of these."""
    judged: dict[str, list[list[object]]] = defaultdict(list)
    for made in units:
        judged["verdict"].append([each.verdict for each in made])
        labelled = [each for each in made if each.accepts or each.labels]
        for label in labels:
            judged[f"label {label}"].append([label in each.labels for each in labelled])
    found = {name: krippendorff_alpha(values) for name, values in judged.items()}
    return {name: alpha for name, alpha in found.items() if alpha is not None}
