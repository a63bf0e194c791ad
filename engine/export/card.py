"""The card of an exported version: a README that says what it contains, what it was made from, and how.

Its content comes from manifests and the key documents of the steps, so it describes what was run, not what the pipeline file
says today.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from jinja2 import Environment, StrictUndefined, Template

from engine.export.model_folder import Loading
from engine.export.writers import SPLIT
from engine.operator.row_formats import RowFormat
from engine.planning.sources import SOURCE
from registry import Manifest, Metric, Model, Registry
from registry.counted import counted
from registry.records.schema import fields_of

SHOWN = 40
"""The maximum number of versions, steps or values of a metric on a card; the registry has them all."""


@dataclass(frozen=True)
class Data:
    """The files with the rows.

    Args:
        files: a pattern below the folder.
        format: `hf`, `parquet`, `jsonl` or `label-studio`.
        row_format: the format of the rows; None if they have their own fields.
    """

    schema: pa.Schema
    files: str
    bytes: int
    format: str
    row_format: RowFormat | None = None


def card(registry: Registry, manifest: Manifest, data: Data | None, loading: Loading | None = None) -> str:
    """A version's card in Markdown, with the metadata for Hugging Face at the top.

    Args:
        data: the rows' files; None for a model's folder.
        loading: how a model's folder is loaded.
    """
    ancestors = _ancestors(registry, manifest)
    made_by = {each.step_key: each for each in reversed([manifest, *ancestors[:SHOWN]])}
    model = None if data else next(Model.from_table(registry.store.read_table(manifest.data[0].sha256)))
    return _template().render(
        version=manifest,
        front=_yaml(_model_front(loading) if loading else _dataset_front(manifest, data)),
        loading=loading,
        data=data,
        model=model,
        settings=_yaml(json.loads(model.config)) if model else "",
        fields=fields_of(data.schema) if data else {},
        ancestors=ancestors[:SHOWN],
        hidden=len(ancestors) - len(ancestors[:SHOWN]),
        edges=_edges([manifest, *ancestors[:SHOWN]]),
        steps=[_step(registry, each) for each in made_by.values()],
        metrics=_metrics(manifest.metrics),
    )


def _ancestors(registry: Registry, manifest: Manifest) -> list[Manifest]:
    """The versions that one was made from, nearest first."""
    target = str(manifest.ref).replace("'", "''")
    query = f"select version_id from upstream('{target}') join versions using (name, version) order by depth, name, version"
    with registry.session() as session:
        found = session.ask(query).rows
    return [registry.catalog.manifest(version_id) for (version_id,) in found]


def _edges(shown: Sequence[Manifest]) -> list[tuple[int, int, str]]:
    """(parent, child, kind of line) for a diagram of these versions, by their indices."""
    places = {(each.name, each.version): place for place, each in enumerate(shown)}
    return [
        (places[ref.name, ref.version], place, line)
        for place, each in enumerate(shown)
        for refs, line in ((each.inputs, "-->"), (each.models, "-.->"))
        for ref in refs
        if (ref.name, ref.version) in places
    ]


# -- how it was made --------------------------------------------------------------------------------------------------


def _step(registry: Registry, manifest: Manifest) -> dict[str, Any]:
    """A step, as its key document describes it."""
    document = registry.store.read_document(manifest.key_object.sha256)
    if manifest.op == SOURCE:
        origin = document.get(SOURCE, {})
        shown = {key: origin[key] for key in ("origin", "spec", "rename", "limit", "on_error") if origin.get(key)}
        shown |= {"format": origin["format"]["name"]} if "format" in origin else {}
        return {"version": manifest, "params": _yaml(shown), "models": "", "prompts": {}, "packages": {}, "seed": None}
    params = document.get("params", {})
    prompts = document["prompts"] if "prompts" in document else _prompts_before_0_4(document)
    models = {role: _without_login(settings) for role, settings in document.get("models", {}).items()}
    return {
        "version": manifest,
        "params": _yaml({name: value for name, value in params.items() if name not in prompts and value is not None}),
        "models": _yaml(models),
        "prompts": prompts,
        "packages": document.get("packages", {}),
        "seed": document.get("seed"),
    }


def _prompts_before_0_4(document: Mapping[str, Any]) -> dict[str, str]:
    """Prompts in a key document of an older version, which did not list them: they are known by their names."""

    def is_prompt(name: str) -> bool:
        return any(word in name.lower() for word in ("prompt", "system"))

    prompts = {name: value for name, value in document.get("params", {}).items() if isinstance(value, str) and is_prompt(name)}
    for place, text in document.get("sources", {}).items():
        constant = place.rpartition(":")[2]
        # A parameter takes the place of a constant of its name.
        if constant.isupper() and is_prompt(constant) and constant.lower() not in prompts and text.startswith("builtins.str:"):
            prompts[constant] = ast.literal_eval(text.removeprefix("builtins.str:"))
    return prompts


def _without_login(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that are set; its address without user and password."""
    given = {name: value for name, value in settings.items() if value not in (None, [], {})}
    return given | {"endpoint": re.sub(r"//[^/@]*@", "//", str(given["endpoint"]))} if "endpoint" in given else given


def _metrics(metrics: Iterable[Metric]) -> list[tuple[str, str, str]]:
    """(metric, slice, value); of a long series, only its first and last value."""
    by_name: dict[str, list[Metric]] = {}
    for metric in metrics:
        by_name.setdefault(metric.metric, []).append(metric)
    rows = []
    for name, values in by_name.items():
        if len(values) <= SHOWN:
            rows += [(name, each.slice, f"{each.value:.6g}") for each in values]
        else:
            ends = values[0], values[-1]
            rows += [(f"{name} ({len(values)} values, first and last)", each.slice, f"{each.value:.6g}") for each in ends]
    return rows


# -- what Hugging Face reads ------------------------------------------------------------------------------------------


def _dataset_front(manifest: Manifest, data: Data | None) -> dict[str, Any]:
    assert data
    front: dict[str, Any] = {
        "pretty_name": str(manifest.ref),
        "size_categories": [_size_category(manifest.rows)],
        "tags": ["posttrain-engine", manifest.type],
        "configs": [{"config_name": "default", "data_files": [{"split": SPLIT, "path": data.files}]}],
    }
    if data.format in ("hf", "parquet"):  # types of others are inferred from the file
        split = {"name": SPLIT, "num_bytes": data.bytes, "num_examples": manifest.rows}
        front["dataset_info"] = {"features": features(data.schema), "splits": [split]}
    return front


def _model_front(loading: Loading) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "transformers" if loading.how == "full" else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["posttrain-engine"],
    }
    if loading.hub:
        front["base_model"] = loading.base
        front["base_model_relation"] = "finetune" if loading.how == "full" else "adapter"
    if loading.licence:
        front["license"] = loading.licence
    return front


def features(schema: Iterable[pa.Field]) -> list[dict[str, Any]]:
    """A schema as metadata for Hugging Face, as `datasets.Features` writes it."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": features(kind)}
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    return {"dtype": {"double": "float64", "date32[day]": "date32"}.get(str(kind), str(kind))}


def _size_category(rows: int) -> str:
    bounds = (1000, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 10**10, 10**11, 10**12)
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    for place, bound in enumerate(bounds):
        if rows < bound:
            return f"{names[place - 1]}<n<{names[place]}" if place else "n<1K"
    return "n>1T"


# -- Markdown ---------------------------------------------------------------------------------------------------------


@cache
def _template() -> Template:
    environment = Environment(
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  (it makes Markdown: see the filters)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "block": _block, "counted": counted}
    return environment.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))


def _cell(value: Any) -> str:
    """A value in a table: on one line, with Markdown and HTML escaped."""
    text = re.sub(r"\s+", " ", str(value))
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def _block(text: str, language: str = "") -> str:
    """A fenced block that its text cannot end early."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120) if value else ""
