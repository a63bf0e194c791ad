"""How often `engine compare` calls equal configurations different, and how often it shows a real difference.

`python -m benchmarks.compare` commits the rows of simulated evaluations to a temporary registry: several answers to each of some
source rows, which are easier or harder for both sides, and easier or harder still for one of them. It compares them as the
command does, from lineage to verdict, and prints the shares. It fails unless 5 +- 2 % of 400 comparisons of equal configurations
are called different.
"""

from __future__ import annotations

import sys
import tempfile
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.comparison.compare import compare
from engine.comparison.statistics import paired_difference
from registry import DataObject, Draft, Registry, SideObject, VersionRef
from registry.catalog import side_schemas

TRIALS = 400
SOURCE_ROWS = 60
MOST_ANSWERS = 12
GOAL, MARGIN = 0.05, 0.02
EFFECT = 0.9
"""The difference that is simulated for the power, in log-odds."""


class Shares(NamedTuple):
    """Shares of trials that were called different: as the command does, and if rows were independent."""

    clustered: float
    independent: float
    mean: float


def committed(
    registry: Registry, run: str, name: str, table: pa.Table, source: VersionRef | None, parents: NDArray[np.int64]
) -> VersionRef:
    """A version; its rows were made from these rows of the source."""
    stored = registry.store.put_table(table)
    data = DataObject(sha256=stored.sha256, rows=table.num_rows, bytes=stored.bytes)
    side: tuple[SideObject, ...] = ()
    if source:
        columns = [np.arange(len(parents)), np.zeros(len(parents), np.int16), parents]
        edges = registry.store.put_table(pa.table([pa.array(each) for each in columns], schema=side_schemas.LINEAGE))
        side = (SideObject(kind="lineage", sha256=edges.sha256, rows=len(parents), bytes=edges.bytes),)
    draft = Draft(
        name=name,
        kind="dataset",
        type="Answer",
        fields={"row_number": "int"} if source is None else {"correct": "bool"},
        content_id=stored.sha256,
        pipeline=name.partition("/")[0],
        step=name.rpartition("/")[2],
        op="benchmark",
        output="out",
        step_key=f"{name} {stored.sha256}",
        key_object=data,
        inputs=(source,) if source else (),
        data=(data,),
        side=side,
    )
    [manifest] = registry.catalog.commit([draft], run, None)
    return manifest.ref


def simulate(trials: int, effect: float, seed: int = 0) -> Shares:
    """Compare simulated evaluations, `effect` apart."""
    random = np.random.default_rng(seed)
    clustered = independent = 0
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(f"{folder}/registry")
        run = registry.catalog.begin_run("simulated", {})
        rows = pa.table({"row_number": pa.array(np.arange(SOURCE_ROWS))})
        source = committed(registry, run, "simulated/problems", rows, None, np.empty(0, np.int64))
        for number in range(trials):
            parents = np.repeat(np.arange(SOURCE_ROWS), random.integers(1, MOST_ANSWERS + 1, SOURCE_ROWS))
            ease = random.normal(0.5, 1.5, SOURCE_ROWS)
            refs, values = [], []
            for side, more in (("a", 0.0), ("b", effect)):
                odds = (ease + random.normal(more, 1.0, SOURCE_ROWS))[parents]
                values.append(random.random(len(parents)) < 1 / (1 + np.exp(-odds)))
                table = pa.table({"correct": pa.array(values[-1])})
                refs.append(committed(registry, run, f"simulated/side={side}/eval{number}", table, source, parents))
            [part] = compare(registry, [str(ref) for ref in refs], fields=["correct"]).parts
            [result] = part.results
            assert result.difference.clusters == SOURCE_ROWS
            clustered += result.shown
            differences.append(result.difference.value)
            own = np.arange(len(parents))
            alone = paired_difference(values[0].astype(float), own, values[1].astype(float), own)
            independent += alone.p is not None and alone.p < GOAL
        registry.catalog.end_run(run, "succeeded")
    return Shares(clustered / trials, independent / trials, float(np.mean(differences)))


def main() -> int:
    """Simulate and print."""
    print(f"{TRIALS} comparisons of two evaluations; {SOURCE_ROWS} source rows with 1 to {MOST_ANSWERS} answers each")
    equal, apart = simulate(TRIALS, 0.0), simulate(TRIALS // 4, EFFECT, seed=1)
    good = abs(equal.clustered - GOAL) <= MARGIN
    print(f"equal configurations called different: {equal.clustered:.1%}   (goal 5 +- 2 %){'' if good else '   MISSED'}")
    print(f"  if answers to one source row were taken for independent: {equal.independent:.1%}")
    print(f"a real difference of {apart.mean:+.2f} is shown: {apart.clustered:.0%} of {TRIALS // 4}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
