"""Registries made by hand: results of trainings and calibrations, runs that did not succeed, hostile names and rows."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from engine.page.sessions import Reader, Sessions
from registry import DataObject, Draft, Metric, ModelUsage, Registry, SideObject, StepRun, VersionRef
from registry.catalog import side_schemas
from registry.records.schema import fields_of

BEGAN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
HOSTILE = "</script><script>alert(1)</script>\x1b[31m\u202eevil & <b>"


@contextmanager
def reading(registry: Registry) -> Iterator[Reader]:
    """A reader like that of a request."""
    sessions = Sessions(registry.location)
    with sessions.reader() as reader:
        yield reader
    sessions.close()


Edge = tuple[int, int, int]


def after(seconds: float) -> dt.datetime:
    """The time this long after the start of the run."""
    return BEGAN + dt.timedelta(seconds=seconds)


def side(registry: Registry, kind: Any, rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> SideObject:
    """A side object of these rows."""
    table = pa.table(dict(zip(schema.names, map(list, zip(*rows, strict=True)), strict=True)), schema=schema)
    stored = registry.store.put_table(table)
    return SideObject(kind=kind, sha256=stored.sha256, rows=len(rows), bytes=stored.bytes)


def call(row: int | None, number: int, **more: Any) -> tuple[Any, ...]:
    """A model call for a row."""
    made: dict[str, Any] = {
        "local_row": row,
        "call_id": f"call-{number}",
        "role": "teacher",
        "model": "gpt-5-mini",
        "prompt": json.dumps([{"role": "system", "content": "Answer."}, {"role": "user", "content": f"Question {row}?"}]),
        "response": f"Answer {row}.",
        "tokens_in": 100,
        "tokens_out": 50,
        "latency_ms": 1234.5,
        "cost_usd": 0.25,
        "reasoning": "First I think.",
        "finish_reason": "stop",
        "tokens_cached": 10,
        "tokens_reasoning": 20,
        "tool_calls": None,
        "served_by": "gpt-5-mini-2026",
        **more,
    }
    return tuple(made[name] for name in side_schemas.CALLS.names)


def commit(
    registry: Registry,
    run: str,
    step: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    inputs: Sequence[VersionRef] = (),
    models: Sequence[VersionRef] = (),
    edges: Sequence[Edge] = (),
    calls: Sequence[tuple[Any, ...]] = (),
    rejects: Sequence[tuple[int, int, str]] = (),
    exposure: Sequence[tuple[int, int, int]] = (),
    metrics: Sequence[Metric] = (),
    kind: str = "dataset",
    pipeline: str = "demo",
    name: str = "",
    record: StepRun | None = None,
) -> VersionRef:
    """Commit a version of a step, with its lineage, calls, rejects and exposure."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    stored = registry.store.put_table(table)
    data = DataObject(sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)
    sides = [
        side(registry, of, found, schema)
        for of, found, schema in (
            ("lineage", edges, side_schemas.LINEAGE),
            ("calls", calls, side_schemas.CALLS),
            ("rejects", rejects, side_schemas.REJECTS),
            ("exposure", exposure, side_schemas.EXPOSURE),
        )
        if found
    ]
    identity = stored.sha256
    key = registry.store.put_bytes(b'{"source": {}}')
    draft = Draft(
        name=name or f"{pipeline}/{step}",
        kind=kind,
        type="Row",
        fields=fields_of(table.schema),
        content_id=identity,
        pipeline=pipeline,
        step=step,
        op=record.op if record else "source",
        output="out",
        step_key=f"{step} {identity} {run}",
        key_object=DataObject(sha256=key.sha256, rows=0, bytes=key.bytes),
        inputs=tuple(inputs),
        models=tuple(models),
        data=(data,),
        side=tuple(sides),
        metrics=tuple(metrics),
    )
    [manifest] = registry.catalog.commit([draft], run, record)
    return manifest.ref


def ran(step: str, op: str, start: float, stop: float, **more: Any) -> StepRun:
    """The record of a step that ran from one second of the run to another."""
    times = {"started_at": after(start), "ended_at": after(stop), "seconds": stop - start}
    return StepRun(**{"step": step, "op": op, "outcome": "ran", "why": ("it has never run",), **times, **more})


def make_trained(registry: Registry) -> str:
    """Seeds, three samples of each, a training on them, evaluations before and after it, a calibration. Returns the run's id.

    Seed 7 was rejected. Each answer was sampled from a seed by a call; the training saw the answers 0 to 5, answer 0 three times.
    """
    run = registry.catalog.begin_run("demo", {"params": {"limit": 10, "model": "gpt-5-mini"}, "file": "demo.yaml"}, BEGAN)
    seeds = commit(registry, run, "seeds", [{"question": f"Question {n}?"} for n in range(8)])
    tests = commit(registry, run, "tests", [{"question": f"Test {n}?", "answer": str(n)} for n in range(4)])
    answers = commit(
        registry,
        run,
        "answers",
        [{"question": f"Question {n // 3}?", "sample": n % 3, "answer": f"Answer {n}. Because." } for n in range(21)],
        inputs=[seeds],
        edges=[(n, 0, n // 3) for n in range(21)],
        calls=[call(n, n) for n in range(21)],
        rejects=[(0, 7, "the answer is empty")],
        record=ran(
            "answers", "generate", 0.5, 40, rows_in=8, rows_out=21, rejected=1, calls=21, calls_reused=3, tokens_in=2100,
            tokens_out=1050, cost_usd=5.25, waited_for="seeds", notes=("temperature is not sent",),
            by_model={"gpt-5-mini": ModelUsage(calls=21, calls_reused=3, tokens_in=2100, tokens_out=1050, cost_usd=5.25)},
        ),
    )  # fmt: skip
    judged = commit(
        registry,
        run,
        "judged",
        [{"question": f"Question {n // 3}?", "sample": n % 3, "answer": f"Answer {n}. Because.", "score": n % 5} for n in range(21)],
        inputs=[answers],
        edges=[(n, 0, n) for n in range(21)],
        calls=[call(n, 100 + n, role="judge", response=json.dumps({"score": n % 5})) for n in range(21)],
        record=ran(
            "judged", "judge", 5, 60, rows_in=21, rows_out=21, calls=21, tokens_in=2100, tokens_out=1050, cost_usd=2.0,
            waited_for="answers", why=("parameter scale: 3 -> 5", "code judge\n    --- before\n    +++ now\n    -x = 1\n    +x = 2"),
            by_model={"gpt-5-mini": ModelUsage(calls=21, tokens_in=2100, tokens_out=1050, cost_usd=2.0)},
        ),
    )  # fmt: skip
    losses = [Metric(metric="loss", slice=f"step {n}", value=2 / n) for n in range(1, 21)]
    rates = [Metric(metric="learning_rate", slice=f"step {n}", value=1e-4 * (1 - n / 20)) for n in range(1, 21)]
    model = commit(
        registry,
        run,
        "sft",
        [{"base_model": "smollm2", "format": "adapter", "config": json.dumps({"lr": 1e-4, "lora": {"r": 16, "alpha": 32}}),
          "files": [{"name": "adapter.safetensors", "sha256": "0" * 64, "bytes": 1234567}]}],
        inputs=[judged],
        edges=[(0, 0, n) for n in range(6)],
        exposure=[(0, n, 3 if n == 0 else 1) for n in range(6)],
        metrics=[*losses, *rates, Metric(metric="trainable_parameters", value=4096)],
        kind="model",
        record=ran("sft", "train_sft", 60, 100, rows_in=21, rows_out=1, unused=15, waited_for="judged"),
    )  # fmt: skip
    for step, models, share, start in (("before", [], 0.25, 0.5), ("after", [model], 0.75, 100)):
        metrics = [
            Metric(metric=f"accuracy{suffix}", slice=part, value=value)
            for part in ("", "algebra")
            for suffix, value in (("", share), ("_ci_low", share - 0.2), ("_ci_high", share + 0.2))
        ]
        commit(
            registry,
            run,
            step,
            [{"question": f"Test {n}?", "verdict": "correct" if n / 4 < share else "wrong"} for n in range(4)],
            inputs=[tests],
            models=models,
            edges=[(n, 0, n) for n in range(4)],
            metrics=metrics,
            record=ran(step, "evaluate", start, start + 10, rows_in=4, rows_out=4, waited_for="sft" if models else "tests"),
        )
    curves = [
        Metric(metric=f"{method}ecr{suffix}", slice=f"alpha={alpha}", value=value + off)
        for method, off in (("", 0.0), ("first_k_", -0.05))
        for alpha in (0.1, 0.2, 0.3)
        for suffix, value in (("", 1 - alpha + 0.02), ("_ci_low", 0.95 - alpha), ("_ci_high", 1.07 - alpha))
    ]
    around = [
        Metric(metric=f"ecr{suffix}", slice=f"alpha={alpha}", value=1 - alpha + off)
        for alpha in (0.1, 0.2, 0.3)
        for suffix, off in (("_target", 0.0), ("_band_low", -0.06), ("_band_high", 0.06))
    ]
    sizes = [Metric(metric="apss", slice=f"alpha={alpha}", value=3 - 5 * alpha) for alpha in (0.1, 0.2, 0.3)]
    commit(
        registry,
        run,
        "calibrated",
        [{"equivalence": "qa", "smallest_alpha": 0.08, "thresholds": [{"alpha": 0.1, "threshold": -0.4}]}],
        inputs=[judged],
        edges=[(0, 0, n) for n in range(21)],
        metrics=[*curves, *around, *sizes, Metric(metric="smallest_alpha", value=0.08)],
        kind="calibration",
        record=ran("calibrated", "calibrate", 60, 62, rows_in=21, rows_out=1, waited_for="judged"),
    )
    names = ("seeds", "tests", "answers", "judged", "sft", "before", "after", "calibrated")
    registry.catalog.end_run(run, "succeeded", refs={f"demo/{each}": 1 for each in names})
    return run


def make_hostile(registry: Registry) -> str:
    """Names, rows, reasons and errors with markup, control characters, and a million characters. Returns the run's id."""
    name = "bad/<img src=x>/a..b".replace("..", ".")
    run = registry.catalog.begin_run("bad", {"params": {"x": HOSTILE, "long": "y" * 100_000}, "file": "<b>.yaml"}, BEGAN)
    seed = commit(
        registry,
        run,
        "seed",
        [{"<i>text</i>": HOSTILE, "long": "x" * 1_000_000, "rtl": "\u05e9\u05dc\u05d5\u05dd"}],
        pipeline="bad",
        name=name,
    )
    commit(
        registry,
        run,
        "<u>step</u>",
        [{"<i>text</i>": HOSTILE * 2, "long": "x" * 1_000_000}],
        inputs=[seed],
        edges=[(0, 0, 0)],
        calls=[call(0, 1, model=HOSTILE, response=HOSTILE, reasoning="z" * 1_000_000, prompt="not JSON <b>", role="<b>")],
        rejects=[(0, 0, HOSTILE), (0, 0, "r" * 100_000)],
        metrics=[Metric(metric="<b>m</b>", slice=f"{HOSTILE} {n}", value=n) for n in range(3)] + [Metric(metric="inf", value=float("inf"))],
        pipeline="bad",
        name="bad/<u>step</u>",
        record=ran("<u>step</u>", "<s>op</s>", 0, 1, rows_in=1, rows_out=1, why=(HOSTILE,), notes=(HOSTILE,), waited_for="<b>"),
    )  # fmt: skip
    (registry.catalog.runs.folder / f"{run}.log").write_text(f"{HOSTILE}\n" * 3)
    registry.catalog.end_run(run, "failed", HOSTILE)
    return run
