"""Whether a generator accepts a task with some settings. A verdict without problems is remembered in the user's cache.

Asking can take seconds, because the generator may import a large package to look at its own tasks. So the registry is looked
at first, and the user's cache before the registry, because a look at it takes a tenth of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from engine.fingerprint.code import code_of_function
from engine.llm.model_cache import cache_folder
from engine.operator.generators import Generator
from engine.packages.catalogue import full_name
from registry.storage.checked_json import json_digest


def setting_problems(
    generator: Generator, task: str, settings: Mapping[str, Any], were_used: Callable[[], bool] = lambda: False
) -> list[str]:
    """What is wrong with a task's name or settings, as texts.

    Args:
        were_used: whether rows were generated with them before, so that they are known to be right.
    """
    name = full_name(generator)
    asked = {"generator": name, "task": task, "settings": dict(settings), "identity": generator.identity()}
    asked |= code_of_function(generator.check, name).document()
    accepted = cache_folder() / "generators" / json_digest(asked)
    if accepted.exists():
        return []
    problems = [] if were_used() else generator.check(task, settings)
    if not problems:
        with contextlib.suppress(OSError):  # without a cache, the next check asks again
            accepted.parent.mkdir(parents=True, exist_ok=True)
            accepted.touch()
    return problems
