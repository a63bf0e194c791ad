"""The pipeline file as frozen pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from engine.credentials import ENV, secret_in_url
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.spec import Spec

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Names of pipelines, datasets, steps and roles: lower case, because SQL ignores case."""

TYPE_NAME = r"^[A-Z][A-Za-z0-9]{0,63}$"

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A number that random choices derive from."""

TypeName = Annotated[str, StringConstraints(pattern=TYPE_NAME)]
"""Names of record types."""


class DatasetSpec(Spec):
    """An external input, converted to its type when it is read. Set exactly one of path, hf, generator, registry.

    Args:
        type: the record type of its rows, of a package or of the file's `types`. Without one, it is taken from the rows.
        path: a file, a glob or an fsspec URL; jsonl, json, csv, tsv or parquet (also .gz, .bz2, .xz, .zst). `${env.NAME}`
            in it is replaced with an environment variable, for passwords and tokens.
        hf: a Hugging Face Hub id.
        split: the split of the Hub's dataset.
        generator: `<generator>/<task>`; its settings are under `with`.
        registry: `NAME@VERSION` of another pipeline's output; NAME alone is the latest version.
        format: the format of the rows, such as `sharegpt`, or `own` for the type's own fields; recognised if left out.
        rename: {column in the source: field of the record}.
        defaults: {field of the record: value} for rows without a value.
        images: fields with images, or with lists of them. Their files are read with the rows and kept in the registry.
        image_folder: the folder of these files; by default the folder of the file with the rows. Nothing outside it is read.
        limit: the maximum number of rows, from the start.
        on_error: `stop` at rows that do not fit the type, or `skip` them and record them as rejects.
        allow_empty: whether a dataset without rows is allowed.
        with: settings of the generator.
    """

    type: str | None = None
    path: str | None = None
    hf: str | None = None
    split: str = "train"
    generator: str | None = None
    registry: str | None = None
    format: str | None = None
    rename: dict[str, str] = {}
    defaults: dict[str, str | int | float | bool] = {}
    images: list[str] = []
    image_folder: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    allow_empty: bool = False
    with_: Annotated[dict[str, Any], Field(alias="with")] = {}

    @field_validator("path")
    @classmethod
    def _no_secret_in_path(cls, path: str | None) -> str | None:
        if path and (secret := secret_in_url(ENV.sub("", path))):
            raise ValueError(f"it contains {secret}; put it into an environment variable and write ${{env.NAME}} instead")
        return path

    @model_validator(mode="after")
    def _one_source(self) -> DatasetSpec:
        given = [name for name in ("path", "hf", "generator", "registry") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of path, hf, generator, registry (found: {found})")
        if self.with_ and self.generator is None:
            raise ValueError("'with' is for a generator's settings, and this dataset has no generator")
        if self.images and self.path is None and self.hf is None:
            raise ValueError("'images' are read with rows of files and hubs, and this dataset has neither path nor hf")
        if self.image_folder and not self.images:
            raise ValueError("'image_folder' is for images; name the fields that have them: images: [...]")
        if self.format and self.path is None and self.hf is None:
            raise ValueError("'format' is the format of rows in files and on hubs, and this dataset has neither path nor hf")
        return self


class Resources(Spec):
    """Ray's resources of one worker, and the number of workers. Never part of a cache key.

    Args:
        num_cpus: CPUs of one worker.
        num_gpus: GPUs of one worker; 0.5 lets two workers share one.
        memory: bytes of memory that Ray reserves for one worker.
        workers: the number of workers that run at once.
    """

    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=1)] | None = None


Inputs = Any  # str | list[str] | dict[str, str | list[str]]; as Any, one error message instead of one per union member


def _inputs(value: Any) -> Inputs:
    def reference(item: Any) -> bool:
        return isinstance(item, str) or (isinstance(item, list) and bool(item) and all(isinstance(i, str) for i in item))

    if reference(value) or (isinstance(value, dict) and value and all(reference(item) for item in value.values())):
        return value
    raise ValueError("give a reference, a list of references, or a mapping from input names to references")


class StepSpec(Spec):
    """One operator applied to references.

    Args:
        op: the operator's name.
        in: a reference, a list of references (concatenated), or a mapping from the operator's input names to references.
        with: the operator's parameters.
        models: a mapping from the operator's roles to the pipeline's models.
        resources: CPUs, GPUs, memory and number of workers.
        max_reject_ratio: the step fails if a larger share of its rows is rejected.
    """

    op: str
    in_: Annotated[Inputs, BeforeValidator(_inputs), Field(alias="in")]
    with_: Annotated[dict[str, Any], Field(alias="with")] = {}
    models: dict[Name, Name] = {}
    resources: Resources = Resources()
    max_reject_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError("give a string, a number, true, false or null")
    return value


Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_scalar)]


class PipelineSpec(Spec):
    """A whole pipeline file.

    Args:
        name: the pipeline's name; its outputs are called `<name>/<step>`.
        params: parameters with their defaults, used as `${params.NAME}` and changed with `engine run --set NAME=VALUE`.
        matrix: {parameter: list of values}. The pipeline runs once for each combination; steps that do not depend on them run
            only once. `engine run --matrix NAME=VALUE,VALUE` sets other values.
        operators: files or packages with your own operators, relative to the pipeline file.
        types: record types by name, each with its fields: `name: type`, or `name: {type: ..., description: ...}`.
        seed: the number that all random choices of the pipeline derive from; part of every cache key.
        exclude: a file of rows to leave out, as `engine impact --takedown` writes it.
        models: models by name. A model fills the role of the same name unless a step's `models` says otherwise.
        datasets: sources by name.
        steps: operators by step name.
    """

    name: Name
    params: dict[str, Scalar] = {}
    matrix: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = {}
    operators: list[str] = []
    types: dict[TypeName, dict[str, Any]] = {}
    seed: Seed = 0
    exclude: str | None = None
    models: dict[Name, ModelSpec] = {}
    datasets: dict[Name, DatasetSpec] = {}
    steps: Annotated[dict[Name, StepSpec], Field(min_length=1, max_length=1000)]
