"""Reads a pipeline file: fills in parameters and reports everything that does not fit the specification, with positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.credentials import is_key, redacted
from engine.errors import PipelineError, Problem, did_you_mean, wrong_value
from engine.llm.types.model_spec import Limits, ModelSpec, Price
from engine.spec.matrix import MatrixOptions, read_matrix
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec, Resources, StepSpec
from engine.spec.yaml_source import MAX_BYTES, Loc, YamlSource, load, parse
from registry.counted import counted

SHOWN_PROBLEMS = 100
SHOWN_VALUE = 200
"""The maximum of characters that a message shows of a wrong value."""

_PARAM = re.compile(r"\$\{params\.([^${}]*)\}")

Settings = Sequence[str] | Mapping[str, Any] | None
"""What overrides `params`: `name=value` texts, as from a command line, or values by name."""


def read_pipeline(
    path: Path, settings: Settings = None, matrix: MatrixOptions = None
) -> tuple[PipelineSpec | None, YamlSource]:
    """Load a pipeline and apply settings of its parameters, and values of its matrix.

    Returns the spec (None if too much is wrong to build one) and the source, whose `problems` lists everything found. If the
    pipeline has a matrix, the spec is that of its first variant.
    """
    source = load(path)
    _no_keys(source, source.data, ())
    params = _params(source, settings)
    if isinstance(matrix, Mapping):
        matrix = {str(name): _value(str(name), values, "matrix") for name, values in matrix.items()}
    varied = read_matrix(source, params, matrix, [name for name, *_ in _given(settings)])
    first = {name: values[0] for name, values in varied.items()}
    data = _Filling(source, {**params, **first}).fill({key: part for key, part in source.data.items() if key != "matrix"}, ())
    data |= {"matrix": dict(varied)} if varied else {}
    data |= {"params": params} if isinstance(data.get("params"), dict) else {}
    reported = {problem.position for problem in source.problems}  # a value that YAML should not have is reported once
    while True:
        try:
            return PipelineSpec.model_validate(data), source
        except ValidationError as error:
            found = error.errors()
            problems = [_problem(source, item) for item in found[:SHOWN_PROBLEMS]]
            source.problems += [problem for problem in problems if problem.position not in reported]
            if len(found) > SHOWN_PROBLEMS:
                source.problems.append(Problem(f"... and {counted(len(found) - SHOWN_PROBLEMS, 'more problem')}"))
            before = repr(data)
            left = [_prune(source, data, item) for item in found]
            if not all(left) or repr(data) == before:
                return None, source


def filled(source: YamlSource, params: Mapping[str, Any], loc: Loc) -> Any:
    """The value at `loc` of a file, with these parameters filled in; problems are added to the source."""
    value = source.data
    for part in loc:
        value = value[part]
    return _Filling(source, dict(params)).fill(value, loc)


def params_in(value: Any) -> set[str]:
    """The names of the parameters that a part of a file refers to."""
    if isinstance(value, dict):
        return set().union(*map(params_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(params_in, value))
    return set(_PARAM.findall(value)) if isinstance(value, str) else set()


def entry_problems(source: YamlSource, loc: Loc, error: ValidationError) -> list[Problem]:
    """What is wrong with a model, dataset or step at `loc`."""
    return [_problem(source, {**item, "loc": (*loc, *item["loc"])}) for item in error.errors()[:SHOWN_PROBLEMS]]


def _prune(source: YamlSource, data: dict[str, Any], error: Any) -> bool:
    """Remove what is wrong from the data, so that the rest of the file can be checked in the same run.

    Returns whether anything is left. A model, dataset or step that makes no sense without the removed part is removed as a
    whole; its name is recorded, so that references to it are not reported as wrong.
    """
    loc: Loc = tuple(error["loc"])
    section = str(loc[0]) if loc else ""
    types = data.get("types")
    if section == "types" and len(loc) > 1 and isinstance(types, dict):
        source.broken.add(str(loc[1]))
        return types.pop(loc[1], None) is not None
    if section not in _SECTIONS or len(loc) < 2:
        if error["type"] == "extra_forbidden" or section in ("params", "operators", "types", "seed", "exclude", "matrix"):
            return data.pop(section, None) is not None
        if section == "name":
            data["name"] = "unnamed"
        return section == "name"
    name, entries = str(loc[1]), data[section]
    entry = entries.get(name) if isinstance(entries, dict) else None
    required = {info.alias or key for key, info in _SECTIONS[section].model_fields.items() if info.is_required()}
    required |= {"path", "hf", "generator", "registry"} if section == "datasets" else set()  # one of them
    if len(loc) > 2 and isinstance(entry, dict) and loc[2] in entry and loc[2] not in required:
        inner = entry[loc[2]]
        if error["type"] == "extra_forbidden" and len(loc) > 3 and isinstance(inner, dict):
            inner.pop(loc[-1], None)
        else:
            del entry[loc[2]]
        return True
    source.broken.add(name)
    if not isinstance(entries, dict):
        return False
    # If an entry has several errors, the first one has already removed it.
    entries.pop(name, None)
    return bool(entries) or section != "steps"


def _params(source: YamlSource, settings: Settings) -> dict[str, Any]:
    declared = source.data.get("params")
    params = dict(declared) if isinstance(declared, dict) else {}
    for name, text, given in _given(settings):
        if name not in params:
            hint = did_you_mean(name, params, "" if params else "this pipeline has no params")
            raise PipelineError([Problem(f"{text}: the pipeline has no parameter {name!r}", hint=hint)])
        params[name] = given()
    return params


def _given(settings: Settings) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """The name of each setting, the setting as text for messages, and a function that reads its value."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield str(name), f"set={{{str(name)!r}: ...}}", partial(_value, str(name), value)
        return
    for setting in settings or ():
        shown = f"--set {redacted(setting)[:SHOWN_VALUE]}"
        name, equals, text = setting.partition("=")
        if not equals:
            raise PipelineError([Problem(f"{shown}: use the form --set name=value")])
        yield name, shown, partial(_setting, name, text)


def _value(name: str, value: Any, argument: str = "set") -> Any:
    """A value from Python, as YAML could have it."""
    where = f"{argument}={{{name!r}: ...}}"
    if isinstance(value, str) and is_key(value):
        raise PipelineError([Problem(f"{where}: {_KEY}", hint=_KEY_HINT)])
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | Path):
        return str(value)
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_value(name, item, argument) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _value(name, item, argument) for key, item in value.items()}
    hint = "a parameter can be a number, a string, True, False, None, a list, or a dict whose keys are strings"
    raise PipelineError([Problem(f"{where}: a parameter cannot be of type {type(value).__name__}", hint=hint)])


def _setting(name: str, text: str) -> Any:
    """The value of a `--set`, read as YAML."""
    if not text.strip():
        return None
    try:
        given = parse(text, f"--set {name}")
        if given.problems:
            raise PipelineError(given.problems)
    except PipelineError as error:
        hint = f"the value is read as YAML; to make it a string, put it in quotes: --set \"{name}='...'\""
        raise PipelineError([replace(problem, hint=problem.hint or hint) for problem in error.problems]) from error
    if is_key(text):
        raise PipelineError([Problem(f"--set {name}: {_KEY}", hint=_KEY_HINT)])
    return given.data


_KEY = "this is an API key, which must not be in a pipeline"
_KEY_HINT = "put it into an environment variable and give the variable's name"


def _no_keys(source: YamlSource, value: Any, loc: Loc) -> None:
    """Report API keys anywhere in the file."""
    if isinstance(value, dict):
        for key, item in value.items():
            _no_keys(source, item, (*loc, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _no_keys(source, item, (*loc, place))
    elif isinstance(value, str) and is_key(value):
        source.problems.append(Problem(_KEY, source.position(loc), _KEY_HINT))


class _Filling:
    """Replaces `${params.NAME}` with parameters. A value that consists of one reference keeps the parameter's type."""

    def __init__(self, source: YamlSource, params: dict[str, Any]) -> None:
        self.source = source
        self.params = params
        self.size = 0

    def fill(self, value: Any, loc: Loc) -> Any:
        """The value with its parameters filled in; problems are added to the source.

        Raises:
            PipelineError: the parameters make the pipeline too large.
        """
        if isinstance(value, dict):
            if loc == ("params",):
                return self.params
            return {key: self.fill(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*loc, i)) for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        names = _PARAM.findall(value)
        if value.count("${params.") > len(names):
            hint = "write ${params.NAME}, with the name of a parameter and both braces"
            self.source.problems.append(Problem("this ${params. is not closed", self.source.position(loc), hint))
            return value
        for name in dict.fromkeys(names):
            if name not in self.params:
                hint = did_you_mean(name[:SHOWN_VALUE], self.params, "declare it under params: at the top of the file")
                self.source.problems.append(
                    Problem(f"no parameter named {name!r:.{SHOWN_VALUE}}", self.source.position(loc), hint)
                )
                return value
        if whole := _PARAM.fullmatch(value):
            return self.params[whole[1]]
        texts = {name: str(self.params[name]) for name in set(names)}
        self.size += sum(len(texts[name]) for name in names)
        if self.size > MAX_BYTES:
            what = f"the parameters make the pipeline larger than {MAX_BYTES:,} bytes"
            raise PipelineError([*self.source.problems, Problem(what, self.source.position(loc))])
        return _PARAM.sub(lambda match: texts[match[1]], value)


_SECTIONS: dict[str, type[BaseModel]] = {"models": ModelSpec, "datasets": DatasetSpec, "steps": StepSpec}
_NESTED: dict[str, type[BaseModel]] = {"limits": Limits, "price": Price, "resources": Resources}


def _problem(source: YamlSource, error: Any) -> Problem:
    loc: Loc = tuple(error["loc"])
    kind, what = error["type"], ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        known = sorted(info.alias or name for name, info in _owner(loc).model_fields.items())
        hint = did_you_mean(str(loc[-1])[:SHOWN_VALUE], known)
        return Problem(f"unknown key {loc[-1]!r:.{SHOWN_VALUE}}", source.position(loc, key=True), hint)
    if kind == "missing":
        return Problem(f"{what}: required, but missing", source.position(loc))
    if kind == "string_pattern_mismatch" and loc[-1] == "[key]":
        name = loc[-2]
        place = source.position(loc[:-1], key=True)
        return Problem(
            f"{name!r:.{SHOWN_VALUE}} is not a valid name",
            place,
            "use letters and digits, and start with a capital letter"
            if loc[0] == "types"
            else "use lower-case letters, digits, _ and -, and start with a letter",
        )
    if loc and loc[-1] == "api_key_env":  # the value may be the key itself, so it is not shown
        return Problem(f"{what}: give the name of the environment variable that contains the key", source.position(loc))
    given = error.get("input")
    shown = f" (given: {redacted(repr(given))[:SHOWN_VALUE]})" if isinstance(given, str | int | float | bool) else ""
    return Problem(f"{what}: {wrong_value(error)}{shown}", source.position(loc), origin(source, loc))


def origin(source: YamlSource, loc: Loc) -> str:
    """A hint about the parameters that the value at `loc` is made of; empty if it is written there."""
    value: Any = source.data
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
    names = list(dict.fromkeys(_PARAM.findall(value))) if isinstance(value, str) else []
    return f"it comes from {', '.join(f'params.{name}' for name in names)}, which --set can change" if names else ""


def _owner(loc: Loc) -> type[BaseModel]:
    """The pydantic model that has the key at `loc`."""
    owner: type[BaseModel] = PipelineSpec
    if len(loc) >= 3 and loc[0] in _SECTIONS:
        owner = _SECTIONS[str(loc[0])]
        if len(loc) > 3:
            owner = _NESTED.get(str(loc[2]), owner)
    return owner
