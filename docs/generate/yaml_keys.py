"""The YAML reference, from the pydantic models of a pipeline file: their docstrings, fields, types, defaults and bounds."""

from __future__ import annotations

from pydantic import BaseModel

from docs.generate.markdown import code, default_of, docstring, generated, table
from engine.cli.operator_view import type_of
from engine.llm.types.model_spec import Limits, ModelSpec, Price
from engine.llm.types.serve_spec import ServeSpec
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec, Resources, StepSpec

_INTRODUCTION = """
Every key of a pipeline file. `engine check` knows the same keys and suggests the nearest one when a key is misspelled.
`engine schema` prints them as JSON Schema for editors.

`${params.NAME}` can replace any scalar. `${env.NAME}` can be used in the `path` of a dataset. Anchors, aliases and merge keys
(`&name`, `*name`, `<<:`) work as in any YAML file. [Pipelines](../pipelines.md) explains how the parts work together.
"""

_SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("The file", PipelineSpec),
    ("`models.NAME`", ModelSpec),
    ("`models.NAME.serve`", ServeSpec),
    ("`models.NAME.limits`", Limits),
    ("`models.NAME.price`", Price),
    ("`datasets.NAME`", DatasetSpec),
    ("`steps.NAME`", StepSpec),
    ("`steps.NAME.resources`", Resources),
]


class UndocumentedError(Exception):
    """A key of the file has no text."""


def page() -> str:
    """The page as Markdown."""
    sections = [_section(title, spec) for title, spec in _SECTIONS]
    return "\n".join([generated("YAML reference", "the models in engine/spec and engine/llm/types"), _INTRODUCTION, *sections])


def _section(title: str, spec: type[BaseModel]) -> str:
    text, meanings = docstring(spec)
    schema = spec.model_json_schema(by_alias=True)
    required = set(schema.get("required", ()))
    rows = []
    for key, field in schema["properties"].items():
        if key not in meanings:
            raise UndocumentedError(f"{spec.__name__}: the section `Args:` of its docstring lacks {key!r}")
        rows.append([code(key), type_of(field), default_of(field, key in required), meanings[key]])
    return f"## {title}\n\n{text}\n\n{table(['key', 'type', 'default', 'meaning'], rows)}"
