"""The JSON Schema of pipeline files, for editors: operators with their parameters, record types."""

from __future__ import annotations

from typing import Any

from engine.packages.catalogue import catalogue
from engine.spec.pipeline_spec import TYPE_NAME, PipelineSpec

_EXPRESSION = {"type": "string", "description": "str, int, float, bool, datetime, list[T], T?, a | b, or the name of a type"}
_FIELD = {
    "anyOf": [
        _EXPRESSION,
        {"type": "object", "properties": {"type": _EXPRESSION, "description": {"type": "string"}}, "required": ["type"]},
        {"type": "object", "description": "the fields of an object"},
    ]
}
_PARAMETER = {"type": "string", "pattern": r"\$\{params\.[^}]*\}"}


def pipeline_schema() -> dict[str, Any]:
    """The schema. It checks `with` against the step's operator, and allows `${params.NAME}` in place of any scalar."""
    known = catalogue()
    schema = PipelineSpec.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    step = definitions["StepSpec"]
    names = known.operators.by_full_name()
    step["properties"]["op"] |= {"enum": sorted({*names, *names.values()})}
    step["allOf"] = []
    for full, name in names.items():
        operator = known.operators[full]
        params = operator.params.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{inner}": body for inner, body in params.pop("$defs", {}).items()}
        definitions[f"{name}.with"] = params | {"description": operator.doc}
        then = {"properties": {"with": {"$ref": f"#/$defs/{name}.with"}}}
        step["allOf"].append({"if": {"properties": {"op": {"enum": sorted({full, name})}}}, "then": then})
    records = known.records.by_full_name()
    kind = definitions["DatasetSpec"]["properties"]["type"]
    installed = {"enum": sorted({*records, *records.values()}), "description": "of an installed package"}
    definitions["DatasetSpec"]["properties"]["type"] = {
        "title": kind["title"],
        "anyOf": [installed, {"type": "string", "pattern": TYPE_NAME, "description": "of the file's `types`"}],
    }
    schema["properties"]["types"]["patternProperties"] = {TYPE_NAME: {"type": "object", "additionalProperties": _FIELD}}
    schema["properties"]["types"]["additionalProperties"] = False
    schema["title"] = "engine pipeline"
    opened: dict[str, Any] = _open_to_parameters(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **opened}


def _open_to_parameters(node: Any) -> Any:
    """Allow `${params.NAME}` wherever the schema expects a number, a boolean or a string with a pattern."""
    if isinstance(node, list):
        return [_open_to_parameters(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("integer", "number", "boolean") or (node.get("type") == "string" and "pattern" in node):
        outer = {key: node[key] for key in ("title", "description", "default") if key in node}
        return {**outer, "anyOf": [{key: value for key, value in node.items() if key not in outer}, _PARAMETER]}
    return {key: _open_to_parameters(value) for key, value in node.items()}
