"""An operator's outputs: by name, from `outputs=` or from the return annotation, which must agree."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.errors import did_you_mean
from engine.operator.declaration.params import Params
from engine.operator.declaration.signature import Signature, refuse
from engine.operator.types import NAMED, SINGLE, shown
from registry import Record, UnsupportedTypeError
from registry.records.columns import columns_of

Outputs = Mapping[str, type[Record] | str] | type[Record] | str
"""Record types by output, or the type of the only output. An input's name instead of a type means rows of its type."""


def declared_outputs(
    function: Callable[..., Any], signature: Signature, outputs: Outputs | None
) -> Mapping[str, type[Record] | str]:
    """Outputs by name: those of `outputs=`, or the one of the return annotation."""
    if outputs is None:
        if signature.shape == "batch":
            refuse(function, "it works on batches and does not say what its rows are; expected @operator(outputs=RECORD)")
        if not _is_record(signature.yielded) or signature.yielded is Record:
            found = "missing" if signature.yielded is None else shown(signature.yielded)
            refuse(
                function,
                "its output cannot be read from the return annotation, which is "
                f"{found}; expected AsyncIterator[RECORD] or Iterator[RECORD], or @operator(outputs=...)",
            )
        return {SINGLE: signature.yielded}
    declared = outputs if isinstance(outputs, Mapping) else {SINGLE: outputs}
    if not declared:
        refuse(function, "outputs= is empty; expected at least one output")
    if NAMED in declared:
        answered = issubclass(signature.params, Params) and signature.params.output_names is not Params.output_names
        if len(declared) > 1 or not answered:
            refuse(
                function,
                "outputs= has '*', for outputs that the parameters name; expected no other output, and parameters (a subclass "
                "of Params) whose method `output_names` returns the names",
            )
    for output, each in declared.items():
        if output != NAMED and not (isinstance(output, str) and output.isidentifier()):
            refuse(function, f"outputs= has the name {output!r}; expected a word of letters, digits and underscores")
        if isinstance(each, str) and each not in signature.inputs:
            hint = did_you_mean(each, signature.inputs)
            refuse(function, f"output {output!r} has the type of the input {each!r}, but there is no such input; {hint}")
        if not isinstance(each, str) and not _is_record(each):
            refuse(function, f"output {output!r} is {shown(each)}; expected a record type or the name of an input")
    return declared


def check_yielded(function: Callable[..., Any], signature: Signature, outputs: Mapping[str, type[Record]]) -> None:
    """The return annotation and `outputs=` must agree, as far as the annotation says something."""
    yielded = signature.yielded
    if _is_record(yielded):
        if len(outputs) > 1:
            refuse(
                function,
                f"it has the outputs {', '.join(outputs)}, and its return annotation yields {shown(yielded)}; expected "
                f"tuple[str, {shown(yielded)}], for (output, record)",
            )
        [record] = outputs.values()
        if not issubclass(record, yielded) and not issubclass(yielded, record):
            refuse(
                function,
                f"outputs= says {record.__name__}, and its return annotation yields {yielded.__name__}; they must agree",
            )
    elif typing.get_origin(yielded) is tuple:
        name = typing.get_args(yielded)[0]
        for output in typing.get_args(name) if typing.get_origin(name) is typing.Literal else ():
            if output not in outputs:
                refuse(function, f"its return annotation names the output {output!r}; outputs= has {', '.join(outputs)}")
    elif isinstance(yielded, type):
        refuse(function, f"its return annotation yields {shown(yielded)}; expected a record type, or tuple[str, RECORD]")


def check_storable(function: Callable[..., Any], records: Iterable[type[Record]]) -> None:
    """Every record type must have columns for all its fields."""
    for record in records:
        if record is not Record:
            try:
                columns_of(record)
            except UnsupportedTypeError as error:
                refuse(function, str(error))


def check_open_outputs(
    function: Callable[..., Any], signature: Signature, like: Mapping[str, str], records: Mapping[str, type[Record]]
) -> None:
    """An output declared as Record needs parameters whose method `outputs` returns its type."""
    answered = issubclass(signature.params, Params) and signature.params.outputs is not Params.outputs
    for output, record in records.items():
        if record is Record and output not in like and not answered:
            refuse(
                function,
                f"the output {output!r} is Record; expected a record type, the name of an input, or parameters (a subclass of "
                "Params) whose method `outputs` returns its type",
            )


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Record)
