"""On a cluster, every node does its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
os.environ["ENGINE_RAY_ADDRESS"] = cluster.address
sys.argv = ["engine", "run", "p.yaml", "--json"]
from engine.cli import main
try:
    main()
finally:
    cluster.shutdown()
"""


def test_two_nodes_both_do_work_and_one_lineage_comes_out(workdir: Path) -> None:
    rows = "".join(json.dumps({"text": str(number)}) + "\n" for number in range(8 * 1024))
    (workdir / "words.jsonl").write_text(rows)
    (workdir / "p.yaml").write_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}},"
        " steps: {where: {op: where, in: words, resources: {num_cpus: 1, workers: 2}}}}"
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=workdir, env=os.environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"][0]["rows_out"] == 8 * 1024

    from registry import Registry

    with Registry(workdir / ".engine").session() as session:
        nodes = session.ask('select text, count(*) from "demo/where" group by text').rows
        edges = session.ask("select count(*), sum(child_row = parent_row) from row_lineage").rows
    assert len(nodes) == 2
    assert sum(count for _, count in nodes) == 8 * 1024
    assert edges == [(8 * 1024, 8 * 1024)]
