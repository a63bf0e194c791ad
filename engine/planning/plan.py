"""What a run would do: which sources must be read, which steps hit, resume or run, and what that may cost at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from engine.errors import EngineError
from engine.fingerprint.code import code_of
from engine.jobs.messages import Partition, partitions, read_receipt
from engine.llm.weights import REGISTRY, identify
from engine.pipeline.graph import Pipeline, Source, Step
from engine.planning.explain import changes
from engine.planning.keys import step_document, step_key
from engine.planning.row_groups import Families, families_of
from engine.sources import ingest
from engine.sources.exclusions import digest
from registry import DataObject, Draft, Manifest, Registry, VersionRef
from registry.records.schema import fields_of
from registry.storage.objects import canonical_json

_BYTES_PER_TOKEN = 4
"""Of a model's own answers, when they are shown to it again."""

SOURCE = "source"
"""The `op` under which external datasets stand in the registry."""


@dataclass(frozen=True)
class Input:
    """A version that feeds a step, whether it is committed (has a number) or only read so far (number 0)."""

    ref: VersionRef
    data: tuple[DataObject, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.data)


@dataclass(frozen=True)
class SourcePlan:
    """A source: `HIT` when its version is there, `READ` when it was read just now (and is not committed yet)."""

    name: str
    status: Literal["HIT", "READ"]
    rows: int
    input: Input
    manifest: Manifest | None = None
    draft: Draft | None = None
    rejected: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepPlan:
    """A step: `HIT`, `RUN`, `RESUME` (some partitions are done), or `WAIT` (its inputs are not made yet).

    Calls and tokens are upper bounds for what is left to do; answers in the journal are not asked for again and make
    the true number smaller.
    """

    name: str
    op: str
    status: Literal["HIT", "RUN", "RESUME", "WAIT"]
    rows: int | None = None
    done: int = 0
    total: int = 0
    key: str = ""
    document: Mapping[str, Any] | None = None
    manifests: tuple[Manifest, ...] = ()
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    waits_for: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    families: Families = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The plan of a whole pipeline."""

    pipeline: str
    sources: tuple[SourcePlan, ...]
    steps: tuple[StepPlan, ...]


def make_plan(pipeline: Pipeline, registry: Registry, *, select: set[str], force: set[str], why: bool = False) -> Plan:
    """Plan the selected steps and all they need; sources that are not versions yet are read and typed.

    Raises:
        PipelineError: a source has rows that do not fit.
    """
    chosen = needed(pipeline, select)
    made: dict[tuple[str, str], Input] = {}
    source_plans = [plan_source(pipeline, pipeline.sources[name], registry) for name in pipeline.sources if name in chosen]
    for source in source_plans:
        made[source.name, ""] = source.input
    step_plans = []
    for name, checked in pipeline.steps.items():
        step = checked
        if name not in chosen:
            continue
        waits = sorted({link.name for link in step.links if _key(link) not in made and link.kind == "step"})
        if waits:
            plan = StepPlan(name, step.operator.name, "WAIT", waits_for=tuple(waits), notes=step.notes)
        else:
            step = with_models(step, made, registry)
            plan = plan_step(pipeline, step, resolve_inputs(step, made, registry), registry, force=name in force)
        if why and plan.status in ("RUN", "RESUME"):
            plan = replace(plan, why=tuple(explain(pipeline, step, plan, registry, forced=name in force)))
        for manifest in plan.manifests:
            made[name, manifest.output] = Input(manifest.ref, manifest.data)
        step_plans.append(plan)
    return Plan(pipeline.spec.name, tuple(source_plans), tuple(step_plans))


def needed(pipeline: Pipeline, select: set[str]) -> set[str]:
    """The selected steps (all, when none is named) with every dataset and step they need."""
    if not select:
        return {*pipeline.steps, *pipeline.sources}
    found: set[str] = set()
    waiting = list(select)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in pipeline.steps:
            waiting += pipeline.steps[name].needs
    return found


def _key(link: Any) -> tuple[str, str]:
    return (link.name, link.output)


def resolve_inputs(step: Step, made: Mapping[tuple[str, str], Input], registry: Registry) -> dict[str, tuple[Input, ...]]:
    """The versions behind a step's references."""

    def find(link: Any) -> Input:
        if link.kind != "registry":
            return made[_key(link)]
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
                weights = identify(f"{REGISTRY}{made[_key(model.made_by)].ref}", session)
                bound[role] = replace(model, weights=weights)
    return replace(step, models=bound)


def plan_source(pipeline: Pipeline, source: Source, registry: Registry) -> SourcePlan:
    """Find a source's version, or read it."""
    name = f"{pipeline.spec.name}/{source.name}"
    beside, seed = pipeline.file.parent, pipeline.spec.seed
    excluded = pipeline.excluded.get(name, frozenset())
    identity = ingest.identity(source.spec, source.record, beside, seed, excluded)
    if identity is not None and (found := _source_hit(name, identity, registry)):
        return SourcePlan(source.name, "HIT", found.rows, Input(found.ref, found.data), manifest=found)
    read = ingest.ingest(source.name, source.spec, source.record, beside, seed, registry.store, excluded)
    if identity is None:
        identity = {"content": read.content_id, "spec": source.spec.model_dump(mode="json")}
        identity |= {"excluded": digest(excluded)} if excluded else {}
        if found := _source_hit(name, identity, registry):
            return SourcePlan(source.name, "HIT", found.rows, Input(found.ref, found.data), manifest=found)
    document = {SOURCE: identity}
    if identity != (ingest.identity(source.spec, source.record, beside, seed, excluded) or identity):
        raise EngineError(f"the files of dataset {source.name!r} changed while they were read; run again")
    draft = Draft(
        name=name,
        kind=source.record.registry_kind,
        type=source.record.type_name(),
        fields=fields_of(source.record.arrow_schema()),
        content_id=read.content_id,
        pipeline=pipeline.spec.name,
        step=source.name,
        op=SOURCE,
        output="",
        step_key=ingest.source_key(identity),
        key_object=store_document(registry, document),
        data=read.data,
        side=read.side,
        rows_in=read.rows + read.rejected,
        rejected=read.rejected,
        files=ingest.files_of(source.spec, beside),
    )
    made = Input(VersionRef(name=name, version=0, content_id=read.content_id), read.data)
    return SourcePlan(source.name, "READ", read.rows, made, draft=draft, rejected=read.rejected, ignored=read.ignored)


def _source_hit(name: str, identity: Mapping[str, Any], registry: Registry) -> Manifest | None:
    found = registry.find_step(ingest.source_key(identity))
    return next((manifest for manifest in found if manifest.name == name and registry.intact(manifest)), None)


def plan_step(
    pipeline: Pipeline, step: Step, inputs: Mapping[str, tuple[Input, ...]], registry: Registry, *, force: bool = False
) -> StepPlan:
    """Whether a step hits, resumes or runs over given inputs."""
    refs = {port: tuple(each.ref for each in versions) for port, versions in inputs.items()}
    related = families_of(step, inputs, registry) if step.operator.families else {}
    document = step_document(step, refs, pipeline.spec.seed, excluded_of(pipeline, step), related)
    key = step_key(document)
    rows = streamed_rows(step, inputs)
    names = {pipeline.output_name(step.name, output): output for output in step.operator.outputs}
    found = {m.output: m for m in registry.find_step(key) if m.name in names and registry.intact(m)}
    name, op = step.name, step.operator.name
    if len(found) == len(names) and not force:
        manifests = tuple(found[output] for output in step.operator.outputs)
        return StepPlan(name, op, "HIT", rows=rows, key=key, document=document, manifests=manifests)
    parts = split(step, inputs)
    done = [] if force else [part for part in parts if read_receipt(registry.receipts, registry.store, key, part)]
    left = rows - sum(part.stop - part.start for part in done)
    bounds = _bounds(step, inputs, rows, left)
    return StepPlan(
        name,
        op,
        "RESUME" if done else "RUN",
        rows=rows,
        done=len(done),
        total=len(parts),
        key=key,
        document=document,
        calls=bounds.calls,
        tokens=bounds.tokens,
        cost_usd=bounds.cost_usd,
        notes=bounds.notes,
        families=related,
    )


def excluded_of(pipeline: Pipeline, step: Step) -> dict[str, frozenset[str]]:
    """Ids of the rows of a step's outputs that the exclusion list leaves out, by output."""
    named = {output: pipeline.excluded.get(pipeline.output_name(step.name, output)) for output in step.operator.outputs}
    return {output: ids for output, ids in named.items() if ids}


def streamed_rows(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> int:
    """Rows that a step is called for: those of its row-by-row input, or of all inputs together."""
    ports = step.operator.inputs
    counted = [name for name, port in ports.items() if not port.whole] or list(ports)
    return sum(version.rows for name in counted for version in inputs.get(name, ()))


def split(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> list[Partition]:
    """A step's partitions."""
    return partitions(
        streamed_rows(step, inputs), _streamed_memory(step, inputs), step.operator.shape, bool(step.operator.roles)
    )


class _Bounds(NamedTuple):
    calls: int
    tokens: int
    cost_usd: float
    notes: tuple[str, ...]


def _bounds(step: Step, inputs: Mapping[str, tuple[Input, ...]], rows: int, left: int) -> _Bounds:
    """Upper bounds of calls, tokens and cost for `left` of `rows` rows.

    A prompt is bounded in bytes (a token has at least one) by the row's text, the operator's own texts, its parameters
    and the answers to the calls before it, or by what the operator says that it `asks`. Inputs that an operator takes whole
    count for every row.
    """
    calls = tokens = 0
    cost = 0.0
    notes = [*step.notes]
    streamed = _streamed_memory(step, inputs)
    whole = sum(_memory(inputs.get(name, ())) for name, port in step.operator.inputs.items() if port.whole)
    texts = [text for text in code_of(step.operator.name).code.values() if text.startswith("builtins.")]
    own = sum(map(len, texts)) + len(step.params.model_dump_json())
    asks = step.operator.asks(step.params) if step.operator.asks else None
    for role, per_row in step.operator.calls_per_row(step.params).items():
        spec = step.models[role].spec
        asked = per_row * left
        answers = (per_row - 1) * spec.max_tokens * _BYTES_PER_TOKEN
        besides = (own + whole + answers if asks is None else asks) + len((spec.system or "").encode())
        tokens_in = per_row * streamed * left // max(1, rows) + asked * besides
        tokens_out = asked * spec.max_tokens
        calls += asked
        tokens += tokens_in + tokens_out
        price = spec.cost(tokens_in, tokens_out)
        cost += price
        if spec.budget_usd is not None and price > spec.budget_usd:
            notes.append(f"budget_usd {spec.budget_usd:g} of {role} may stop it")
        if spec.max_calls is not None and asked > spec.max_calls:
            notes.append(f"max_calls {spec.max_calls} of {role} may stop it")
    return _Bounds(calls, tokens, cost, tuple(notes))


def _streamed_memory(step: Step, inputs: Mapping[str, tuple[Input, ...]]) -> int:
    return sum(_memory(inputs[name]) for name, port in step.operator.inputs.items() if not port.whole)


def _memory(versions: tuple[Input, ...]) -> int:
    return sum(data.memory for version in versions for data in version.data)


def explain(pipeline: Pipeline, step: Step, plan: StepPlan, registry: Registry, *, forced: bool) -> list[str]:
    """Why a step does not hit: what differs from its newest version."""
    if forced:
        return ["--force"]
    if plan.status == "RESUME":
        return [f"an earlier run finished {plan.done} of {plan.total} partitions"]
    first = pipeline.output_name(step.name, next(iter(step.operator.outputs)))
    newest = registry.newest(first)
    if newest is None:
        return ["it never ran"]
    if newest.step_key == plan.key:
        return ["an output is missing or its objects are gone"]
    before = registry.store.read_document(newest.key_object.sha256)
    return changes(before, plan.document or {}, code_of(step.operator.name).code) or ["an older version hits no more"]


def store_document(registry: Registry, document: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> DataObject:
    """Keep a key document (with the sources it hashes) as an object, for `plan --why` and for people."""
    stored = registry.store.put_bytes(canonical_json({**document, "sources": dict(sources or {})}))
    return DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes)
