"""The versions behind the references of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.jobs.messages import InputVersion
from engine.llm.weights import REGISTRY_PREFIX, identify
from engine.pipeline.graph import Link, Pipeline, Step
from registry import Manifest, Record, Registry

Inputs = Mapping[str, tuple[InputVersion, ...]]
"""The versions of each of a step's inputs, by input."""

Available = dict[tuple[str, str], InputVersion]
"""The versions that exist so far, by (dataset or step, output)."""


def version_of(manifest: Manifest) -> InputVersion:
    """A committed version as an input."""
    return InputVersion(ref=manifest.ref, data=manifest.data)


def link_key(link: Link) -> tuple[str, str]:
    """The key of a reference in `Available`."""
    return (link.name, link.output)


def barriers(pipeline: Pipeline, step: Step) -> set[tuple[str, str]]:
    """The outputs of other steps that have to be complete before a step can begin (see `link_key`).

    These are inputs that it takes whole, models that steps train, and rows that another step's finish function makes. It can
    begin with the first rows of all others.
    """
    whole = [link for port, links in step.inputs.items() if port != step.operator.streamed for link in links]
    whole += [model.made_by for model in step.models.values() if model.made_by]
    streamed = step.inputs.get(step.operator.streamed or "", ())
    whole += [
        link for link in streamed if link.kind == "step" and link.output in pipeline.steps[link.name].operator.finished_outputs
    ]
    return {link_key(link) for link in whole if link.kind == "step"}


def resolve_inputs(pipeline: Pipeline, step: Step, available: Available, registry: Registry) -> Inputs:
    """The versions behind a step's references, as far as they are there."""
    return {
        port: tuple(
            resolve_input(pipeline, step, port, link, available, registry)
            for link in links
            if link.kind == "registry" or link_key(link) in available
        )
        for port, links in step.inputs.items()
    }


def resolve_input(
    pipeline: Pipeline, step: Step, port: str, link: Link, available: Available, registry: Registry
) -> InputVersion:
    """The version behind a reference of a step's input."""
    if link.kind == "registry":  # it may have been written by older code
        return version_of(registry.manifest(link.name, link.version))
    return available[link_key(link)].model_copy(update={"valid": are_valid(pipeline, step, port, link)})


def are_valid(pipeline: Pipeline, step: Step, port: str, link: Link) -> bool:
    """Whether the rows behind a reference were validated as the input's record type (see InputVersion)."""
    return _record_of(pipeline, link) is step.operator.inputs[port].record


def _record_of(pipeline: Pipeline, link: Link) -> type[Record]:
    if link.kind == "dataset":
        return pipeline.sources[link.name].record
    return pipeline.steps[link.name].operator.outputs[link.output]


def with_models(step: Step, available: Available, registry: Registry) -> Step:
    """The step, with the weights of its models that other steps made."""
    if not any(model.made_by for model in step.models.values()):
        return step
    bound = {}
    with registry.session() as session:
        for role, model in step.models.items():
            bound[role] = model
            if model.made_by:
                weights = identify(f"{REGISTRY_PREFIX}{available[link_key(model.made_by)].ref}", session)
                bound[role] = replace(model, weights=weights)
    return replace(step, models=bound)


def streamed_rows(step: Step, inputs: Inputs) -> int:
    """The number of rows that a step processes: those of its streamed input, or else of all inputs."""
    ports = step.operator.inputs
    counted = [name for name, port in ports.items() if not port.whole] or list(ports)
    return sum(version.rows for name in counted for version in inputs.get(name, ()))


def streamed_memory(step: Step, inputs: Inputs) -> int:
    """The size of the streamed rows in memory (0: unknown)."""
    return sum(memory_of(inputs[name]) for name, port in step.operator.inputs.items() if not port.whole)


def memory_of(versions: tuple[InputVersion, ...]) -> int:
    """The size of the rows of some versions in memory."""
    return sum(data.memory for version in versions for data in version.data)
