"""The shipped pipelines against ten servers, each of which behaves like a real one (tests/server_manners.py): no row is rejected
because a server refuses a parameter, and everything that a server returns besides its answers is kept.

The server answers for all chat models of a pipeline, with the pipeline's own sampling. Steps that train are left out, because they
call no model. `make test` runs two pipelines on each server, `make soak` all on all.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import pipelines
from engine.cli.progress import PlainProgress
from engine.packages.local_modules import use_local_modules
from engine.pipeline.check import check
from engine.running.result import RunResult
from engine.running.run import run
from operators.math.occupations import OCCUPATIONS
from registry import Registry
from tests.e2e import test_dialectical, test_lofreecp, test_personamath, test_recipes
from tests.engine import run_pipelines
from tests.engine.run_pipelines import ask
from tests.server_manners import MANNERS, THOUGHT, Answer, Manner, MannerServer

FILES = Path(pipelines.__file__).parent
AT_ONCE = 4
HASTE = {"limits": {"concurrency": AT_ONCE}, "retries": 0}
KEY = "OPENAI_API_KEY"


def sums(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """Solves `4 - 1` and the like; retells a problem with its numbers; knows an occupation."""
    if schema:
        return {name: about.get("enum", OCCUPATIONS)[0] for name, about in schema["properties"].items()}
    if persona := re.findall(r"Person: (.*)", prompt):
        return f"{persona[-1][:40]} wonders: {prompt.rpartition('Problem: ')[2].partition(chr(10))[0]}"
    problem = prompt.rpartition("Problem: ")[2].replace("(", "").replace(")", "")
    found = re.search(r"(-?\d+)\s*([-+*/])\s*(-?\d+)", problem)
    first, sign, second = found.groups() if found else ("1", "+", "1")
    a, b = int(first), int(second)
    return f"It is \\boxed{{{ {'+': a + b, '-': a - b, '*': a * b}.get(sign, 1) }}}."


def personas(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """PersonaMath's teacher, and its student."""
    return {"occupation": OCCUPATIONS[0]} if schema else test_personamath.teacher(prompt, number)


def conflicts(prompt: str, schema: dict[str, Any], number: int) -> str:
    """The policy, the judge and the reviser of Dialectical Alignment."""
    return test_dialectical.answers(prompt, number)


def codes(prompt: str, schema: dict[str, Any], number: int) -> str:
    """Often right, and different from sample to sample."""
    code = re.search(r"code of (\w+)\?", prompt)
    return f"code {code[1] if code and number % 3 else number}"


def capitals(prompt: str, schema: dict[str, Any], number: int) -> str:
    """One of two answers."""
    return f"{'Rome' if number % 2 else 'Paris'} is the capital of the country."


PIPELINES: dict[str, tuple[Answer, dict[str, Any]]] = {
    # pipeline -> who answers, parameters that keep it small
    "quickstart": (sums, {"problems": 6}),
    "personamath-mini": (sums, {"problems": 6, "test": 4}),
    "personamath": (personas, {"train": "train.jsonl", "test": "test.jsonl", "k1": 1, "k2": 1}),
    "dialectical-mini": (capitals, {"items": 4, "test": 4}),
    "dialectical": (
        conflicts,
        {"items": "items.json", "facts": "facts.jsonl", "test": "test.json", "test_facts": "facts.jsonl"},
    ),
    "lofreecp-mini": (capitals, {"questions": 30, "new": 6, "samples": 4}),
    "lofreecp": (codes, {"questions": "questions.jsonl", "samples": 12}),
    "lofreecp-predict": (codes, {"questions": "questions.jsonl", "samples": 12}),
    **{f"recipes/{name}": (answer, {}) for name, (answer, _, _) in test_recipes.RESULTS.items()},
}
SAMPLE = ("recipes/judge-and-filter", "quickstart")
"""Several votes with a schema; a temperature, top_p, stop, and examples in the prompt."""


def write_data(folder: Path) -> None:
    """The files that users bring along."""
    pens = [test_personamath.problem(a, b) for a, b in ((31, 4), (7, 15), (50, 41), (61, 8))]
    items = {name: test_dialectical.items(*countries) for name, countries in (("items", ["Ardia"]), ("test", ["Cadmor"]))}
    facts = [{"id": name, "passage": f"It is {right}."} for name, (right, _) in test_dialectical.CITIES.items()]
    lines = {"train": pens[:3], "test": pens[3:], "facts": facts}
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, document in items.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    test_lofreecp.questions(str(folder / "questions.jsonl"), *(f"N{number}" for number in range(40)))


def behind(server: MannerServer, name: str, params: dict[str, Any]) -> Path:
    """A copy of a shipped pipeline in which the server answers for all chat models."""
    file = Path("pipelines") / f"{name}.yaml"
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    for role, model in document["models"].items():
        if model["provider"] != "sentence-transformers":
            named = server.manner.model if model["provider"] == "openai" else role
            kept = {each: value for each, value in model.items() if each not in ("provider", "base_url", "api_key_env")}
            document["models"][role] = kept | server.model(KEY) | {"model": named, **HASTE}
    document["steps"] = {each: step for each, step in document["steps"].items() if not step["op"].startswith("train_")}
    if not server.manner.has_logprobs or any(refusal.name == "logprobs" for refusal in server.manner.refuses):
        for step in document["steps"].values():
            if "logprobs" in step.get("with", {}):
                step["with"]["logprobs"] = False
    document.setdefault("params", {}).update(params)
    file.write_text(json.dumps(document))
    return file


def run_behind(server: MannerServer, registry: Registry, name: str, params: dict[str, Any]) -> RunResult:
    """Run a shipped pipeline on the server."""
    try:
        file = behind(server, name, params)
        if registry.exists:
            with registry.look_ups() as look_ups:
                pipeline = check(file, [], look_ups, keys=True)
        else:
            pipeline = check(file, [], keys=True)
        executor = run_pipelines.new_cluster(registry.location)
        return run(pipeline, registry, PlainProgress(Console(quiet=True)), select=set(), force=set(), cluster=executor)
    finally:
        use_local_modules(())


def check_answers(manner: Manner, registry: Registry) -> None:
    """Everything that the server returns besides its answers is in the journal."""
    columns = "reasoning, tokens_reasoning, tokens_cached, tokens_out, finish_reason"
    known = ask(registry, f"select {columns} from (select distinct call_id, {columns} from llm_calls)")
    assert known
    assert {reasoning for reasoning, *_ in known} == {THOUGHT if manner.shows_thought else None}
    assert all((thought > 0) == manner.counts_thought for _, thought, *_ in known)
    assert any(cached > 0 for _, _, cached, *_ in known) == manner.counts_cached
    # Answer and reasoning, as they are billed. Samples in one response share the tokens by their length.
    assert sum(tokens for _, _, _, tokens, _ in known) == len(known) * manner.usage(0, 5, 7, 0)["total_tokens"]
    assert {reason for *_, reason in known} == {"stop"}


def check_run(name: str, manner: Manner, registry: Registry) -> None:
    """Run a pipeline on a server that behaves in this manner. See the module."""
    answer, params = PIPELINES[name]
    shutil.copytree(FILES, "pipelines")
    write_data(Path("pipelines"))
    with MannerServer(manner, answer) as server:
        if name == "lofreecp-predict":  # it begins with a calibration
            assert run_behind(server, registry, "lofreecp", PIPELINES["lofreecp"][1]).state == "succeeded"
        result = run_behind(server, registry, name, params)
        assert result.state == "succeeded", result.error
        assert ask(registry, "select name, reason from rejects") == []
        assert server.requests
        # Each request in flight may meet a refusal once, or twice if one refusal hides another.
        assert all(count <= 2 * AT_ONCE for count in server.refused.values()), server.refused
    check_answers(manner, registry)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("manner", MANNERS)
def test_a_pipeline_runs_on_servers_of_all_manners(
    manner: str, name: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "not-a-real-key")
    check_run(name, MANNERS[manner], registry)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", sorted(PIPELINES.keys() - {*SAMPLE}))
@pytest.mark.parametrize("manner", MANNERS)
def test_all_pipelines_run_on_servers_of_all_manners(
    manner: str, name: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "not-a-real-key")
    check_run(name, MANNERS[manner], registry)


def test_the_table_has_all_shipped_pipelines() -> None:
    assert PIPELINES.keys() == {str(file.relative_to(FILES).with_suffix("")) for file in FILES.rglob("*.yaml")}
    assert len(MANNERS) == 10
