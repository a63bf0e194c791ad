"""The subject of a bundle: a run with the versions that it read and made, or a single version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import PipelineError, Problem
from engine.page.bundle.file_links import ADDRESSES
from engine.page.facts.runs.run import Part, RunFacts, run_facts
from engine.page.sessions import Reader
from registry import Manifest
from registry.errors import UnknownVersionError


@dataclass(frozen=True)
class Subject:
    """A run or version to copy.

    Args:
        name: for people.
        start: the address of its own page.
        manifests: the versions whose pages are in the bundle.
    """

    name: str
    start: str
    manifests: tuple[Manifest, ...]


def subject(reader: Reader, target: str | None) -> Subject:
    """The subject that a user named: the id of a run, `NAME@V` or `NAME`; None: the last run.

    Raises:
        PipelineError: there is no such thing, or the run has not ended.
    """
    if target is None:
        newest = reader.session.ask("select run_id from runs order by started_at desc, run_id desc limit 1").rows
        if not newest:
            raise PipelineError([Problem("the registry has no run to copy", hint="name a version: NAME@V")])
        [(target,)] = newest
    if reader.session.ask("select 1 from runs where run_id = ?", [target]).rows:
        return _run(reader, run_facts(reader, target))
    try:
        version = reader.session.resolve(target)
    except UnknownVersionError as error:
        raise PipelineError([Problem(str(error), hint="`engine runs` lists runs, `engine ls` versions")]) from error
    manifest = reader.session.manifest(*version)
    return Subject(str(manifest.ref), ADDRESSES.version(*version), (manifest,))


def _run(reader: Reader, run: RunFacts) -> Subject:
    if run.state == "running":
        raise PipelineError([Problem(f"run {run.run_id} is still running", hint="copy it when it has ended")])
    versions = dict.fromkeys((part.name, part.version) for part in _parts(run) if part.version is not None and not part.removed)
    manifests = tuple(reader.session.manifest(name, version) for name, version in versions)
    return Subject(f"run {run.run_id} of {run.pipeline}", ADDRESSES.run(run.run_id), manifests)


def _parts(run: RunFacts) -> Iterator[Part]:
    """The versions that the run read and made, the results last."""
    for step in run.steps:
        yield from step.inputs
        yield from (use.version for use in step.models if use.version)
        yield from step.outputs
