"""Runs pipelines in this process, on the session's Ray or another executor, and queries the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.execution.cluster import Cluster
from engine.execution.executor import Executor
from engine.pipeline.check import check
from engine.running.result import RunResult
from engine.running.run import run
from registry import Registry

new_cluster: Callable[[str], Executor] = Cluster
"""Makes the executor of a run, from the registry's location; the fixtures `in_process` and `no_cluster` replace it."""


def run_text(
    text: str,
    registry: Registry,
    *,
    select: str = "",
    force: str = "",
    settings: list[str] | None = None,
    matrix: list[str] | None = None,
    retry_rejects: bool = False,
    cluster: Executor | None = None,
    console: Console | None = None,
) -> RunResult:
    """Run a pipeline given as YAML; `console` gets its progress."""
    Path("p.yaml").write_text(dedent(text))
    if registry.exists:
        with registry.look_ups() as look_ups:
            pipeline = check(Path("p.yaml"), settings, look_ups, matrix=matrix)
    else:
        pipeline = check(Path("p.yaml"), settings, matrix=matrix)
    observer = PlainProgress(console or Console(quiet=True))
    return run(
        pipeline,
        registry,
        observer,
        select=set(select.split()),
        force=set(force.split()),
        retry_rejects=retry_rejects,
        cluster=cluster or new_cluster(registry.location),
    )


def words(*texts: str, file: str = "words.jsonl") -> None:
    """Write a file of words."""
    Path(file).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def ask(registry: Registry, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with registry.session() as session:
        return session.ask(query).rows


def texts(registry: Registry, target: str) -> list[str]:
    """A version's words, in order."""
    return [text for (text,) in ask(registry, f'select text from "{target}" order by row')]


def outcomes(result: RunResult) -> dict[str, str]:
    """Step, after its variant, -> `hit`, `ran`, `resumed`, `failed` or `stopped`."""
    return {outcome.record.full_step: outcome.record.outcome for outcome in result.steps}
