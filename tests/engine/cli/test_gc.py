"""The output and the errors of `engine gc`, `engine pin` and `engine unpin`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli import app as command_line
from engine.cli.invocation import propose
from engine.errors import PipelineError
from registry import QueryError, Registry
from tests.engine.upkeep.test_gc import receipt, three_versions, versions


@pytest.fixture
def app(registry: Registry) -> list[str]:
    """The words before a command."""
    return ["--registry", str(registry.root)]


def printed(app: list[str], *arguments: str) -> list[str]:
    result = CliRunner().invoke(command_line.app, [*app, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_gc_lists_garbage_and_deletes_it_only_with_the_option(registry: Registry, app: list[str]) -> None:
    first, second, third = three_versions(registry)
    receipt(registry, third.step_key, b"part")
    (registry.root / "journal").mkdir()
    (registry.root / "journal" / "answers.sqlite").write_bytes(b"x" * 1234)
    lines = printed(app, "gc", "--grace", "0")
    assert printed(app, "gc", "--grace", "0", "--dry-run") == lines
    assert lines[0].startswith("would delete 2 versions, 3 objects, 1 leftover: ")
    assert lines[1] == f"  p/a@2  3 rows, created {second.created_at:%Y-%m-%d %H:%M} UTC"
    assert any(line.startswith(f"  objects/{first.data[0].sha256[:2]}/{first.data[0].sha256}  ") for line in lines)
    assert lines[6].startswith(f"  receipts/{third.step_key}  of a finished step, ")
    assert lines[7:] == [
        "kept: 1 version, and all model answers (1,234 bytes), which were paid for",
        f"nothing has been deleted. To delete this: `{propose('gc', '--delete')}`",
    ]
    assert len(versions(registry)) == 3
    deleted = printed(app, "gc", "--grace", "0", "--delete")
    assert deleted == [lines[0].replace("would delete", "deleted"), *lines[1:8]]
    assert versions(registry) == ["p/a@3"]
    assert printed(app, "gc", "--grace", "0") == ["nothing to delete", lines[7]]


def test_gc_explains_what_is_kept_for_now(registry: Registry, app: list[str]) -> None:
    three_versions(registry)
    stored = registry.store.put_bytes(b"loose")
    size = f"1 object ({stored.bytes} bytes) that no version uses"
    assert printed(app, "gc")[2:] == [f"kept for now: {size}, younger than 1h"]
    run = registry.catalog.begin_run("p", {})
    assert printed(app, "gc", "--grace", "0")[2:] == [f"kept for now: {size}, newer than the start of the oldest active run"]
    registry.catalog.end_run(run, "succeeded")


def test_gc_as_json_lists_everything(registry: Registry, app: list[str]) -> None:
    for name in "abc":
        three_versions(registry, f"p/{name}")
    found: dict[str, Any] = json.loads("\n".join(printed(app, "gc", "--grace", "0", "--json")))
    assert (found["deleted"], found["kept_versions"], len(found["versions"])) == (False, 3, 6)
    assert found["bytes"] == sum(each["bytes"] for each in found["objects"])
    assert printed(app, "gc", "--grace", "0")[6] == "  ... and 1 more (--json lists all)"
    again = json.loads("\n".join(printed(app, "gc", "--grace", "0", "--json", "--delete")))
    assert {**again, "horizon": ""} == {**found, "horizon": "", "deleted": True}


def test_a_pinned_version_is_kept_until_it_is_unpinned(registry: Registry, app: list[str]) -> None:
    three_versions(registry)
    assert printed(app, "pin", "p/a@1") == [f"p/a@1 is pinned. To release it: `{propose('unpin', 'p/a@1')}`"]
    printed(app, "gc", "--grace", "0", "--delete")
    assert versions(registry) == ["p/a@1", "p/a@3"]
    assert printed(app, "unpin", "p/a@1") == ["p/a@1 is no longer pinned"]
    with pytest.raises(PipelineError, match="p/a@1 is not pinned"):
        printed(app, "unpin", "p/a@1")
    with pytest.raises(QueryError, match="no version 2"):
        printed(app, "pin", "p/a@2")
    printed(app, "gc", "--grace", "0", "--delete")
    assert versions(registry) == ["p/a@3"]


@pytest.mark.parametrize("grace", ["", "soon", "-1h", "5", "1w", "1 h"])
def test_an_invalid_grace_is_refused(registry: Registry, app: list[str], grace: str) -> None:
    registry.catalog.rebuild()
    with pytest.raises(PipelineError, match="write it as 90s"):
        printed(app, "gc", f"--grace={grace}")


def test_gc_without_a_registry_and_with_an_empty_one(registry: Registry, app: list[str]) -> None:
    with pytest.raises(PipelineError, match="there is no registry at"):
        printed(app, "gc")
    assert not Path(registry.root).exists()
    registry.catalog.rebuild()
    assert printed(app, "gc") == [
        "nothing to delete",
        "kept: 0 versions, and all model answers (0 bytes), which were paid for",
    ]


def test_delete_and_dry_run_together_are_refused(registry: Registry, app: list[str]) -> None:
    with pytest.raises(PipelineError, match="contradict"):
        printed(app, "gc", "--grace", "0", "--delete", "--dry-run")
