"""How the user called `engine`, so that the commands it proposes can be pasted unchanged."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_SPECIAL = frozenset('"$`\\!\n')
"""Characters that a shell interprets inside double quotes."""


def propose(*arguments: str) -> str:
    """A command line for the same program and registry as the present one."""
    return _line([*_program(), *_registry(sys.argv[1:]), *arguments])


def again(*more: str) -> str:
    """The present command line, with these arguments added unless it has them."""
    given = sys.argv[1:]
    return _line([*_program(), *given, *(each for each in more if each not in given)])


def _line(words: list[str]) -> str:
    """Words quoted for a shell; words with single quotes (SQL) in double quotes."""
    return " ".join(f'"{word}"' if "'" in word and not _SPECIAL.intersection(word) else shlex.quote(word) for word in words)


def _program() -> list[str]:
    name = sys.argv[0] if sys.argv else "engine"
    if Path(name).name not in ("engine", "engine.exe"):  # `python -m`, or a program that calls it
        return [_shortest(sys.executable), "-m", "engine.cli"]
    found = shutil.which("engine")
    if found and os.path.realpath(found) == os.path.realpath(name):
        return ["engine"]
    return [_shortest(name)]


def _shortest(path: str) -> str:
    """A path as one would type it in the current folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _registry(given: list[str]) -> list[str]:
    """The option `--registry` as it was typed. (ENGINE_REGISTRY applies to the next command anyway.)"""
    for place, argument in enumerate(given):
        if argument == "--registry":
            return given[place : place + 2]
        if argument.startswith("--registry="):
            return [argument]
    return []
