"""The versions behind the references of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.llm.weights import REGISTRY_PREFIX, identify
from engine.pipeline.graph import Step
from registry import DataObject, Registry, VersionRef


@dataclass(frozen=True)
class Input:
    """A version that feeds a step, whether it is committed (has a number) or only read so far (number 0)."""

    ref: VersionRef
    data: tuple[DataObject, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.data)


def link_key(link: Any) -> tuple[str, str]:
    return (link.name, link.output)


def resolve_inputs(step: Step, made: Mapping[tuple[str, str], Input], registry: Registry) -> dict[str, tuple[Input, ...]]:
    """The versions behind a step's references."""

    def find(link: Any) -> Input:
        if link.kind != "registry":
            return made[link_key(link)]
        manifest = registry.manifest(link.name, link.version)
        return Input(manifest.ref, manifest.data)

    return {port: tuple(find(link) for link in links) for port, links in step.inputs.items()}


def with_models(step: Step, made: Mapping[tuple[str, str], Input], registry: Registry) -> Step:
    """The step with the weights of models that other steps have made."""
    if not any(model.made_by for model in step.models.values()):
        return step
    bound = {}
    with registry.session() as session:
        for role, model in step.models.items():
            bound[role] = model
            if model.made_by:
                weights = identify(f"{REGISTRY_PREFIX}{made[link_key(model.made_by)].ref}", session)
                bound[role] = replace(model, weights=weights)
    return replace(step, models=bound)


def streamed_rows(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> int:
    """Rows that a step is called for: those of its row-by-row input, or of all inputs together."""
    ports = step.operator.inputs
    counted = [name for name, port in ports.items() if not port.whole] or list(ports)
    return sum(version.rows for name in counted for version in inputs.get(name, ()))


def memory_of(versions: tuple[Input, ...]) -> int:
    return sum(data.memory for version in versions for data in version.data)


def streamed_memory(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> int:
    return sum(memory_of(inputs[name]) for name, port in step.operator.inputs.items() if not port.whole)
