"""The models that a run serves itself: which of them share a server, and what is missing on this machine to start it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from engine.errors import EngineError
from engine.llm.types.serve_spec import ServeSpec
from engine.pipeline.graph import BoundModel, Step
from engine.serving.command_line import program_of


def named_cluster() -> str | None:
    """The address of the Ray cluster that runs use; None if each starts a Ray of its own on this machine."""
    return os.environ.get("ENGINE_RAY_ADDRESS") or os.environ.get("RAY_ADDRESS") or None


def served_models(step: Step) -> dict[str, BoundModel]:
    """The models of a step that the run serves, by their names in the pipeline."""
    return {step.model_names[role]: model for role, model in step.models.items() if model.spec.serve is not None}


def served_together(models: Mapping[str, BoundModel], others: Mapping[str, BoundModel]) -> list[dict[str, BoundModel]]:
    """Some models, each with all others that its servers can serve as well. All of a group share its servers."""
    groups: list[dict[str, BoundModel]] = []
    for name, model in models.items():
        if not any(name in group for group in groups):
            together = {name: model}
            for other, each in others.items():
                if all(share(member, each) for member in together.values()):
                    together.setdefault(other, each)
            groups.append(together)
    return groups


def share(one: BoundModel, other: BoundModel) -> bool:
    """Whether a server of one model can serve the other as well."""
    if one.spec.serve != other.spec.serve or one.spec.serve is None or one.spec.serve.engine != "vllm":
        return False
    if one.weights is None or other.weights is None:
        return False
    if one.spec.model == other.spec.model:  # requests could not tell two apart
        return one.weights.identity == other.weights.identity
    if one.weights.base is None or other.weights.base is None:
        # Not an adapter and its base: vLLM 0.32 on CPUs answers requests to the base with the last adapter.
        return one.weights.identity == other.weights.identity
    return one.weights.base.identity == other.weights.base.identity


def server_notes(steps: Iterable[Step]) -> dict[str, list[str]]:
    """What is started for the models of some steps, by the step that needs it first, and what is missing for it."""
    steps = list(steps)
    models = {name: model for step in steps for name, model in served_models(step).items()}
    groups = served_together(models, models)
    found: dict[str, list[str]] = {}
    for step in steps:
        mine = served_models(step)
        for group in [group for group in groups if mine.keys() & group.keys()]:
            groups.remove(group)
            [serve, *_] = [model.spec.serve for model in group.values() if model.spec.serve is not None]
            found.setdefault(step.name, []).append(_started(serve, group))
            if why := missing_program(serve):
                where = "; its nodes need it" if named_cluster() else ""
                found[step.name].append(f"{why}{where}")
    return found


def missing_program(serve: ServeSpec) -> str:
    """What is missing on this machine to start a server; empty if nothing is."""
    try:
        program_of(serve)
    except EngineError as error:
        return str(error)
    return ""


def missing_programs(steps: Iterable[Step]) -> dict[str, str]:
    """What is missing on this machine to start the servers of some steps, by model."""
    models = {name: model.spec.serve for step in steps for name, model in served_models(step).items()}
    found = {name: missing_program(serve) for name, serve in models.items() if serve is not None}
    return {name: why for name, why in found.items() if why}


def _started(serve: ServeSpec, models: Iterable[str]) -> str:
    names = list(models)
    several = f"{serve.replicas} servers" if serve.replicas > 1 else "the server"
    each = ", each with" if serve.replicas > 1 else ", with"
    needs = f"{each} {serve.needs}" if serve.needs else ""
    return f"starts {several} of model{'s' if names[1:] else ''} {', '.join(names)}{needs}: {serve.shown}"
