"""vLLM, started by the engine.

* An adapter that a step trains, with samples, log-probabilities, structured answers and seeds, on two replicas, one of which is
  killed in the middle of the run.
* Two adapters on one server, and their base model on another.
* An adapter that is trained while the server of another one runs, which loads it for the engine and for nobody else.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.llm.journal.answers import Journal
from engine.serving.command_line import Listen
from engine.serving.health import ask as ask_server
from registry import Registry
from tests.engine.run_pipelines import ask, texts, words
from tests.vllm_environment import vllm_python

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]

WORDS = 40


def pipeline(name: str, **serve: Any) -> str:
    """An adapter on the embedded model, trained by one step and asked by four others."""
    own = {"engine": "vllm", "python": vllm_python(), "args": {"max-model-len": 1024, "enforce-eager": True}}
    own |= {"env": {"VLLM_CPU_KVCACHE_SPACE": "1"}, **serve}
    tuned = {"provider": "openai", "model": "step:sft", "max_tokens": 64, "seed": 5, "limits": {"concurrency": 8}}
    asked = {"in": "words", "models": {"teacher": "tuned"}, "max_reject_ratio": 0.2}
    with_lora = {"max_length": 128, "max_steps": 2, "lora": {"r": 4}}
    document = {
        "name": name,
        "models": {"student": {"provider": "transformers", "model": "smollm2-135m-instruct"}, "tuned": tuned | {"serve": own}},
        "datasets": {"rows": {"type": "SFTExample", "path": "rows.jsonl"}, "words": {"type": "Word", "path": "words.jsonl"}},
        "steps": {
            "sft": {"op": "train_sft", "in": "rows", "with": with_lora},
            "samples": {"op": "three_of", **asked},
            "sure": {"op": "sure", **asked},
            "structured": {"op": "guessed", **asked},
            "once": {"op": "ask_once", **asked},
        },
    }
    return json.dumps(document)


def servers(driver: psutil.Process) -> list[psutil.Process]:
    """The servers below a run."""
    return [each for each in driver.children(recursive=True) if {"serve", "--enable-lora"} <= set(each.cmdline())]


def answers(registry: Registry) -> int:
    """The number of answers in the journal."""
    with closing(sqlite3.connect(registry.journal / "answers.sqlite")) as journal:
        [(count,)] = journal.execute("select count(*) from answers")
    return int(count)


def test_an_adapter_on_two_servers_one_of_which_is_killed(registry: Registry) -> None:
    turns = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "yes"}]}
    Path("rows.jsonl").write_text("".join(json.dumps(turns) + "\n" for _ in range(8)))
    words(*[f"word {number}" for number in range(WORDS)])
    Path("p.yaml").write_text(pipeline("soak", replicas=2))
    Journal(registry.journal).close()  # so that it can be read before the run opens it
    with Path("run.log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", "p.yaml"], stdout=log, stderr=log)
    driver, seen = psutil.Process(run.pid), set[psutil.Process]()
    # While it answers.
    while Path("run.log").read_text().count(" is ready after ") < 2 or answers(registry) < WORDS // 4:
        assert run.poll() is None, Path("run.log").read_text()
        time.sleep(0.2)
    every = driver.children(recursive=True)
    # Each server has a guard process, whose command line contains that of the server.
    victims = [each for each in servers(driver) if "guard.py" not in " ".join(each.cmdline())]
    seen |= {*every}
    victims[0].kill()
    assert run.wait(1500) == 0, Path("run.log").read_text()
    told = Path("run.log").read_text()
    assert "died (signal 9 ended it) and is restarted; its calls in flight are sent again" in told
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in seen)

    assert len(texts(registry, "soak/samples@1")) == 3 * WORDS
    assert all(float(text) <= 0 for text in texts(registry, "soak/sure@1"))
    assert len(texts(registry, "soak/structured@1")) >= 0.8 * WORDS
    [(calls, keys)] = ask(registry, "select count(*), count(distinct call_id) from llm_calls where name like 'soak/once%'")
    assert calls == keys == WORDS

    # With other resources, and one replica: nothing is requested again.
    Path("p.yaml").write_text(pipeline("soak", num_cpus=1, start_timeout=1))
    again = subprocess.run([sys.executable, "-m", "engine.cli", "run", "p.yaml"], capture_output=True, text=True, check=True)
    assert again.stderr.count(": hit: ") == 5


def test_two_adapters_share_a_server_that_does_not_answer_for_their_base(registry: Registry) -> None:
    words("one", "two")
    steps: dict[str, dict[str, Any]] = {}
    for name in ("yes", "no"):
        turns = {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": f"{name} " * 20}],
        }
        Path(f"{name}.jsonl").write_text("".join(json.dumps(turns) + "\n" for _ in range(8)))
        lora = {"r": 4 if name == "yes" else 16}
        with_lora = {"max_length": 128, "max_steps": 8, "learning_rate": 0.005, "lora": lora}
        steps[name] = {"op": "train_sft", "in": f"{name}_rows", "with": with_lora}
    document: dict[str, Any] = {
        "name": "made",
        "models": {"student": {"provider": "transformers", "model": "smollm2-135m-instruct"}},
        "datasets": {f"{name}_rows": {"type": "SFTExample", "path": f"{name}.jsonl"} for name in steps},
        "steps": steps,
    }
    Path("made.yaml").write_text(json.dumps(document))
    command = [sys.executable, "-m", "engine.cli", "run"]
    subprocess.run([*command, "made.yaml"], check=True)

    serve = {"engine": "vllm", "python": vllm_python(), "args": {"max-model-len": 512, "enforce-eager": True}}
    serve |= {"env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    weights = {"yes": "registry:made/yes@1", "no": "registry:made/no@1", "plain": "smollm2-135m-instruct"}
    own = {"provider": "openai", "max_tokens": 16, "temperature": 0, "serve": serve}
    document = {
        "name": "asked",
        "models": {name: {**own, "model": place} for name, place in weights.items()},
        "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
        "steps": {name: {"op": "ask_once", "in": "words", "models": {"teacher": name}} for name in weights},
    }
    Path("asked.yaml").write_text(json.dumps(document))
    run = subprocess.run([*command, "asked.yaml"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = run.stdout + run.stderr
    assert told.count(" is ready after ") == 2, told
    assert "the server of models 'yes', 'no' is ready after" in told, told
    said = {name: " ".join(texts(registry, f"asked/{name}@1")) for name in weights}
    assert "yes yes" in said["yes"]
    assert "no no" in said["no"]
    assert "yes yes" not in said["plain"]
    assert "no no" not in said["plain"]


def test_an_adapter_that_is_trained_later_is_loaded_by_the_process_that_runs(registry: Registry) -> None:
    words("one", "two", "three", "four", "five", "six", "seven", "eight")
    serve = {"engine": "vllm", "python": vllm_python(), "args": {"max-model-len": 512, "enforce-eager": True}}
    serve |= {"env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    own = {"provider": "openai", "max_tokens": 16, "temperature": 0, "serve": serve}
    training = {"max_length": 128, "max_steps": 8, "learning_rate": 0.005}
    document = {
        "name": "demo",
        "models": {
            "student": {"provider": "transformers", "model": "smollm2-135m-instruct"},
            "a": {**own, "model": "step:sft_a"},
            "b": {**own, "model": "step:sft_b"},
        },
        "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
        "steps": {
            "rows_a": {"op": "lesson", "in": "words", "with": {"says": "yes"}},
            "sft_a": {"op": "train_sft", "in": "rows_a", "with": {**training, "lora": {"r": 4}}},
            "ask_a": {"op": "ask_once", "in": "words", "models": {"teacher": "a"}},
            # Made from `a`'s answers, so that the server of `a` is running by then.
            "rows_b": {"op": "lesson", "in": "ask_a", "with": {"says": "no"}},
            "sft_b": {"op": "train_sft", "in": "rows_b", "with": {**training, "lora": {"r": 16}}},
            "ask_b": {"op": "ask_once", "in": "words", "models": {"teacher": "b"}},
            "ask_a_again": {"op": "ask_once", "in": "ask_b", "models": {"teacher": "a"}},
        },
    }
    Path("p.yaml").write_text(json.dumps(document))
    with Path("run.log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", "p.yaml"], stdout=log, stderr=log)
    statuses: set[int] = set()
    while run.poll() is None:
        if "is loaded into the server of model 'a'" in Path("run.log").read_text() and not statuses:
            [port] = re.findall(r"is ready after .*:(\d+)/v1", Path("run.log").read_text())
            for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"):
                strange = {"lora_name": "step:sft_a", "lora_path": "/tmp", "name": "step:sft_a", "src": "/tmp"}
                statuses.add(ask_server(Listen("127.0.0.1", int(port)), path, strange)[0])
        time.sleep(0.2)
    told = Path("run.log").read_text()
    assert run.returncode == 0, told
    assert statuses == {403}
    assert told.count(" is ready after ") == 1, told
    assert "ask_b: model 'b' is loaded into the server of model 'a'" in told
    [server_log] = [path.read_text() for path in (registry.root / "runs").glob("*-1.log")]
    assert len(set(re.findall(r"APIServer pid=(\d+)", server_log))) == 1
    assert re.findall(r"Loaded new LoRA adapter: name '([^']*)'", server_log) == ["step:sft_a", "step:sft_b"]
    said = {name: " ".join(texts(registry, f"demo/{name}@1")) for name in ("ask_a", "ask_b", "ask_a_again")}
    assert "yes yes" in said["ask_a"]
    assert "no no" in said["ask_b"]
    assert "yes yes" not in said["ask_b"]
    assert "yes yes" in said["ask_a_again"]
