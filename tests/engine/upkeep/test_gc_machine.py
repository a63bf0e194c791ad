"""After any sequence of runs, commits, pins, gc, rebuilds and kills, the registry contains what a model in memory predicts."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from engine.upkeep.gc import collect, find
from registry import Draft, Registry, StepRun, VersionRef
from registry.storage import fault_points
from registry.storage.checked_json import json_digest, write_checked_json
from registry.upkeep.gc import Garbage
from tests.registry.catalog.test_catalog import draft, everything

AGE = 3600
"""The seconds by which everything ages when time passes."""
GRACES = (dt.timedelta(0), dt.timedelta(seconds=AGE / 2))
NAMES, TEXTS = ("p/a", "p/b", "p/c"), ("v", "wx", "xy", "yz")
CHANCE = st.randoms(use_true_random=True)
"""Draws without a bias towards small and equal values, so that most histories have something to collect."""

Ref = tuple[str, int]


class Killed(BaseException):
    """The process died here."""


@contextmanager
def killed_after(passings: int) -> Iterator[list[str]]:
    """Die at this fault point, or at the end of the block; return the names of the fault points that were passed."""
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if len(passed) == passings:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fault_points, "point", point)
        with suppress(Killed):
            yield passed


@dataclass(frozen=True)
class Version:
    """A version in the model; `touched` is when it was made or last used."""

    made: Draft
    words: str
    touched: int

    @property
    def objects(self) -> set[str]:
        return {part.sha256 for part in (self.made.key_object, *self.made.data, *self.made.side)}

    @property
    def inputs(self) -> set[Ref]:
        return {(ref.name, ref.version) for ref in self.made.inputs}


@dataclass
class Run:
    """A live run, as if in another process."""

    registry: Registry
    run_id: str
    refs: dict[str, int] = field(default_factory=dict)


@dataclass
class Receipt:
    """A receipt of a step."""

    objects: set[str]
    touched: int


class Machine(RuleBasedStateMachine):
    """The registry and a model of it. Time passes only while no run is live, so recent files were touched since."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = Registry(Path(self.folder.name) / "registry")
        self.registry.catalog.rebuild()
        self.now = 0
        self.versions: dict[Ref, Version] = {}
        self.numbers = dict.fromkeys(NAMES, 0)
        self.latest: dict[str, int] = {}
        self.pins: set[Ref] = set()
        self.runs: list[Run] = []
        self.objects: dict[str, int] = {}
        self.receipts: dict[str, Receipt] = {}

    def teardown(self) -> None:
        assert self.registry.catalog.differences() == []
        for run in self.runs:
            run.registry.catalog.runs.release(run.run_id)
        self.folder.cleanup()

    # -- what happens ---------------------------------------------------------------------------------------------

    @initialize(chance=CHANCE)
    def begin(self, chance: Random) -> None:
        for _ in range(3):
            self.run(chance)
        self.mark(chance)

    @rule(chance=CHANCE)
    def run(self, chance: Random) -> None:
        registry = Registry(self.registry.root)
        self.runs.append(Run(registry, registry.catalog.begin_run("p", {})))
        self._go_on(self.runs[-1], chance, ["succeeded", "succeeded", "failed", "killed", *(["lives"] * (len(self.runs) < 3))])

    @precondition(lambda self: self.runs)
    @rule(chance=CHANCE)
    def go_on(self, chance: Random) -> None:
        self._go_on(chance.choice(self.runs), chance, ["succeeded", "succeeded", "failed", "killed", "lives"])

    @precondition(lambda self: self.runs)
    @rule(chance=CHANCE)
    def commit_killed(self, chance: Random) -> None:
        run, words = chance.choice(self.runs), chance.choice(TEXTS)
        made = self._drafted(run, chance, words)
        with killed_after(chance.randint(1, 6)) as passed:
            run.registry.catalog.commit([made], run.run_id, StepRun(step="s", op="test", outcome="ran"))
        self._die(run)
        if "manifest.written" in passed or made.version_id in {each.made.version_id for each in self.versions.values()}:
            self._committed(made, words)
        assert self.registry.catalog.differences() == []

    @rule(chance=CHANCE)
    def mark(self, chance: Random) -> None:
        """Pin versions, or unpin pinned ones; leave receipts of steps with and without versions."""
        for ref in chance.sample(sorted(self.versions), min(2, len(self.versions))):
            change = self.registry.catalog.unpin if ref in self.pins else self.registry.catalog.pin
            change(*ref)
            self.pins ^= {ref}
        words, keys = chance.choice(TEXTS), sorted(each.made.step_key for each in self.versions.values())
        for key in chance.sample(["unfinished", *keys], min(2, len(keys))):
            stored = self.registry.store.put_bytes(f"part of {words}".encode())
            receipt = {"outputs": {"out": {"data": {"sha256": stored.sha256}}}}
            write_checked_json(self.registry.receipts / key / f"{words}.json", receipt)
            self.objects[stored.sha256] = self.now
            others = self.receipts[key].objects if key in self.receipts else set()
            self.receipts[key] = Receipt({*others, stored.sha256}, self.now)

    @precondition(lambda self: not self.runs)
    @rule()
    def time_passes(self) -> None:
        self.now += 1
        for folder in ("objects", "manifests", "receipts"):
            for path in (path for path in (self.registry.root / folder).rglob("*") if path.is_file()):
                then = path.stat().st_mtime - AGE
                os.utime(path, (then, then))

    @rule(chance=CHANCE)
    def look(self, chance: Random) -> None:
        before, grace = self._disk(), chance.choice(GRACES)
        self._check(find(self.registry, grace), grace)
        assert self._disk() == before

    @rule(chance=CHANCE)
    def gc(self, chance: Random) -> None:
        grace = chance.choice(GRACES)
        self._check(collect(self.registry, grace), grace)
        versions, objects, receipts = self._garbage(grace)
        self.versions = {ref: each for ref, each in self.versions.items() if ref not in versions}
        self.objects = {sha256: touched for sha256, touched in self.objects.items() if sha256 not in objects}
        self.receipts = {key: each for key, each in self.receipts.items() if key not in receipts}

    @rule(chance=CHANCE)
    def gc_killed(self, chance: Random) -> None:
        grace = chance.choice(GRACES)
        versions, objects, receipts = self._garbage(grace)
        with killed_after(chance.randint(1, 12)):
            collect(self.registry, grace)
        self.registry = Registry(self.registry.root)
        # Everything that may be removed is gone or whole; the invariant checks the rest.
        left = {path.stem for path in (self.registry.root / "manifests").glob("*.json")}
        for ref in versions:
            if self.versions[ref].made.version_id not in left:
                del self.versions[ref]
        for sha256 in objects:
            if not self.registry.store.path(sha256).exists():
                del self.objects[sha256]
        for key in receipts:
            if not list((self.registry.receipts / key).glob("*.json")):
                del self.receipts[key]
        assert self.registry.catalog.differences() == []

    @rule()
    def rebuild(self) -> None:
        before = everything(self.registry)
        self.registry = Registry(self.registry.root)
        assert self.registry.catalog.rebuild() == len(self.versions)
        assert everything(self.registry) == before
        assert {name: latest for name, _, _, latest, *_ in before["datasets"] if latest} == self.latest

    # -- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def the_registry_holds_what_the_model_knows(self) -> None:
        left = {Path(each.name).stem for each in self.registry.manifests.listing()}
        assert left == {version.made.version_id for version in self.versions.values()}
        for ref, version in self.versions.items():
            manifest = self.registry.catalog.manifest(version.made.version_id)
            assert (manifest.name, manifest.version) == ref
            [table] = [self.registry.store.read_table(part.sha256) for part in manifest.data]
            assert table["word"].to_pylist() == list(version.words)
            assert version.inputs <= self.versions.keys(), "a trace ends in nothing"
        assert {*self.pins, *self.latest.items()} <= self.versions.keys()
        there = {each.sha256 for each in self.registry.store.listing()}
        assert there == self.objects.keys()

    # -- the model ------------------------------------------------------------------------------------------------

    def _go_on(self, run: Run, chance: Random, endings: list[str]) -> None:
        for _ in range(chance.randint(1, 3)):
            words = chance.choice(TEXTS)
            made = self._drafted(run, chance, words)
            [manifest] = run.registry.catalog.commit([made], run.run_id, None)
            self._committed(made, words)
            assert self.versions[made.name, manifest.version].made.version_id == manifest.version_id
            run.refs[made.name] = manifest.version
        ending = chance.choice(endings)
        if ending == "killed":
            self._die(run)
        elif ending != "lives":
            self.runs.remove(run)
            refs = run.refs if ending == "succeeded" else {}
            run.registry.catalog.end_run(run.run_id, ending, refs=refs)
            self.latest |= refs

    def _drafted(self, run: Run, chance: Random, words: str) -> Draft:
        """What a run does before it commits: look up what it needs, and store objects."""
        name = chance.choice(NAMES)
        inputs: list[VersionRef] = []
        for ref in sorted(chance.sample(sorted(self.versions), min(chance.choice((0, 0, 1, 2)), len(self.versions)))):
            found = run.registry.catalog.touch(self.versions[ref].made.version_id)
            inputs.append(found.ref)
            self.versions[ref] = replace(self.versions[ref], touched=self.now)
        made = draft(run.registry, name, words, json_digest([words, *map(str, inputs)]), inputs)
        self.objects |= dict.fromkeys(Version(made, words, 0).objects, self.now)
        return made

    def _committed(self, made: Draft, words: str) -> None:
        known = [ref for ref, each in self.versions.items() if each.made.version_id == made.version_id]
        if not known:
            self.numbers[made.name] += 1
        ref = known[0] if known else (made.name, self.numbers[made.name])
        self.versions[ref] = Version(made, words, self.now)

    def _die(self, run: Run) -> None:
        self.runs.remove(run)
        run.registry.catalog.runs.release(run.run_id)

    def _garbage(self, grace: dt.timedelta) -> tuple[set[Ref], set[str], set[str]]:
        """The versions, objects and step keys of receipts that may be removed."""

        def young(touched: int) -> bool:
            return touched == self.now and bool(self.runs or grace)

        newest = {name: max(number for other, number in self.versions if other == name) for name, _ in self.versions}
        waiting = [*newest.items(), *self.latest.items(), *self.pins]
        waiting += [ref for ref, each in self.versions.items() if young(each.touched)]
        waiting += [
            ref
            for ref, each in self.versions.items()
            if each.made.step_key in self.receipts and young(self.receipts[each.made.step_key].touched)
        ]
        kept: set[Ref] = set()
        while waiting:
            ref = waiting.pop()
            if ref not in kept:
                kept.add(ref)
                waiting += self.versions[ref].inputs
        keys = {each.made.step_key for each in self.versions.values()}
        done = {key for key, each in self.receipts.items() if key in keys and not young(each.touched)}
        needed = set[str]().union(*(self.versions[ref].objects for ref in kept))
        needed = needed.union(*(each.objects for key, each in self.receipts.items() if key not in done))
        objects = {sha256 for sha256, touched in self.objects.items() if sha256 not in needed and not young(touched)}
        return self.versions.keys() - kept, objects, done

    def _check(self, garbage: Garbage, grace: dt.timedelta) -> None:
        versions, objects, receipts = self._garbage(grace)
        assert {(each.name, each.version) for each in garbage.versions} == versions
        assert {each.sha256 for each in garbage.objects} == objects
        assert {each.where for each in garbage.leftovers} == {f"receipts/{key}" for key in receipts}
        assert garbage.kept == len(self.versions) - len(versions)
        assert (garbage.live_since is not None) == bool(self.runs)

    def _disk(self) -> set[tuple[str, float]]:
        """Everything except locks."""
        paths = (path for path in self.registry.root.rglob("*") if path.is_file() and "lock" not in path.name)
        return {(str(path), path.stat().st_mtime) for path in paths}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("examples", "steps"), [(3, 8), pytest.param(200, 30, marks=pytest.mark.soak)])
def test_the_registry_behaves_like_the_model(examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
