"""Whole runs against a counting server: limits are per model, rejects can be retried, runs share their answers."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.pipeline.check import check
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words


def pipeline(models: str, steps: str = "asked: {op: ask_once, in: words}", name: str = "demo") -> str:
    """A pipeline over words.jsonl with a teacher."""
    return (
        f"{{name: {name}, datasets: {{words: {{type: Word, path: words.jsonl}}}}, models: {{teacher: {models}}}, "
        f"steps: {{{steps}}}}}"
    )


TWO_WORKERS = "asked: {op: ask_once, in: words, resources: {workers: 2, num_cpus: 0.5}}"


@pytest.mark.usefixtures("ray_session")
def test_workers_share_the_limits_of_a_model(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number % 90) for number in range(100)])
    chat_server.latency = 0.05
    model = chat_server.model(limits={"concurrency": 6})
    result = run_text(pipeline(model, TWO_WORKERS), registry)
    assert result.state == "succeeded"
    assert chat_server.most_in_flight == 6
    # Rows in different workers that ask the same question share a call, too.
    assert Counter(chat_server.prompts) == Counter({f"Say {number}": 1 for number in range(90)})
    assert texts(registry, "demo/asked") == [f"You said: Say {number % 90}" for number in range(100)]


@pytest.mark.usefixtures("ray_session")
def test_a_budget_holds_over_all_workers(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(64)])
    model = chat_server.model(max_calls=10)
    result = run_text(pipeline(model, TWO_WORKERS), registry)
    assert result.error
    assert "max_calls 10 of model test-model is used up" in result.error
    assert len(chat_server.requests) == 10
    assert ask(registry, "select calls from step_runs") == [(10,)]
    assert run_text(pipeline(chat_server.model(), TWO_WORKERS), registry).state == "succeeded"
    assert len(chat_server.requests) == 64


@pytest.mark.usefixtures("ray_session")
def test_calls_of_all_steps_of_a_run_count(registry: Registry, chat_server: ChatServer) -> None:
    words(*"abcd")
    steps = "first: {op: ask_once, in: words}, second: {op: ask_once, in: first}"
    result = run_text(pipeline(chat_server.model(max_calls=6), steps), registry)
    assert outcomes(result) == {"first": "ran", "second": "failed"}
    assert len(chat_server.requests) == 6
    assert run_text(pipeline(chat_server.model(max_calls=2), steps), registry).state == "succeeded"
    assert len(chat_server.requests) == 8


@pytest.mark.usefixtures("in_process")
def test_poison_rows_are_rejected_and_only_they_are_requested_again(registry: Registry, chat_server: ChatServer) -> None:
    poison = {3, 250, 251, 700, 999}
    words(*[str(number) for number in range(1000)])
    chat_server.answer = lambda prompt, seen: error(400, "poison") if int(prompt.split()[1]) in poison else prompt
    text = pipeline(chat_server.model())
    assert run_text(text, registry).state == "succeeded"
    assert len(texts(registry, "demo/asked")) == 995
    assert {row for row, _ in ask(registry, "select parent_row, reason from rejects")} == poison
    assert len(chat_server.requests) == 1000

    assert outcomes(run_text(text, registry)) == {"asked": "hit"}
    assert len(chat_server.requests) == 1000
    # The rows are still poisoned: they are requested again, and the version stays the same.
    run_text(text, registry, retry_rejects=True)
    assert len(chat_server.requests) == 1005
    assert ask(registry, "select max(version) from versions where name = 'demo/asked'") == [(1,)]
    # All but one are cured.
    chat_server.answer = lambda prompt, seen: error(400, "poison") if prompt == "Say 3" else prompt
    result = run_text(text, registry, retry_rejects=True)
    assert {int(prompt.split()[1]) for prompt in chat_server.prompts[1005:]} == poison
    assert (result.steps[0].record.rows_out, result.steps[0].record.rejected, result.steps[0].record.calls) == (999, 1, 4)
    assert texts(registry, "demo/asked") == [f"Say {number}" for number in range(1000) if number != 3]
    assert len(texts(registry, "demo/asked@1")) == 995


@pytest.mark.usefixtures("in_process")
def test_answers_that_caused_a_reject_are_requested_again(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b", "c")
    chat_server.answer = lambda prompt, seen: "no number" if prompt.endswith("b") and seen == 0 else "7"
    text = pipeline(chat_server.model(), "n: {op: number_of, in: words, max_reject_ratio: 0.5}")
    run_text(text, registry)
    assert ask(registry, "select parent_row, reason from rejects") == [(1, "'no number' is no number")]
    run_text(text, registry, retry_rejects=True)
    assert len(chat_server.requests) == 4
    assert texts(registry, "demo/n") == ["7", "7", "7"]
    calls = "select row, response from llm_calls where name = 'demo/n' and version = 2 order by all"
    assert ask(registry, calls) == [(0, "7"), (1, "7"), (2, "7"), (None, "no number")]
    # The new answer has taken the place of the old one.
    run_text(text, registry, force="n")
    assert len(chat_server.requests) == 4
    assert texts(registry, "demo/n") == ["7", "7", "7"]


@pytest.mark.usefixtures("in_process")
def test_an_empty_answer_counts(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    chat_server.answer = lambda prompt, seen: "" if prompt.endswith("b") else "fine"
    text = pipeline(chat_server.model(price={"output": 1_000_000}), "asked: {op: ask_once, in: words, max_reject_ratio: 0.5}")
    run_text(text, registry)
    assert ask(registry, "select calls, tokens_out, cost_usd, rejected from step_runs") == [(2, 10, 10.0, 1)]
    assert ask(registry, "select row, response from llm_calls order by all") == [(0, "fine"), (None, "")]


@pytest.mark.usefixtures("ray_session")
def test_two_runs_at_once_make_one_version_and_send_each_request_once(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(60)])
    chat_server.latency = 0.02
    Path("p.yaml").write_text(pipeline(chat_server.model(limits={"concurrency": 4})))
    quiet = PlainProgress(Console(quiet=True))
    with ThreadPoolExecutor() as threads:
        made = [threads.submit(run, check(Path("p.yaml")), registry, quiet, select=set(), force=set()) for _ in range(2)]
        results = [each.result() for each in made]
    assert [result.state for result in results] == ["succeeded", "succeeded"]
    # The other run finds the finished rows. If they are not committed yet, it commits the same version first.
    assert sorted(outcomes(result)["asked"] for result in results) in (["hit", "ran"], ["ran", "resumed"])
    assert len(chat_server.requests) == 60
    assert ask(registry, "select calls from step_runs order by calls") == [(0,), (60,)]
    assert ask(registry, "select version from versions where name = 'demo/asked'") == [(1,)]


@pytest.mark.usefixtures("in_process")
def test_missing_capabilities_are_in_the_summary(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    chat_server.reply = lambda body: completion("x")  # one answer, whatever `n` says
    result = run_text(pipeline(chat_server.model(), "s: {op: three_of, in: words}"), registry)
    [note] = result.steps[0].notes
    assert "does not support `n`" in note
    assert len(chat_server.requests) == 3


@pytest.mark.usefixtures("in_process")
def test_numbers_as_text_stay_text(registry: Registry, chat_server: ChatServer) -> None:
    words("00001", "1e5", "007", "1.0")
    text = pipeline(chat_server.model())
    run_text(text, registry)
    assert texts(registry, "demo/words") == ["00001", "1e5", "007", "1.0"]
    assert outcomes(run_text(text, registry)) == {"asked": "hit"}
    assert len(chat_server.requests) == 4
