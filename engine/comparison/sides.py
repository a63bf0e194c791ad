"""The sides of a comparison: versions, the outputs of runs, or the outputs of variants of a pipeline's matrix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import PipelineError, Problem, did_you_mean
from engine.spec.variant_names import split_name
from registry import Manifest, Registry, Session

_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_NEWEST = (
    "select v.name, coalesce(r.version, max(v.version)), v.variant from versions v left join refs r on r.name = v.name "
    "where v.pipeline = ? and v.variant <> '' group by v.name, r.version, v.variant order by v.name"
)


@dataclass(frozen=True)
class Side:
    """One side: its label, and its versions by part. A side that is a single version has the part ''."""

    label: str
    parts: Mapping[str, Manifest]


def sides_of(targets: Sequence[str], session: Session, registry: Registry) -> list[Side]:
    """The sides that a command names.

    Args:
        targets: `NAME@V` or `NAME`; the id of a run; `PIPELINE/VARIANT` for the latest versions of a variant; `PIPELINE` for
            all its variants.

    Raises:
        QueryError: there is no such version.
        PipelineError: there are fewer than two sides.
    """
    found = [side for target in targets for side in _sides(target, session, registry)]
    if len(found) < 2:
        hint = "give at least two versions, runs or variants, or a pipeline with a matrix"
        raise PipelineError([Problem(f"there is nothing to compare {targets[0]} with", hint=hint)])
    return found


def parts_in_common(sides: Sequence[Side]) -> list[str]:
    """The parts of the first side that another side has as well; single versions are compared whatever their names are."""
    if all(len(side.parts) == 1 for side in sides):
        return [next(iter(sides[0].parts))]
    return [part for part in sides[0].parts if any(part in side.parts for side in sides[1:])]


def part_of(side: Side, part: str) -> Manifest | None:
    """A part of a side; its only one if it has one."""
    return next(iter(side.parts.values())) if len(side.parts) == 1 else side.parts.get(part)


def _sides(target: str, session: Session, registry: Registry) -> list[Side]:
    if _RUN.fullmatch(target):
        return [_run(target, session, registry)]
    if not session.ask("select 1 from versions where name = ? limit 1", [target.partition("@")[0]]).rows:
        pipeline, _, variant = target.partition("/")
        variant = variant.removeprefix("<").removesuffix(">")  # as some write it
        versions = registry.catalog.look_up(_NEWEST, [pipeline])
        if versions and not variant:
            variants = _widest([each for *_, each in versions])
            return [_variant(pipeline, each, versions, session) for each in variants]
        if versions and "=" in variant and "/" not in variant and "@" not in variant:
            return [_variant(pipeline, variant, versions, session)]
    manifest = session.manifest(*session.resolve(target))
    return [Side(str(manifest.ref), {_part(manifest): manifest})]


def _run(run_id: str, session: Session, registry: Registry) -> Side:
    if not session.ask("select 1 from runs where run_id = ?", [run_id]).rows:
        newest = [name for (name,) in session.ask("select run_id from runs order by started_at desc limit 100").rows]
        raise PipelineError(
            [Problem(f"there is no run {run_id!r}", hint=did_you_mean(run_id, newest, "`engine runs` lists them"))]
        )
    known = {(name, version) for name, version in session.ask("select name, version from versions").rows}
    made = [session.manifest(*each) for each in registry.catalog.runs.outputs(run_id) if each in known]
    if not made:
        raise PipelineError([Problem(f"run {run_id} has no outputs that still exist")])
    return Side(run_id, {f"{each.variant}/{_part(each)}".removeprefix("/"): each for each in made})


def _variant(pipeline: str, variant: str, versions: Sequence[tuple[str, int, str]], session: Session) -> Side:
    wanted = _values(variant)
    chosen = [(name, version) for name, version, each in versions if _values(each) <= wanted]
    if not chosen:
        known = _widest([each for *_, each in versions])
        hint = did_you_mean(variant, known, f"it has {', '.join(known)}")
        raise PipelineError([Problem(f"the pipeline {pipeline} has no variant {variant!r}", hint=hint)])
    manifests = [session.manifest(*each) for each in chosen]
    # Of two variants of one step, the one with more of the wanted values.
    manifests.sort(key=lambda each: len(_values(each.variant)))
    return Side(f"{pipeline}/{variant}", {_part(each): each for each in manifests})


def _part(manifest: Manifest) -> str:
    """The name of an output within its variant: `step` or `step.output`."""
    return split_name(manifest.name)[1]


def _values(variant: str) -> frozenset[str]:
    return frozenset(variant.split(","))


def _widest(variants: Sequence[str]) -> list[str]:
    """The variants whose values are not all in another one."""
    distinct = list(dict.fromkeys(variants))
    return [each for each in distinct if not any(_values(each) < _values(other) for other in distinct)]
