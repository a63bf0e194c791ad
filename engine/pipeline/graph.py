"""A checked pipeline as data: external datasets, steps, and the typed references between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import ModelWeights
from engine.operator.declaration.operator import Operator
from engine.packages.local_modules import LocalModules
from engine.sources.exclusions import Exclusions
from engine.spec.matrix import combinations
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec, StepSpec
from engine.spec.variant_names import label
from registry import Record
from registry.storage.checked_json import canonical_json

RecordType: TypeAlias = type[Record]


@dataclass(frozen=True)
class Link:
    """A resolved reference: an external dataset, a step's output, or a version in the registry.

    `label` is the reference as written; `fields` are the fields of its rows (name -> type); `record` is their type, if an
    installed package defines it.
    """

    kind: Literal["dataset", "step", "registry"]
    name: str
    output: str
    label: str
    type: str
    fields: Mapping[str, str]
    version: int = 0
    record: RecordType | None = None


@dataclass(frozen=True)
class Source:
    """An external dataset and its record type."""

    name: str
    spec: DatasetSpec
    record: type[Record]


@dataclass(frozen=True)
class BoundModel:
    """A model in a role: the pipeline's spec and, for a model in the worker or one that the engine serves, its weights.

    A model that a step of the pipeline trains (`made_by`) has weights once that step has run.
    """

    spec: ModelSpec
    weights: ModelWeights | None
    made_by: Link | None = None

    @property
    def identity(self) -> str:
        """What determines the answers besides prompt and sampling parameters."""
        if self.spec.identity is not None:
            return self.spec.identity
        weights = self.weights.identity if self.weights else self.spec.model
        return self.spec.serve.identity(weights) if self.spec.serve else weights


@dataclass(frozen=True)
class Step:
    """A checked step: its operator, the references of each input, its parameters and its models.

    `queue` is the name of its review, if it is not that of its dataset: in a preview.
    """

    name: str
    spec: StepSpec
    operator: Operator
    inputs: Mapping[str, tuple[Link, ...]]
    params: BaseModel
    models: Mapping[str, BoundModel]
    queue: str = ""

    @property
    def needs(self) -> set[str]:
        """Names of the datasets and steps that it reads, and of the steps whose models it uses."""
        return {link.name for link in self.links if link.kind != "registry"}

    @property
    def model_names(self) -> dict[str, str]:
        """The pipeline's names of its models, by role."""
        return {role: self.spec.models.get(role, role) for role in self.models}

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know before it runs: how parameters were interpreted, and what looks wrong."""
        return self.operator.notes(self.params) + tuple(
            f"{first} and {second} are the same model"
            for first, second in self.operator.distinct
            if first in self.models and second in self.models and _same(self.models[first], self.models[second])
        )

    @property
    def max_reject_ratio(self) -> float:
        """The largest share of rejected rows. People who review rows may reject all of them, unless the file says otherwise."""
        if self.operator.reviews and "max_reject_ratio" not in self.spec.model_fields_set:
            return 1.0
        return self.spec.max_reject_ratio

    @property
    def links(self) -> list[Link]:
        """Everything that it reads: its inputs, and models that steps train."""
        made = [model.made_by for model in self.models.values() if model.made_by]
        return [*(link for links in self.inputs.values() for link in links), *made]


def _same(one: BoundModel, other: BoundModel) -> bool:
    if one.made_by or other.made_by:
        return one.made_by == other.made_by
    return (one.spec.answered_by, one.identity) == (other.spec.answered_by, other.identity)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline; `steps` are in an executable order, `defaults` are the file's own parameters.

    `modules` are the files of operators that it names. `seeds` has the seeds of datasets and steps that are not the pipeline's.
    """

    spec: PipelineSpec
    file: Path
    sources: Mapping[str, Source]
    steps: Mapping[str, Step]
    excluded: Exclusions = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    modules: LocalModules = ()
    seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_own_params(self) -> bool:
        """Whether the parameters are those of the file, unchanged by `--set`."""
        return canonical_json(dict(self.spec.params)) == canonical_json(dict(self.defaults))

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of the matrix; none without one."""
        return tuple(map(label, combinations(self.spec.matrix))) if self.spec.matrix else ()

    def seed_of(self, name: str) -> int:
        """The seed of a dataset or step."""
        return self.seeds.get(name, self.spec.seed)

    def output_name(self, step: str, output: str) -> str:
        """The name of an output's dataset in the registry: `<pipeline>/<step>` or `<pipeline>/<step>.<output>`.

        A step that depends on the matrix has its variant before its name, `<pipeline>/lr=1e-05/<step>`.
        """
        only = len(self.steps[step].operator.outputs) == 1
        return f"{self.spec.name}/{step}" if only else f"{self.spec.name}/{step}.{output}"
