"""On a cluster, every node does part of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer

pytestmark = pytest.mark.ray

SCRIPT = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
os.environ["ENGINE_RAY_ADDRESS"] = cluster.address
from engine.cli import main
try:
    for options in sys.argv[1:]:
        sys.argv = ["engine", "run", "p.yaml", "--json", *options.split()]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
        print(end="\\0", flush=True)
finally:
    cluster.shutdown()
"""


def run_on_two_nodes(workdir: Path, *runs: str) -> list[dict[str, Any]]:
    """`engine run p.yaml`, once with each of these options, on a cluster of two nodes, each with one CPU."""
    command = [sys.executable, "-c", SCRIPT, *runs]
    done = subprocess.run(command, cwd=workdir, env=os.environ, capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(summary) for summary in done.stdout.split("\0")[:-1]]


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_two_nodes_share_the_work_and_give_one_lineage(workdir: Path) -> None:
    rows = "".join(json.dumps({"text": str(number)}) + "\n" for number in range(8 * 1024))
    (workdir / "words.jsonl").write_text(rows)
    (workdir / "p.yaml").write_text(
        "{name: demo, datasets: {words: {type: Word, path: words.jsonl}},"
        " steps: {where: {op: where, in: words, resources: {num_cpus: 1, workers: 2}}}}"
    )
    [summary] = run_on_two_nodes(workdir, "")
    assert summary["steps"][0]["rows_out"] == 8 * 1024
    with Registry(workdir / ".engine").session() as session:
        nodes = session.ask('select text, count(*) from "demo/where" group by text').rows
        edges = session.ask("select count(*), sum(child_row = parent_row) from row_lineage").rows
    assert len(nodes) == 2
    assert sum(count for _, count in nodes) == 8 * 1024
    assert edges == [(8 * 1024, 8 * 1024)]


@pytest.mark.timeout(400)
def test_two_nodes_share_one_journal_and_one_set_of_limits(workdir: Path, chat_server: ChatServer) -> None:
    """The journal's file is opened only on the driver's node; the other node reaches it through an actor."""
    (workdir / "words.jsonl").write_text("".join(json.dumps({"text": str(number % 150)}) + "\n" for number in range(200)))
    model = chat_server.model(limits={"concurrency": 6})
    (workdir / "p.yaml").write_text(
        f"{{name: demo, models: {{teacher: {model}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}},"
        " steps: {asked: {op: ask_where, in: words, resources: {num_cpus: 1, workers: 2}}}}"
    )
    chat_server.latency = 0.05
    first, again = run_on_two_nodes(workdir, "", "--force asked")
    assert first["steps"][0]["rows_out"] == 200
    assert chat_server.most_in_flight == 6
    assert len(chat_server.requests) == len(set(chat_server.prompts)) == 150
    with Registry(workdir / ".engine").session() as session:
        nodes = session.ask("select split_part(text, ' ', 1) as node, count(*) from \"demo/asked@1\" group by 1").rows
    assert len(nodes) == 2
    # All answers were there for the next run.
    assert again["steps"][0]["calls_reused"] == 200
