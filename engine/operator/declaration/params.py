"""The base class of an operator's parameters. The engine calls its methods before anything runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from types import FunctionType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from engine.credentials import redacted
from engine.operator.types import (
    Calls,
    Capabilities,
    DeclarationError,
    InputTypes,
    OutputTypes,
    Roles,
    Wrong,
    place_in,
    place_of,
)
from registry import Model, ReviewTask

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name

METHODS: Mapping[str, tuple[str, ...]] = {
    "roles": (),
    "calls": (),
    "capabilities": (),
    "prompt_bytes": (),
    "problems": ("inputs",),
    "outputs": ("inputs",),
    "output_names": (),
    "device_count": (),
    "expected_model": ("models",),
    "notes": (),
    "review": ("inputs",),
    "accepted_names": (),
}
"""The methods that a class of parameters may override, with their arguments besides `self`. None of them changes a row, so none
is part of a step key; the types that `outputs` returns are."""


_SIMILAR = 0.8
"""Names that are more similar than this (difflib's ratio) are misspelled. `role` is more similar to `roles`, `rules` is not."""

_SHOWN = 500
"""Characters of parameters in an error."""


class _ParamsType(ModelMetaclass):
    """Checks overridden methods when a class of parameters is defined, before pydantic sees them."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> type:
        if any(isinstance(base, _ParamsType) for base in bases):
            for method in METHODS.keys() & namespace.keys():
                _check_method(name, method, namespace[method], _place_of_class(namespace))
            for attribute, value in namespace.items():
                _check_name(name, attribute, value)
        made = super().__new__(mcs, name, bases, namespace, **options)
        if any(isinstance(base, _ParamsType) for base in bases):
            for taken in METHODS.keys() & vars(made)["__pydantic_fields__"].keys():
                raise DeclarationError(
                    f"{_place_of_class(namespace)}: {name} has a parameter named {taken!r}, and Params has a method of that "
                    "name; rename the parameter"
                )
        return made


def _check_method(owner: str, name: str, value: Any, where: str) -> None:
    expected = ", ".join(("cls" if name == "accepted_names" else "self", *METHODS[name]))
    function = value.__func__ if name == "accepted_names" and isinstance(value, classmethod) else value
    if not isinstance(function, FunctionType) or (function is value) is (name == "accepted_names"):
        kind = "a classmethod" if name == "accepted_names" else "a method"
        found = type(value).__name__
        raise DeclarationError(f"{where}: {owner}.{name} is of type {found}; expected {kind}, `def {name}({expected})`")
    where = place_of(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{where}: {owner}.{name} is async; expected a plain method, `def {name}({expected})`")
    arguments = list(inspect.signature(function).parameters.values())
    required = [each for each in arguments if each.default is each.empty]
    if len(required) != 1 + len(METHODS[name]) or any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in required):
        given = ", ".join(map(str, inspect.signature(function).parameters))
        raise DeclarationError(f"{where}: {owner}.{name} takes ({given}); expected `def {name}({expected})`")


def _check_name(owner: str, name: str, value: Any) -> None:
    """A method whose name is almost one of METHODS would never be called."""
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    if name in METHODS or name.startswith("_") or not isinstance(function, FunctionType):
        return
    for method in METHODS:
        if SequenceMatcher(None, name.lower(), method).ratio() > _SIMILAR or sorted(name.lower()) == sorted(method):
            raise DeclarationError(
                f"{place_of(function)}: {owner}.{name}: the engine calls no method of this name; did you mean {method!r}? "
                "If it is a method of your own, choose a name that differs more, or start it with an underscore"
            )


def _place_of_class(namespace: Mapping[str, Any]) -> str:
    """The file and line of the class statement that is being executed."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") != namespace.get("__module__"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Params(BaseModel, metaclass=_ParamsType):
    """Parameters of an operator as one class: its fields are what a pipeline sets under `with:`.

    Fields are pydantic fields, instances are frozen, unknown names are errors, numbers are finite. Override a method where
    its default does not fit. Methods see the validated parameters as `self`. They change no result, so editing one does not
    make a step run again: an operator must not compute rows with them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def roles(self) -> Roles | None:
        """The roles that need a model with these parameters; the others get None. Default (None): all roles."""
        return None

    def calls(self) -> Calls | None:
        """The largest number of model calls for one row, by role, for the bounds in `engine plan`.

        Default (None): one call for each chat model in use when the operator works on rows, none otherwise.
        """
        return None

    def capabilities(self) -> Capabilities:
        """What the models' servers must be able to do, by role; checked before the step starts. Default: nothing."""
        return {}

    def prompt_bytes(self) -> int | None:
        """The largest size of a prompt in bytes, besides the row's own text, for the price bound in `engine plan`.

        Default (None): all texts in the operator's code, whole inputs, and the answers to the row's other calls.
        """
        return None

    def problems(self, inputs: InputTypes) -> Iterable[str | Wrong]:
        """What is wrong with these parameters for inputs of these record types, one text for each problem.

        `engine check` reports them with their place in the pipeline file: that of `with`, or of a key in it, as
        `Wrong("text", at=("prompt",))`. Default: nothing.
        """
        return ()

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """The record types of outputs that are declared as `Record`, for inputs of these record types.

        It is called only if `problems` finds nothing. Build types with `extended` and `narrowed`. Default: there are none.
        """
        return {}

    def output_names(self) -> Sequence[str]:
        """The names of the outputs, for operators that are declared with `outputs={"*": ...}`. Default: there are none."""
        return ()

    def device_count(self) -> int:
        """How many GPUs (or, without any, processes) the operator uses at once through Ray. Default: 1.

        With more than one, the step's `resources` are those of each device, and `ctx.device` has them.
        """
        return 1

    def expected_model(self, models: Mapping[str, Model]) -> Model | None:
        """The model that the operator will make, as far as that is known before it runs. Default (None): it makes none.

        Args:
            models: the models in the operator's roles that are known, by role.

        Raises:
            ValueError: a model cannot be used with these parameters; `engine check` reports the text.
        """
        return None

    def notes(self) -> Sequence[str]:
        """What users should know before the step runs: how a parameter was interpreted, for example. Default: nothing."""
        return ()

    def review(self, inputs: InputTypes) -> ReviewTask | None:
        """What people are asked about the rows of the operator's input, for an operator that gets their decisions (`Reviews`).

        The step waits until enough rows are decided. Default (None): nothing.
        """
        return None

    @classmethod
    def accepted_names(cls) -> Iterable[str]:
        """All names that a pipeline may set, for "did you mean". Default: the fields."""
        return cls.model_fields


def ask(params: BaseModel, method: str, *arguments: Any, passed: tuple[type[Exception], ...] = ()) -> Any:
    """The answer of a method of parameters; parameters without their own class give the default.

    Args:
        params: the parameters.
        method: one of METHODS.
        arguments: the arguments for the method.
        passed: errors that the method may raise.

    Raises:
        DeclarationError: the method raised another error; names the line.
    """
    asked = params if isinstance(params, Params) else Params()
    try:
        answer = getattr(asked, method)(*arguments)
        return list(answer) if inspect.isgenerator(answer) else answer
    except passed:
        raise
    except Exception as error:  # whatever an author's method does
        where = place_in(_method_of(asked, method), error)
        given = redacted(repr(asked.model_dump(exclude_unset=True)))[:_SHOWN]
        raise DeclarationError(
            f"{where}: {type(asked).__name__}.{method} raised {type(error).__name__}: {error} (parameters: {given})"
        ) from error


def require(params: BaseModel, method: str, answer: Any, holds: bool, expected: str) -> None:
    """Raises DeclarationError if the answer of a method of parameters is not what it can be; names its line."""
    if not holds:
        raise wrong_answer(params, method, f"returns {answer!r:.200}; expected {expected}")


def wrong_answer(params: BaseModel, method: str, why: str) -> DeclarationError:
    """The error for a method of parameters that answered wrongly."""
    return DeclarationError(f"{place_of(_method_of(params, method))}: {type(params).__name__}.{method} {why}")


def _method_of(params: BaseModel, method: str) -> Callable[..., Any]:
    """The function behind a method of parameters."""
    found: Callable[..., Any] = inspect.unwrap(getattr(type(params) if isinstance(params, Params) else Params, method))
    return found
