"""A full disk is a clear error: commits stay readable, and the same commit succeeds once there is space."""

from __future__ import annotations

import errno
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from registry import Registry, StepRun
from tests.registry.catalog.test_catalog import VIEWS, commit, draft, everything, three_generations

KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes free; returns the file to remove to free the rest."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        block = b"\0" * 4 * KIB
        while True:
            try:
                file.write(block)
            except OSError:
                break
        file.truncate(max(0, file.tell() - free))
    return ballast


@pytest.mark.parametrize("moment", ["commit", *(pytest.param(other, marks=pytest.mark.soak) for other in ("begin", "end"))])
@pytest.mark.parametrize(
    "amounts", [(0, 8, 24, 128), pytest.param(range(0, 130, 2), marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_a_run_on_a_disk_that_fills_up(small_disk: Path, moment: str, amounts: Sequence[int]) -> None:
    registry = Registry(small_disk / "registry")
    catalog = registry.catalog
    three_generations(registry)
    failures = []
    for amount in amounts:
        free, name, key = amount * KIB, f"p/{amount}", str(amount)
        before = everything(registry)
        ballast = fill(small_disk, free) if moment == "begin" else small_disk / "none yet"
        run = ""
        try:
            made = [draft(registry, name, ["w"], key)]
            run = catalog.begin_run("p", {})
            ballast = fill(small_disk, free) if moment == "commit" else ballast
            catalog.commit(made, run, StepRun(step="s", op="test", outcome="ran"))
            ballast = fill(small_disk, free) if moment == "end" else ballast
            catalog.end_run(run, "succeeded", refs={name: 1})
        except OSError as error:
            failures.append(error)
            # Nothing that existed before is lost or unreadable.
            now = everything(registry)
            assert all(set(map(repr, before[view])) <= set(map(repr, now[view])) for view in VIEWS if view != "datasets")
            with registry.session() as session:
                assert session.ask('select word from "p/a@1"').rows == [("x",), ("y",), ("z",)]
            ballast.unlink()
            if run:
                catalog.end_run(run, "failed", str(error))
            [again] = commit(registry, draft(registry, name, ["w"], key))
            assert again.version == 1
        else:
            ballast.unlink()
        assert catalog.differences() == []
        assert len(everything(registry)["versions"]) == len(before["versions"]) + 1
    assert {error.errno for error in failures} == {errno.ENOSPC}
    assert 0 < len(failures) < len(amounts), "some of the amounts are to be too little, and some enough"
    assert all("free some space on that disk" in str(error) for error in failures if error.filename)


def test_a_catalog_that_reaches_the_limit_for_files_is_not_damaged(registry: Registry) -> None:
    three_generations(registry)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * KIB, hard))
    try:
        with pytest.raises(OSError, match=r"raise the limit for the size of files \(ulimit -f\)"):
            commit(registry, draft(registry, "p/new", ["w"], "key"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(registry.root.glob("*.damaged-*"))
    [again] = commit(registry, draft(registry, "p/new", ["w"], "key"))
    assert again.version == 1
