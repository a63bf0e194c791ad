"""A registry made by shipped pipelines on a scripted server, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.execution.in_process import InProcess
from engine.packages.local_modules import use_local_modules
from engine.pipeline.check import check
from engine.running.result import RunResult
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer
from tests.e2e.test_recipes import RECIPES, Answer, best, replying, scored

USAGE = {"prompt_tokens": 240, "completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 20}}


def make_shipped(location: Path) -> None:
    """Run three recipes: questions answered, answers judged and filtered, answers compared in pairs."""
    registry = Registry(location)
    run_recipe(registry, "distil", scored)
    run_recipe(registry, "judge-and-filter", scored)
    run_recipe(registry, "judge-and-filter", best, "--again")
    run_recipe(registry, "preferences", best)


def run_recipe(registry: Registry, name: str, answer: Answer, *more: str) -> RunResult:
    """Run a recipe in this process on a scripted server, and return how it went."""
    with ChatServer() as server, patch.dict(os.environ, {"OPENAI_API_KEY": "not-a-real-key"}):
        server.reply = replying(answer, USAGE, reasoning="First I read the question.")
        settings = [f"base_url={server.base_url}", *(["model=gpt-5-nano"] if more else [])]
        try:
            pipeline = check(RECIPES / f"{name}.yaml", settings, keys=True)
            observer = PlainProgress(Console(quiet=True))
            return run(pipeline, registry, observer, select=set(), force=set(), cluster=InProcess(registry=registry))
        finally:
            use_local_modules(())
