"""Binds the models of a pipeline file: finds their weights, or what their servers need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import REGISTRY_PREFIX, ModelWeights, identify, identify_encoder, identify_gguf
from engine.pipeline.graph import BoundModel
from engine.pipeline.lookups import installed
from engine.pipeline.packages import PROVIDERS
from engine.pipeline.references import References
from engine.sources.exclusions import Exclusions
from engine.spec.yaml_source import Loc, YamlSource
from registry import Model

if TYPE_CHECKING:
    from registry.query.look_ups import LookUps


@dataclass(frozen=True)
class Models:
    """The models of one pipeline. Problems are added to the source, those of a model once.

    Args:
        models: the models, by name.
        source: the file.
        look_ups: in the registry; None if there is none.
        references: resolves `step:` models.
        excluded: rows to leave out; a model from the registry that was trained on one is a problem.
        keys: whether the environment variables with API keys must be set.
    """

    models: Mapping[str, ModelSpec]
    source: YamlSource
    look_ups: LookUps | None
    references: References
    excluded: Exclusions
    keys: bool

    def bind(self, names: Iterable[str]) -> dict[str, BoundModel]:
        """The models of these names that can be used."""
        found = {name: self._bound(self.models[name], name) for name in sorted(names)}
        return {name: model for name, model in found.items() if model}

    def _weights(self, spec: ModelSpec) -> ModelWeights:
        if spec.encodes:
            return identify_encoder(spec.model)
        if spec.serve and spec.serve.engine == "llama_cpp":
            return identify_gguf(spec.model)
        in_registry = spec.model.startswith(REGISTRY_PREFIX)
        return identify(spec.model, self.look_ups.session() if in_registry and self.look_ups else None)

    def _bound(self, spec: ModelSpec, name: str) -> BoundModel | None:
        loc: Loc = ("models", name)
        if spec.made_by is not None:
            link = self.references.link(spec.made_by, (*loc, "model"))
            if link is None:
                return None
            if link.type != Model.type_name():
                self.source.problem(f"the output of {spec.made_by} is {link.type}, not a model", (*loc, "model"))
            elif link.kind != "step":
                hint = "refer to an existing version as registry:NAME@V"
                self.source.problem(f"{spec.made_by} is not a step of this pipeline", (*loc, "model"), hint)
            return BoundModel(spec, None, link)
        if not spec.remote or (spec.serve and spec.serve.has_weights):
            if not installed(self.source, f"provider {spec.provider}", PROVIDERS.get(spec.provider, ()), (*loc, "provider")):
                return None
            try:
                weights = self._weights(spec)
            except EngineError as error:
                self.source.problem(str(error), (*loc, "model"))
                return None
            if self.excluded and self.look_ups and weights.source == "registry":
                target = self.look_ups.session().lineage.find(weights.location)
                self.references.no_excluded(self.look_ups.session(), target, (*loc, "model"))
            return BoundModel(spec, weights)
        missing = [variable for variable in spec.environment if not os.environ.get(variable)] if self.keys else []
        if missing:
            place: Loc = (*loc, "api_key_env") if missing[0] == spec.api_key_env else (*loc, "headers")
            hint = f"export {missing[0]}=..., or write it into a file .env beside the pipeline file"
            self.source.problem(f"the environment variable {missing[0]} is not set", place, hint)
        elif spec.base_url and not spec.base_url.startswith(("http://", "https://")):
            self.source.problem(f"{spec.base_url!r} is not an http:// or https:// address", (*loc, "base_url"))
        return BoundModel(spec, None)
