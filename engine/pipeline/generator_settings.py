"""Whether a generator accepts a task with some settings. A verdict without problems is remembered in the user's cache.

Asking can take seconds, because the generator may import a large package to look at its own tasks. So the registry is looked
at first, and the user's cache before the registry, because a look at it takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.fingerprint.code import code_of_function
from engine.operator.generators import Generator
from engine.packages.catalogue import full_name
from engine.user_cache import Entries
from registry.storage.checked_json import canonical_json, json_digest

ACCEPTED = Entries("generators")
"""An entry without content for each task with settings that a generator accepted."""


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
    entry, follows_from = json_digest(asked), canonical_json(asked)
    if ACCEPTED.read(entry, follows_from) is not None:
        return []
    problems = [] if were_used() else generator.check(task, settings)
    if not problems:
        ACCEPTED.write(entry, follows_from, b"")
    return problems
