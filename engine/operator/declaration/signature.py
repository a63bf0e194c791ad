"""Reads an operator's signature: inputs, roles, context and parameters from arguments, outputs from the return annotation."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticUndefined

from engine.errors import wrong_value
from engine.llm.chat import ChatModel
from engine.llm.encoder import Encoder
from engine.operator.context import Context
from engine.operator.declaration.params import Params
from engine.operator.reviews import Reviews
from engine.operator.tables import Batch, Grouped, Lookup, Table
from engine.operator.types import DeclarationError, Port, Role, Shape, place_of, shown
from registry import Record

_TABLES = (Table, Lookup, Grouped)
_ITERATORS = (AsyncIterator, AsyncGenerator, Iterator, Generator, Iterable)
_EXPECTED = (
    "a record type, Batch[...], Table[...], Lookup[...], Grouped[...], ChatModel, Encoder, Reviews, Context or a subclass of "
    "Params; "
    "plain parameters go after a `*`"
)


class Setting(NamedTuple):
    """A keyword-only parameter: its type and its default (`...` when it has none)."""

    hint: Any
    default: Any


class _ContextArgument:
    """Stands for the argument that gets the Context."""


class _ReviewsArgument:
    """Stands for the argument that gets the decisions of a review."""


_GIVEN: Mapping[Any, type[_ContextArgument | _ReviewsArgument]] = {Context: _ContextArgument, Reviews: _ReviewsArgument}

_Argument = Port | Role | Setting | type[Params] | _ContextArgument | _ReviewsArgument


@dataclass(frozen=True)
class Signature:
    """An operator's signature.

    Attributes:
        inputs: the inputs, by argument.
        roles: the roles of models, by argument.
        context: the argument that gets the Context.
        reviews: the argument that gets the decisions of a review.
        params: the class of the parameters: the author's, or one made from keyword-only arguments.
        params_argument: the argument that gets an instance of it; None for keyword-only arguments.
        yielded: what the return annotation says is yielded; None where it says nothing.
    """

    shape: Shape
    inputs: Mapping[str, Port]
    roles: Mapping[str, Role]
    context: str | None
    reviews: str | None
    params: type[BaseModel]
    params_argument: str | None
    yielded: Any


def read_signature(function: Callable[..., Any]) -> Signature:
    """The signature of an operator's function.

    Raises:
        DeclarationError: it is not one of the three shapes, or an argument is none of the known kinds.
    """
    if not inspect.isfunction(function):
        kind = "class" if isinstance(function, type) else type(function).__name__
        raise DeclarationError(f"{place_of(function)}: @operator is for functions; this is a {kind}")
    hints = annotations_of(function)
    arguments = {
        parameter.name: _argument(function, parameter, hints.get(parameter.name))
        for parameter in inspect.signature(function).parameters.values()
    }
    inputs = {name: each for name, each in arguments.items() if isinstance(each, Port)}
    params, params_argument = _params(function, arguments)
    shape = _shape(function, inputs, hints)
    return Signature(
        shape=shape,
        inputs=inputs,
        roles={name: each for name, each in arguments.items() if isinstance(each, Role)},
        context=_only(function, arguments, _ContextArgument, "a Context"),
        reviews=_reviews(function, arguments, inputs),
        params=params,
        params_argument=params_argument,
        yielded=None if shape == "batch" else _yielded(function, hints.get("return")),
    )


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations as types.

    Raises:
        DeclarationError: one names something that does not exist when the module is imported.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        refuse(
            function, f"an annotation names {error.name!r}, which is not imported (an import under TYPE_CHECKING is not enough)"
        )
    except (TypeError, SyntaxError, AttributeError) as error:
        refuse(function, f"an annotation cannot be read: {error}")


def refuse(function: Callable[..., Any], why: str) -> NoReturn:
    """Raise the error of a declaration, with the place of the function."""
    raise DeclarationError(f"{place_of(function)}: operator {getattr(function, '__name__', function)}: {why}")


# -- arguments --------------------------------------------------------------------------------------------------------


def _argument(function: Callable[..., Any], parameter: inspect.Parameter, hint: Any) -> _Argument:
    """What one argument is."""
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        refuse(function, f"it takes {stars}{name}; expected each input and parameter by its name")
    if hint is None and parameter.kind is parameter.KEYWORD_ONLY:
        refuse(function, f"the parameter {name!r} has no annotation; expected its type, such as `{name}: int`")
    if hint is None:
        refuse(function, f"{name!r} has no annotation; expected {_EXPECTED}")
    inner, optional = _without_none(hint)
    found: _Argument | None = _GIVEN[hint]() if hint in (Context, Reviews) else _given(inner, optional)
    if found is None and parameter.kind is parameter.KEYWORD_ONLY:
        return _setting(function, name, hint, parameter.default)
    if found is None:
        found = _positional(function, name, inner, optional)
    _check_default(function, parameter, found, hint)
    return found


def _given(hint: Any, optional: bool) -> Port | Role | None:
    """A role, a table or a batch, which are recognised anywhere in the signature; None for everything else."""
    if hint in (ChatModel, Encoder):
        return Role(encoder=hint is Encoder, optional=optional)
    table = typing.get_origin(hint)
    if table in _TABLES:
        return Port(typing.get_args(hint)[0], table, optional)
    if table is Mapping and typing.get_args(hint)[0] is str and typing.get_origin(typing.get_args(hint)[1]) is Table:
        return Port(typing.get_args(typing.get_args(hint)[1])[0], Table, named=True)
    return Port(typing.get_args(hint)[0]) if table is Batch and not optional else None


def _positional(function: Callable[..., Any], name: str, hint: Any, optional: bool) -> Port | type[Params]:
    """A row, or all parameters as one class."""
    if hint in (Table, Lookup, Grouped, Batch):
        refuse(function, f"{name!r} is annotated {shown(hint)}; expected {shown(hint)}[...] with the record type of its rows")
    if not optional and isinstance(hint, type) and issubclass(hint, Record):
        return Port(hint)
    if not optional and isinstance(hint, type) and issubclass(hint, Params):
        return hint
    if isinstance(hint, type) and issubclass(hint, BaseModel) and not issubclass(hint, Record):
        refuse(function, f"{name!r} is annotated {shown(hint)}; a class of parameters must derive from engine.operator.Params")
    may = " | None" if optional else ""
    refuse(function, f"{name!r} is annotated {shown(hint)}{may}; expected {_EXPECTED}")


def _setting(function: Callable[..., Any], name: str, hint: Any, default: Any) -> Setting:
    if isinstance(default, list | dict | set | bytearray):
        refuse(
            function,
            f"the default of {name!r} is a {type(default).__name__}, which all calls would share; use a tuple or None, or make "
            "the parameters a subclass of Params, which copies it",
        )
    return Setting(hint, ... if default is inspect.Parameter.empty else default)


def _check_default(function: Callable[..., Any], parameter: inspect.Parameter, found: _Argument, hint: Any) -> None:
    name, default = parameter.name, parameter.default
    if isinstance(found, Port):
        if found.optional and default is not None:
            refuse(function, f"{name!r} is optional; expected {name}: {shown(hint)} = None")
        if not found.optional and default is not parameter.empty:
            refuse(function, f"{name!r} is an input with a default; only Table[...] | None = None is optional")
        if not (isinstance(found.record, type) and issubclass(found.record, Record)):
            refuse(function, f"{name!r} is a table of {shown(found.record)}; expected a record type (a subclass of Record)")
    elif default is not parameter.empty:
        refuse(function, f"{name!r} is filled by the engine but has a default; remove the default")


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(`X`, True) of `X | None`; (hint, False) of anything else."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    rest = [each for each in typing.get_args(hint) if each is not type(None)]
    return (rest[0], True) if len(rest) == 1 else (hint, False)


def _only(function: Callable[..., Any], arguments: Mapping[str, _Argument], kind: type[Any], what: str) -> str | None:
    """The argument of a kind of which there may be one."""
    found = [name for name, each in arguments.items() if isinstance(each, kind)]
    if len(found) > 1:
        refuse(function, f"it takes {what} twice: {' and '.join(found)}")
    return found[0] if found else None


def _reviews(function: Callable[..., Any], arguments: Mapping[str, _Argument], inputs: Mapping[str, Port]) -> str | None:
    """The argument that gets the decisions of a review, which is about the rows of one whole input."""
    found = _only(function, arguments, _ReviewsArgument, "Reviews")
    if found and [each.table for each in inputs.values()] != [Table]:
        refuse(function, f"{found!r} has the decisions about the rows of one input; expected one Table[...] and no other input")
    return found


def _params(function: Callable[..., Any], arguments: Mapping[str, _Argument]) -> tuple[type[BaseModel], str | None]:
    classes = {name: each for name, each in arguments.items() if isinstance(each, type)}
    settings = {name: (each.hint, each.default) for name, each in arguments.items() if isinstance(each, Setting)}
    if len(classes) > 1:
        named = " and ".join(f"{name}: {each.__name__}" for name, each in classes.items())
        refuse(function, f"it takes two classes of parameters, {named}; expected one")
    for name, params in classes.items():
        if settings:
            refuse(
                function,
                f"its parameters are the fields of {params.__name__}, but also {', '.join(settings)}; expected one class or "
                "keyword-only arguments",
            )
        _check_defaults(function, params)
        return params, name
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    try:
        made: type[BaseModel] = create_model(f"{function.__name__} parameters", __config__=config, **settings)  # type: ignore[call-overload]
    except Exception as error:  # what pydantic makes of an annotation that it does not know
        refuse(function, f"its keyword-only parameters cannot be read: {error}")
    _check_defaults(function, made)
    return made, None


def _check_defaults(function: Callable[..., Any], params: type[BaseModel]) -> None:
    """A default must have the type of its parameter: pydantic takes defaults as they are."""
    defaults = {name: field.default for name, field in params.model_fields.items() if field.default is not PydanticUndefined}
    try:
        params.model_validate(defaults, by_name=True)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            if each["type"] != "missing" and each["loc"] and each["loc"][0] in defaults:
                name = str(each["loc"][0])
                refuse(function, f"the default of {name!r} does not fit: {defaults[name]!r:.200}; {wrong_value(each)}")


# -- shapes -----------------------------------------------------------------------------------------------------------


def _shape(function: Callable[..., Any], inputs: Mapping[str, Port], hints: Mapping[str, Any]) -> Shape:
    """The shape that the inputs make, checked with what the function is."""
    if all(port.optional for port in inputs.values()):
        refuse(function, f"it has no required input; expected an argument annotated with {_EXPECTED}")
    named = [name for name, port in inputs.items() if port.named]
    if named and len(inputs) > 1:
        refuse(function, f"{named[0]!r} gets the inputs that a pipeline names; expected no other input beside it")
    streamed = [name for name, port in inputs.items() if not port.whole]
    if len(streamed) > 1:
        refuse(
            function,
            f"{' and '.join(streamed)} are both read row by row; expected one such input, and Table[...] for the others",
        )
    if not streamed:
        _check_whole(function)
        return "whole"
    if typing.get_origin(hints[streamed[0]]) is Batch:
        _check_batch(function)
        return "batch"
    _check_row(function)
    return "row"


def _check_row(function: Callable[..., Any]) -> None:
    if not inspect.isasyncgenfunction(function):
        refuse(function, f"it works on rows but is {_kind(function)}; expected an async generator (`async def` with `yield`)")


def _check_batch(function: Callable[..., Any]) -> None:
    if _kind(function) != "a function without `yield`":
        refuse(function, f"it works on batches but is {_kind(function)}; expected a plain function that returns an Arrow table")


def _check_whole(function: Callable[..., Any]) -> None:
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        refuse(
            function,
            f"it works on whole inputs but is {_kind(function)}; expected a generator (`def` or `async def` with `yield`)",
        )


def _kind(function: Callable[..., Any]) -> str:
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.iscoroutinefunction(function):
        return "an async function without `yield`"
    return "a generator" if inspect.isgeneratorfunction(function) else "a function without `yield`"


def _yielded(function: Callable[..., Any], hint: Any) -> Any:
    """`X` of `AsyncIterator[X]`; None where there is no annotation."""
    if hint is None:
        return None
    wanted = "AsyncIterator" if inspect.isasyncgenfunction(function) else "Iterator"
    if typing.get_origin(hint) not in _ITERATORS or not typing.get_args(hint):
        refuse(function, f"its return annotation is {shown(hint)}; expected {wanted}[...] with what it yields")
    return typing.get_args(hint)[0]
