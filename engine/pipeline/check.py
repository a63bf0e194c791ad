"""From the YAML to a typed graph: finds every problem that can be known, and reports all at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from engine.credentials import ENV, redacted
from engine.errors import EngineError, PipelineError, Problem, did_you_mean, wrong_value
from engine.fingerprint.code import code_of, code_of_function
from engine.fingerprint.reachable_code import UnstableCodeError
from engine.llm.types.capability import ruled_out
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import REGISTRY_PREFIX, ModelWeights, identify, identify_encoder, identify_gguf
from engine.operator.declaration import Operator
from engine.operator.types import DeclarationError, Wrong
from engine.packages.catalogue import AmbiguousNameError, BrokenModuleError, Catalogue, Names, catalogue, full_name
from engine.packages.local_modules import LocalModule, LocalModules, read_local_modules, use_local_modules
from engine.pipeline.file_types import file_types
from engine.pipeline.generator_settings import setting_problems
from engine.pipeline.graph import BoundModel, Pipeline, Source, Step
from engine.pipeline.packages import PROVIDERS, how_to_install, missing
from engine.pipeline.references import References, all_references
from engine.pipeline.untrained_models import misfits
from engine.pipeline.variants import expand
from engine.sources.exclusions import Exclusions, read_exclusions
from engine.sources.inferred_types import inferred_type
from engine.sources.ingest import head_problems, identity, source_key
from engine.sources.locations import FORMATS, SourceFile, find_files
from engine.sources.recognition import named_format, possible_fields
from engine.spec.dot_env import load_dot_env
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec, StepSpec
from engine.spec.read import SHOWN_VALUE, Settings, origin, read_pipeline
from engine.spec.variant_names import split_name
from engine.spec.yaml_source import Loc, YamlSource
from registry import Model, Record
from registry.errors import UnsupportedTypeError
from registry.records.schema import missing_fields


def check(
    file: Path,
    settings: Settings = None,
    session: Callable[[], Session] | None = None,
    *,
    matrix: list[str] | None = None,
    keys: bool = False,
) -> Pipeline:
    """Load and check a pipeline file. Starts nothing, and writes only what generators accepted, into the user's cache.

    Args:
        file: the YAML.
        settings: override `params`: `name=value` texts, or values by name.
        session: opens the registry, for `registry:` references; None if there is none.
        matrix: `name=value,value` texts that override `matrix`.
        keys: whether the environment variables with API keys must be set, as for a run.

    Raises:
        PipelineError: with every problem found.
    """
    spec, source = read_pipeline(file, settings, matrix)
    if spec is None:
        raise PipelineError(source.problems)
    named = [name for model in spec.models.values() for name in model.environment]
    named += [name for data in spec.datasets.values() for name in ENV.findall(data.path or "")]
    load_dot_env(file.parent, named)
    checker = _Checker(spec, source, file, session, keys=keys)
    pipeline = checker.pipeline()
    if source.problems:
        raise PipelineError(source.problems)
    return pipeline


if TYPE_CHECKING:
    from registry import Session

T = TypeVar("T")


class _Checker:
    def __init__(
        self, spec: PipelineSpec, source: YamlSource, file: Path, session: Callable[[], Session] | None, *, keys: bool
    ) -> None:
        self.keys = keys
        self.spec = spec
        self.source = source
        self.base_dir = file.parent
        self.file = file
        self.session = session
        self.modules = self.local_modules()
        self.known: Catalogue = catalogue()
        expanded = expand(spec, source, self.roles_in)
        self.spec, self.seeds = expanded.spec, expanded.seeds
        self.excluded = self.exclusions()
        self.sources: dict[str, Source] = {}
        self.operators: dict[str, Operator | None] = {}
        self.params: dict[str, BaseModel] = {}
        self.types = file_types(self.spec.types, source, self.known.records)
        self.references = References(
            self.spec, source, session, self.known.records, self.excluded, self.sources, self.operators, self.params
        )

    def local_modules(self) -> LocalModules:
        """The files of operators that the pipeline names, ready to be imported."""
        found: dict[str, LocalModule] = {}
        for place, path in enumerate(self.spec.operators):
            try:
                modules = read_local_modules(path, self.base_dir)
            except EngineError as error:
                self.problem(str(error), ("operators", place))
                continue
            if twice := found.keys() & {module.name for module in modules}:
                self.problem(f"{path}: the module {min(twice)} is there twice", ("operators", place), "rename one of the files")
            found |= {module.name: module for module in modules}
        use_local_modules(tuple(found.values()))
        return tuple(found.values())

    def exclusions(self) -> Exclusions:
        if self.spec.exclude is None:
            return {}
        try:
            return read_exclusions(self.spec.exclude, self.base_dir)
        except EngineError as error:
            self.problem(str(error), ("exclude",))
            return {}

    def pipeline(self) -> Pipeline:
        for name in self.spec.steps.keys() & self.spec.datasets.keys():
            self.problem(f"{name!r} is the name of both a dataset and a step", ("steps", name), key=True)
        self.sources |= {name: found for name in self.spec.datasets if (found := self.dataset(name))}
        self.operators |= {name: self.operator(name) for name in self.spec.steps}
        self.params |= {name: given for name, op in self.operators.items() if op and (given := self.parameters(name, op))}
        self.operators |= {
            name: op.with_output_names(self.params[name]) for name, op in self.operators.items() if op and name in self.params
        }
        bound = self.bind_models()
        steps = {name: self.step(name, op, bound) for name, op in self.operators.items() if op}
        for name in self.operators.keys() - steps.keys():
            for reference, place in all_references(self.spec.steps[name].in_, ("steps", name, "in")):
                self.references.link(reference, place)
        order = self.order(steps)
        for name, why in misfits(steps[name] for name in order if name in self.params and name in steps):
            self.problem(why, ("steps", name, "with") if self.spec.steps[name].with_ else ("steps", name, "op"))
        used = {name: source for name, source in self.sources.items() if source.spec.registry is None}
        ordered = {name: steps[name] for name in order if name in steps}
        defaults = self.source.data.get("params") or {}
        return Pipeline(self.spec, self.file, used, ordered, self.excluded, defaults, self.modules, self.seeds)

    def problem(self, message: str, loc: Loc, hint: str = "", *, key: bool = False) -> None:
        self.source.problems.append(Problem(message, self.source.position(loc, key=key), hint))

    def find(self, names: Names[T], name: str, what: str, loc: Loc, otherwise: str = "") -> T | None:
        """What a name in the file means; None, and a problem, when it is unknown."""
        try:
            return names[name]
        except KeyError:
            self.problem(f"no {what} named {name!r}", loc, names.hint(name, otherwise))
        except (AmbiguousNameError, BrokenModuleError) as error:
            self.problem(str(error), loc)
        return None

    def installed(self, what: str, modules: Iterable[str], loc: Loc) -> bool:
        """Whether the packages that something needs are installed; if not, it is a problem."""
        absent = missing(modules)
        if absent:
            named = f"package {absent[0]}, which is" if len(absent) == 1 else f"packages {', '.join(absent)}, which are"
            self.problem(f"{what} needs the {named} not installed", loc, how_to_install(absent))
        return not absent

    # -- datasets -----------------------------------------------------------------------------------------------

    def dataset(self, name: str) -> Source | None:
        spec, loc = self.spec.datasets[name], ("datasets", name)
        before = len(self.source.problems)
        record = self.record(name, spec, loc)
        if record is None:
            return None
        try:
            named_format(spec, record)
        except EngineError as error:
            self.problem(str(error), (*loc, "format"))
        for column, target in spec.rename.items():
            if target not in possible_fields(record):
                hint = did_you_mean(target, record.model_fields)
                self.problem(f"{record.type_name()} has no field {target!r}", (*loc, "rename", column), hint)
        for field in spec.defaults.keys() - record.model_fields.keys():
            hint = did_you_mean(field, record.model_fields)
            self.problem(f"{record.type_name()} has no field {field!r}", (*loc, "defaults", field), hint, key=True)
        if spec.path is not None:
            found = self.files(spec.path, (*loc, "path"))
            if found and len(self.source.problems) == before:
                self.head(name, spec, record, found)
        elif spec.generator is not None:
            self.generator(name, spec, record, loc)
        elif spec.hf is not None:
            self.installed("hf", ["datasets"], (*loc, "hf"))
        elif spec.registry is not None:
            self.registry_dataset(spec, record, loc)
        return Source(name, spec, record)

    def record(self, name: str, spec: DatasetSpec, loc: Loc) -> type[Record] | None:
        """The type of a dataset's rows; None if it is not known, which is reported."""
        if spec.type is None:
            return self.inferred(name, spec, loc)
        if spec.type in self.source.broken or (spec.type in self.spec.types and spec.type not in self.types):
            return None  # the type's own problem is reported
        if found := self.types.get(spec.type):
            return found
        meant = did_you_mean(spec.type, self.spec.types)
        return self.find(self.known.records, spec.type, "record type", (*loc, "type"), meant)

    def inferred(self, name: str, spec: DatasetSpec, loc: Loc) -> type[Record] | None:
        if spec.registry is not None:
            link = self.references.registry_link(spec.registry, spec.registry, (*loc, "registry"))
            found = self.references.record(link) if link else None
            if isinstance(found, str):
                self.problem(f"{spec.registry}: {found}", (*loc, "registry"), "give the dataset a type")
            return None if isinstance(found, str) else found
        if spec.path is None:
            what = "from a hub" if spec.hf else "that a generator makes"
            self.problem(f"a dataset {what} needs a type", loc, "add type: with the record type of its rows")
            return None
        if not self.files(spec.path, (*loc, "path")):
            return None
        try:
            return inferred_type(split_name(name)[1], spec, self.base_dir).record()
        except (EngineError, UnsupportedTypeError) as error:
            self.problem(str(error), (*loc, "path"))
            return None

    def files(self, path: str, loc: Loc) -> list[SourceFile]:
        try:
            found = find_files(path, self.base_dir)
        except (EngineError, OSError, ValueError) as error:
            why = f"cannot look up {path:.{SHOWN_VALUE}}: {getattr(error, 'strerror', None) or error}"
            self.problem(str(error) if isinstance(error, EngineError) else why, loc)
            return []
        if not found:
            if Path(path).is_dir():
                self.problem(f"{path} is a folder", loc, f"name its files, for example {path.rstrip('/')}/*.jsonl")
            elif "://" in path:
                self.problem(f"there is no file {path:.{SHOWN_VALUE}}", loc)
            else:
                places = dict.fromkeys(str(place) for place in (Path.cwd(), self.base_dir.absolute()))
                self.problem(
                    f"there is no file {path:.{SHOWN_VALUE}}", loc, f"relative paths are searched in {' and in '.join(places)}"
                )
        for file in found:
            if file.format is None:
                endings = f"supported endings: .{', .'.join(FORMATS)} (optionally with .gz, .bz2, .xz, .zst)"
                self.problem(f"unknown format of {file.name}", loc, endings)
        return [] if any(file.format is None for file in found) else found

    def head(self, name: str, spec: DatasetSpec, record: type[Record], files: list[SourceFile]) -> None:
        """Check the first rows of a dataset's files. A run reads all rows."""
        try:
            for problem in head_problems(name, spec, record, files):
                self.problem(problem.message, ("datasets", name, "path"), problem.hint)
        except EngineError as error:
            self.problem(str(error), ("datasets", name, "path"))

    def registry_dataset(self, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        if spec.limit or spec.rename or spec.defaults:
            self.problem("limit, rename and defaults do not apply to a registry version, which is used unchanged", loc)
        link = self.references.registry_link(str(spec.registry), str(spec.registry), (*loc, "registry"))
        if link is None:
            return
        for why in missing_fields(record, dict(link.fields)):
            self.problem(f"{spec.registry} is {link.type}, not {record.type_name()}: {why}", (*loc, "registry"))

    def generator(self, dataset: str, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        name, _, task = (spec.generator or "").partition("/")
        generator = self.find(self.known.generators, name, "generator", (*loc, "generator"))
        if generator is None:
            return
        if not self.installed(name, code_of_function(generator.function, name).required, (*loc, "generator")):
            return
        for text in setting_problems(generator, task, spec.with_, lambda: self.in_registry(dataset, spec, record)):
            self.problem(text, (*loc, "with") if spec.with_ else (*loc, "generator"))

    def in_registry(self, dataset: str, spec: DatasetSpec, record: type[Record]) -> bool:
        """Whether the registry has the rows of a dataset, so that the generator's package need not be loaded."""
        excluded = self.excluded.get(f"{self.spec.name}/{dataset}", frozenset())
        known = identity(spec, record, self.base_dir, self.seeds.get(dataset, self.spec.seed), excluded)
        return bool(known and self.session and self.session().has_step(source_key(known)))

    # -- models -------------------------------------------------------------------------------------------------

    def bind_models(self) -> dict[str, BoundModel]:
        """The models that steps use. Problems of a model are reported once."""
        used = {
            self.spec.steps[name].models.get(role, role)
            for name, params in self.params.items()
            for role in self.used_roles(name, params)
        }
        found = {name: self.bind_model(self.spec.models[name], name) for name in sorted(used & self.spec.models.keys())}
        return {name: model for name, model in found.items() if model}

    def weights(self, spec: ModelSpec) -> ModelWeights:
        if spec.encodes:
            return identify_encoder(spec.model)
        if spec.serve and spec.serve.engine == "llama_cpp":
            return identify_gguf(spec.model)
        in_registry = spec.model.startswith(REGISTRY_PREFIX)
        return identify(spec.model, self.session() if in_registry and self.session else None)

    def bind_model(self, spec: ModelSpec, name: str) -> BoundModel | None:
        loc: Loc = ("models", name)
        if spec.made_by is not None:
            link = self.references.link(spec.made_by, (*loc, "model"))
            if link is None:
                return None
            if link.type != Model.type_name():
                self.problem(f"the output of {spec.made_by} is {link.type}, not a model", (*loc, "model"))
            elif link.kind != "step":
                hint = "refer to an existing version as registry:NAME@V"
                self.problem(f"{spec.made_by} is not a step of this pipeline", (*loc, "model"), hint)
            return BoundModel(spec, None, link)
        if not spec.remote or (spec.serve and spec.serve.has_weights):
            if not self.installed(f"provider {spec.provider}", PROVIDERS.get(spec.provider, ()), (*loc, "provider")):
                return None
            try:
                weights = self.weights(spec)
            except EngineError as error:
                self.problem(str(error), (*loc, "model"))
                return None
            if self.excluded and self.session and weights.source == "registry":
                target = self.session().lineage.find(weights.location)
                self.references.no_excluded(self.session(), target, (*loc, "model"))
            return BoundModel(spec, weights)
        missing = [variable for variable in spec.environment if not os.environ.get(variable)] if self.keys else []
        if missing:
            place: Loc = (*loc, "api_key_env") if missing[0] == spec.api_key_env else (*loc, "headers")
            hint = f"export {missing[0]}=..., or write it into a file .env beside the pipeline file"
            self.problem(f"the environment variable {missing[0]} is not set", place, hint)
        elif spec.base_url and not spec.base_url.startswith(("http://", "https://")):
            self.problem(f"{spec.base_url!r} is not an http:// or https:// address", (*loc, "base_url"))
        return BoundModel(spec, None)

    def roles_in(self, spec: StepSpec) -> tuple[str, ...]:
        """The roles in which a step of the file uses models; what is wrong with it is reported later."""
        try:
            operator = self.known.operators[spec.op]
        except (KeyError, AmbiguousNameError, BrokenModuleError):
            return ()
        try:
            return operator.used_roles(operator.params.model_validate(spec.with_))
        except (ValidationError, DeclarationError):
            return tuple(operator.roles)

    def used_roles(self, step: str, params: BaseModel) -> tuple[str, ...]:
        operator = self.operators[step]
        return operator.used_roles(params) if operator else ()

    # -- steps --------------------------------------------------------------------------------------------------

    def operator(self, name: str) -> Operator | None:
        op = self.spec.steps[name].op
        found = self.find(self.known.operators, op, "operator", ("steps", name, "op"), "`engine ops` lists them")
        if found is None:
            return None
        try:
            # Now, while the files still contain the code that was imported.
            self.installed(found.name, code_of(full_name(found)).required, ("steps", name, "op"))
        except UnstableCodeError as error:
            self.problem(str(error), ("steps", name, "op"))
        given = self.spec.steps[name].in_
        if found.named_inputs and not isinstance(given, dict):
            hint = "give each a name, for example in: {rows: " + (given if isinstance(given, str) else given[0]) + "}"
            self.problem(f"{found.name} needs a name for each of its inputs", ("steps", name, "in"), hint)
            return None
        return found.with_inputs(given) if isinstance(given, dict) else found

    def parameters(self, name: str, operator: Operator) -> BaseModel | None:
        try:
            params = operator.params.model_validate(self.spec.steps[name].with_)
            operator.used_roles(params)
            operator.with_output_names(params)
        except ValidationError as error:
            for item in error.errors():
                self.parameter(operator, item, ("steps", name))
            return None
        except DeclarationError as error:
            self.problem(str(error), ("steps", name, "op"))
            return None
        return params

    def step(self, name: str, declared: Operator, bound: Mapping[str, BoundModel]) -> Step:
        spec, loc = self.spec.steps[name], ("steps", name)
        operator = self.references.operator(name) or declared
        inputs = {}
        for port, references in self.references.ports(spec, operator, loc).items():
            links = []
            for reference, place in references:
                link = self.references.link(reference, place)
                if link is None:
                    continue
                links.append(link)
                for why in self.references.misfits(operator, port, link):
                    needed = operator.inputs[port].record.type_name()
                    self.problem(f"{operator.name} needs {needed} as {port!r}, but {reference} is {link.type}: {why}", place)
            inputs[port] = tuple(links)
        for role in spec.models.keys() - set(operator.roles):
            hint = did_you_mean(role, operator.roles, _listed(operator, operator.roles, "models"))
            self.problem(f"{operator.name} has no role {role!r}", (*loc, "models", role), hint, key=True)
        params = self.params.get(name)
        if params is None:
            return Step(name, spec, operator, inputs, operator.params.model_construct(), {})
        records = {port: each.record for port, each in operator.inputs.items()}
        parameters: Loc = (*loc, "with") if spec.with_ else (*loc, "op")
        if not any(each.open for each in operator.inputs.values()):
            for wrong in self.parameter_problems(operator, params, records):
                self.problem(wrong.text, (*parameters, *wrong.at) if spec.with_ else parameters)
        try:
            filled = self.roles(name, operator, params, bound)
        except DeclarationError as error:  # a method of the parameters failed
            self.problem(str(error), parameters)
            filled = {}
        return Step(name, spec, operator, inputs, params, filled)

    def parameter_problems(self, operator: Operator, params: BaseModel, records: Mapping[str, type[Record]]) -> list[Wrong]:
        """What the operator's own methods find wrong with its parameters, or what is wrong with these methods."""
        try:
            problems = [Wrong(f"{operator.name}: {text}", at) for text, at in operator.problems(params, records)]
            if not problems:
                operator.examine(params)
                operator.with_outputs(params)
        except DeclarationError as error:
            return [Wrong(str(error))]
        return problems

    def parameter(self, operator: Operator, error: object, loc: Loc) -> None:
        item = dict(error)  # type: ignore[call-overload]
        where: Loc = (*loc, "with", *item["loc"])
        shown = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            names = operator.accepted_names()
            hint = did_you_mean(shown, names, _listed(operator, names, "parameters"))
            self.problem(f"{operator.name} has no parameter {shown!r}", where, hint, key=True)
        elif item["type"] == "missing":
            self.problem(f"{operator.name} needs the parameter {shown!r}", (*loc, "with"))
        else:
            message = wrong_value(item)
            one = f"parameter {shown!r} of {operator.name}: {message} (given: {redacted(repr(item['input']))[:SHOWN_VALUE]})"
            self.problem(one if shown else f"{operator.name}: {message}", where, origin(self.source, where))

    def roles(self, name: str, operator: Operator, params: BaseModel, bound: Mapping[str, BoundModel]) -> dict[str, BoundModel]:
        spec, loc = self.spec.steps[name], ("steps", name)
        found = {}
        needs = operator.capabilities(params)
        for role in operator.used_roles(params):
            model = spec.models.get(role, role)
            if model in self.source.broken:
                continue
            if model not in self.spec.models:
                hint = did_you_mean(
                    model, self.spec.models, f"declare it under models:, or set models: {{{role}: ...}} in the step"
                )
                place = (*loc, "models", role) if role in spec.models else (*loc, "op")
                self.problem(f"{operator.name} needs a model as {role!r}, but no model is named {model!r}", place, hint)
            elif (wanted := role in operator.encoders) != self.spec.models[model].encodes:
                needed = "an encoder (provider: sentence-transformers)" if wanted else "a chat model"
                given = f"model {model!r} is not (provider: {self.spec.models[model].provider})"
                place = (*loc, "models", role) if role in spec.models else (*loc, "op")
                self.problem(f"{operator.name} needs {needed} as {role!r}, but {given}", place)
            elif setting := ruled_out(self.spec.models[model], needs.get(role, ())):
                self.problem(f"{operator.name} needs a {role} with {setting.needed}", ("models", model, setting.name))
            elif model in bound:
                found[role] = bound[model]
        return found

    def order(self, steps: Mapping[str, Step]) -> list[str]:
        needs = {name: step.needs & steps.keys() for name, step in steps.items()}
        try:
            return list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            cycle = list(reversed(error.args[1]))
            self.problem(
                f"the steps form a cycle: {' -> '.join(cycle)}", ("steps", cycle[0], "in"), "remove one of the references"
            )
            return list(steps)


def _listed(operator: Operator, names: Iterable[str], what: str) -> str:
    """The hint if no name is similar to the given one. Empty if the names are few, because they are shown then."""
    count = len(list(names))
    if not count:
        return f"{operator.name} has no {what}"
    return "" if count <= 20 else f"`engine ops {operator.name}` lists them"
