"""The files that show how far workers are do not outlive their run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.jobs.heartbeat import Heartbeat, read_heartbeats
from registry import Registry
from tests.engine.run_pipelines import run_text, words
from tests.engine.running.scripted import Scripted

PIPELINE = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {loud: {op: shout, in: words}}}"


def heartbeats(registry: Registry) -> list[Path]:
    return sorted(registry.receipts.glob("*/*.heartbeat*"))


def test_files_of_a_crashed_run_are_removed_and_those_of_an_active_run_stay(registry: Registry) -> None:
    words("a")
    assert run_text(PIPELINE, registry, cluster=Scripted(lambda count: 0)).state == "succeeded"
    assert heartbeats(registry) == []
    [folder] = registry.receipts.iterdir()
    for owner in ("crashed.loud", "alive.loud"):
        Heartbeat(folder, owner).row_done()
    (folder / "crashed.loud.host-2.heartbeat.tmp").write_text("[1")
    long_ago = time.time() - 7200
    for file in folder.glob("crashed.*"):
        os.utime(file, (long_ago, long_ago))
    assert run_text(PIPELINE, registry, cluster=Scripted(lambda count: 0), force="loud").state == "succeeded"
    assert [file.name.partition(".")[0] for file in heartbeats(registry)] == ["alive"]
    assert read_heartbeats(folder, "alive.loud").done == 1
