"""The matrix of a pipeline: parameters with several values each. Every combination of values is a variant of the pipeline.

A variant is named by its values, `lr=1e-05,teacher=a`. A part of the pipeline that depends on some of the parameters is called
`<values of these>/<name>`, and other parts have their names alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from engine.credentials import is_key
from engine.errors import PipelineError, Problem, did_you_mean
from engine.spec.variant_names import Combination, Scalar, label, label_of
from engine.spec.yaml_source import Loc, YamlSource, parse

MOST_VARIANTS = 200
"""The maximum of combinations."""

Matrix = Mapping[str, Sequence[Scalar]]
"""The values of each parameter that varies, in the order of the file."""

MatrixOptions = Sequence[str] | Matrix | None
"""What overrides `matrix`: `name=value,value` texts, as from a command line, or lists of values by name."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_LONGEST_LABEL = 180
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""A number that YAML 1.1 takes for a text, because it wants a point and a sign in it: `1e-5`."""

_SHOWN = 200
_HOW = "write matrix: {NAME: [VALUE, VALUE]}, with names of the file's params"


def read_matrix(source: YamlSource, params: Mapping[str, Any], options: MatrixOptions, settings: Iterable[str]) -> Matrix:
    """The matrix of a file, with the values that options give instead. Problems of the file are added to the source.

    Args:
        source: the file.
        params: its parameters.
        options: see MatrixOptions.
        settings: names of parameters that `--set` options set.

    Raises:
        PipelineError: an option is wrong.
    """
    found = _in_file(source, params)
    if isinstance(options, Mapping):
        found |= _given(options, params)
    else:
        found |= dict(_option(option, params) for option in options or ())
    for name in settings:
        if name in found:
            hint = f"write --matrix {name}=VALUE for one of the variants"
            raise PipelineError([Problem(f"--set {name}: the matrix of the pipeline varies {name}", hint=hint)])
    count = math.prod(len(values) for values in found.values())
    if count > MOST_VARIANTS:
        place = source.position(("matrix",), key=True)
        hint = f"the maximum is {MOST_VARIANTS}; leave out values, or run parts of it with --matrix NAME=VALUE,VALUE"
        source.problems.append(Problem(f"the matrix has {count:,} variants", place, hint))
        return {}
    longest = {name: max(values, key=lambda value: len(label_of(value))) for name, values in found.items()}
    if len(label(longest)) > _LONGEST_LABEL:
        place = source.position(("matrix",), key=True)
        hint = "vary fewer parameters, or give them shorter names and values"
        source.problems.append(Problem(f"names of variants are longer than {_LONGEST_LABEL} characters", place, hint))
        return {}
    return found


def combinations(matrix: Matrix, names: Iterable[str] | None = None) -> list[Combination]:
    """All combinations of values of some parameters (default: all), in the order of the matrix; an empty one if none vary."""
    chosen = set(matrix if names is None else names)
    varied = [name for name in matrix if name in chosen]
    return [dict(zip(varied, values, strict=True)) for values in product(*(matrix[name] for name in varied))]


def as_number(value: Any) -> Any:
    """A text like `1e-5` as a number, which it is in YAML 1.2."""
    if isinstance(value, str) and _FLOAT.fullmatch(value) and math.isfinite(number := float(value)):
        return number
    return value


def _in_file(source: YamlSource, params: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    given = source.data.get("matrix")
    if given is None:
        return {}
    if not isinstance(given, dict):
        source.problems.append(Problem("matrix: give lists of values by parameter", source.position(("matrix",)), _HOW))
        return {}
    found = {}
    for name, values in given.items():
        problems = _problems(name, values, params, source)
        source.problems += problems
        if not problems:
            found[name] = [as_number(value) for value in values]
    return found


def _problems(name: str, values: Any, params: Mapping[str, Any], source: YamlSource) -> list[Problem]:
    """What is wrong with a parameter of the matrix and its values."""
    loc: Loc = ("matrix", name)
    if why := _misnamed(name, params):
        return [Problem(why[0], source.position(loc, key=True), why[1])]
    if not isinstance(values, list) or not values:
        return [Problem(f"matrix.{name}: give a list of values", source.position(loc), f"for example {name}: [1, 2]")]
    found = []
    called: set[str] = set()
    for place, value in enumerate(values):
        what, hint = "", ""
        if isinstance(value, dict | list):
            what = "a value must be a string, a number, true, false or null"
        elif isinstance(value, str) and "${" in value:
            what = "a value cannot refer to other parameters"
        elif (shown := label_of(as_number(value))).lower() in called:
            what, hint = f"two values have the label {shown!r}", "remove one of them; names ignore quotes and case, as SQL does"
        else:
            called.add(shown.lower())
        if what:
            found.append(Problem(f"matrix.{name}: {what}", source.position((*loc, place)), hint))
    return found


def _given(values: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    """The values that a program gives."""
    source = YamlSource("matrix=")
    source.data = {"matrix": dict(values)}
    found = _in_file(source, params)
    if source.problems:
        raise PipelineError([Problem(each.message, hint=each.hint) for each in source.problems])
    return found


def _option(option: str, params: Mapping[str, Any]) -> tuple[str, list[Scalar]]:
    name, equals, text = option.partition("=")
    shown = f"--matrix {option:.{_SHOWN}}"
    if is_key(text) or is_key(option) or any(is_key(part) for part in text.split(",")):
        raise PipelineError([Problem(f"--matrix {name}: this is an API key, which must not be in a pipeline")])
    if not equals or not text.strip():
        raise PipelineError([Problem(f"{shown}: use the form --matrix NAME=VALUE,VALUE")])
    if why := _misnamed(name, params):
        raise PipelineError([Problem(f"{shown}: {why[0]}", hint=why[1])])
    source = parse(f"{{{name}: [{text}]}}", f"--matrix {name}")
    if source.problems:
        raise PipelineError(source.problems)
    source.data = {"matrix": source.data}
    values = _in_file(source, params).get(name)
    if values is None:
        raise PipelineError(
            [Problem(f"--matrix {each.message.removeprefix('matrix.')}", hint=each.hint) for each in source.problems]
        )
    return name, values


def _misnamed(name: str, params: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with the name of a parameter, and what to do."""
    if name not in params:
        advice = "declare it under params: at the top of the file"
        return f"no parameter named {name!r:.{_SHOWN}}", did_you_mean(name[:_SHOWN], params, advice)
    if not _NAME.fullmatch(name):
        advice = "rename the parameter: letters, digits, _ and -, and a letter first"
        return f"the parameter {name!r:.{_SHOWN}} cannot be varied, because its name would be part of names", advice
    return None
