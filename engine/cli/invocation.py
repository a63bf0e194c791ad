"""How the user called `engine`, so that the commands that it proposes can be pasted as they are."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_SPECIAL = frozenset('"$`\\!\n')
"""What a shell reads within double quotes."""


def propose(*arguments: str) -> str:
    """A command line that works where this one did, with the registry that it was given."""
    return _line([*_program(), *_registry(sys.argv[1:]), *arguments])


def again(*more: str) -> str:
    """This command line, with more arguments where it does not have them already."""
    given = sys.argv[1:]
    return _line([*_program(), *given, *(each for each in more if each not in given)])


def _line(words: list[str]) -> str:
    """Words for a shell; SQL, which has single quotes, in double ones."""
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
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _registry(given: list[str]) -> list[str]:
    """The option `--registry` as it was typed; what the environment says holds for the next command as well."""
    for place, argument in enumerate(given):
        if argument == "--registry":
            return given[place : place + 2]
        if argument.startswith("--registry="):
            return [argument]
    return []
