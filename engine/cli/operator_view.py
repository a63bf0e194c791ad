"""An operator's page, and the list of operators; for people and as data."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from engine.cli.output import grid
from engine.operator.declaration.operator import Operator
from engine.operator.declaration.params import Params
from engine.operator.types import NAMED, SINGLE
from engine.packages.catalogue import full_name
from engine.plain_values import plain
from registry import Record
from registry.records.schema import fields_of_type

if TYPE_CHECKING:
    from rich.console import Console


def operator_document(operator: Operator) -> dict[str, Any]:
    """An operator as data; null as a type means any type."""
    return {
        "name": operator.name,
        "full_name": full_name(operator),
        "shape": operator.shape,
        "inputs": {name: None if port.open else port.record.type_name() for name, port in operator.inputs.items()},
        "outputs": {
            name: None if record is Record or name in operator.like else record.type_name()
            for name, record in operator.outputs.items()
        },
        "outputs_like": dict(operator.like),
        "models": [role for role in operator.roles if role not in operator.encoders],
        "encoders": list(operator.encoders),
        "parameters": operator.params.model_json_schema(),
        "doc": operator.doc,
    }


def print_operators(operators: Iterable[tuple[str, Operator]], console: Console) -> None:
    """Print a table of operators, each with the name that a pipeline uses for it."""
    rows = [
        [
            name,
            full_name(each).partition(":")[0],
            ", ".join("any type" if port.open else port.record.type_name() for port in each.inputs.values()),
            ", ".join(sorted({_output(each, name) for name in each.outputs})),
            ", ".join(each.roles),
            each.doc.partition("\n")[0],
        ]
        for name, each in operators
    ]
    console.print(grid(["operator", "package", "in", "out", "models", ""], rows))


def print_operator(operator: Operator, console: Console) -> None:
    """Print an operator's page: its docstring, inputs, outputs, models and parameters."""
    shape = "takes whole inputs" if operator.shape == "whole" else f"one {operator.shape} at a time"
    console.print(f"{full_name(operator)}  ({shape})")
    console.print(f"\n{operator.doc}\n" if operator.doc else "", soft_wrap=True)
    for name, port in operator.inputs.items():
        if port.open:
            several = "any number of inputs, which the pipeline names, each with " if port.named else ""
            console.print(f"in   {name}: {several}rows of any type")
            continue
        fields = ", ".join(f"{key}: {label}" for key, label in fields_of_type(port.record).items())
        console.print(f"in   {name}: {port.record.type_name()} ({fields})", soft_wrap=True)
    for name, record in operator.outputs.items():
        shown = "" if name == SINGLE else "named by the parameters: " if name == NAMED else f"{name}: "
        kind = "rows of a type that follows from the parameters" if record is Record else record.type_name()
        kind = f"rows of the type of {operator.like[name]}" if name in operator.like else kind
        console.print(f"out  {shown}{kind}", soft_wrap=True)
    for role in operator.roles:
        console.print(f"{'encoder' if role in operator.encoders else 'model'} {role}")
    if operator.params_argument:
        classes = [each for each in reversed(operator.params.__mro__) if each is not Params]
        docs = [inspect.cleandoc(vars(each).get("__doc__") or "") for each in classes]
        for doc in (doc for doc in docs if "\nArgs:" in doc):
            console.print(f"\n{doc}", soft_wrap=True)
    schema = operator.params.model_json_schema()
    rows = []
    for name, field in operator.params.model_fields.items():
        default = "required" if field.is_required() else json.dumps(plain(_default(field.default)))
        rows.append([name, type_of(schema["properties"][name]), default])
    if rows:
        console.print()
        console.print(grid(["parameter (with:)", "type", "default"], rows))


def _output(operator: Operator, name: str) -> str:
    """The type of an output, in the list of operators."""
    if name in operator.like:
        return "same type"
    record = operator.outputs[name]
    return "by parameters" if record is Record else record.type_name()


def _default(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def type_of(schema: dict[str, Any]) -> str:
    """A JSON Schema in few words: `integer ≥ 1`, `stop | skip`, `list of string`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].rpartition(".")[2]
    if "anyOf" in schema:
        return " | ".join(type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if isinstance(schema.get("type"), list):
        return " | ".join(schema["type"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {type_of(schema.get('items', {}))}"
    if kind == "object":
        values = [each for each in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()) if each]
        kind = f"mapping to {type_of(values[0])}" if values and isinstance(values[0], dict) else "mapping"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema and abs(schema[key]) < 2**62]
    return " ".join([kind, *filter(None, [", ".join(bounds)])])


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
