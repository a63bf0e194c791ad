"""Looks up names in a pipeline file; unknown names become problems of the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from engine.packages.catalogue import AmbiguousNameError, BrokenModuleError, Names
from engine.pipeline.packages import how_to_install, missing
from engine.spec.yaml_source import Loc, YamlSource

T = TypeVar("T")


def find(source: YamlSource, names: Names[T], name: str, what: str, loc: Loc, otherwise: str = "") -> T | None:
    """What a name in the file means; None, and a problem, when it is unknown."""
    try:
        return names[name]
    except KeyError:
        source.problem(f"no {what} named {name!r}", loc, names.hint(name, otherwise))
    except BrokenModuleError as error:
        if not any(each.message == str(error) for each in source.problems):  # of a file that `operators:` names
            source.problem(str(error), loc)
    except AmbiguousNameError as error:
        source.problem(str(error), loc)
    return None


def installed(source: YamlSource, what: str, modules: Iterable[str], loc: Loc) -> bool:
    """Whether the packages that something needs are installed; if not, it is a problem."""
    absent = missing(modules)
    if absent:
        named = f"package {absent[0]}, which is" if len(absent) == 1 else f"packages {', '.join(absent)}, which are"
        source.problem(f"{what} needs the {named} not installed", loc, how_to_install(absent))
    return not absent
