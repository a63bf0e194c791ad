"""Batches: every request gets its own answer, nothing is requested twice wherever the process dies, failures are classified."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.llm.batches import polling
from engine.llm.batches.provider import BatchProvider
from engine.llm.chat import CallLog, ChatModel, current_log
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.types import model_spec as model_specs
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError, RequestError
from engine.llm.types.row_context import refresh
from registry import Registry
from tests.batch_server import BatchServer, killed, looked, model_spec, request, start, until
from tests.engine.run_pipelines import run_text, texts, words
from tests.in_process import InProcess
from tests.message_batch_server import MessageBatchServer
from tests.processes import kill_tree

PROMPTS = [f"q{number}" for number in range(10)]
SAID = [f"You said: {prompt}" for prompt in PROMPTS]
Make = Callable[..., BatchProvider]


SERVERS = {"openai": BatchServer, "anthropic": MessageBatchServer}
OPENAI = pytest.mark.parametrize("server", ["openai"], indirect=True)
ANTHROPIC = pytest.mark.parametrize("server", ["anthropic"], indirect=True)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[BatchServer]:
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
async def make(server: BatchServer, journal: Journal) -> AsyncIterator[Make]:
    """Makes providers, like those of several processes or of restarts of one; all share one journal."""
    made = []

    def make(**spec: Any) -> BatchProvider:
        made.append(BatchProvider(model_spec(server, **spec), journal))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def ask(provider: BatchProvider, server: BatchServer, *prompts: str) -> list[str]:
    """The answers to prompts that are sent at the same time."""
    spec = provider._spec
    shared = ModelClient(spec, spec.model, provider._answers, Governor(spec), lambda: provider)
    done = await asyncio.gather(*[shared.answer([request(server, prompt)]) for prompt in prompts])
    return [answer.completion.text for [answer] in done]


async def test_many_requests_are_one_batch_and_each_has_its_answer(make: Make, server: BatchServer, journal: Journal) -> None:
    assert await ask(make(), server, *PROMPTS) == SAID
    assert (len(server.batches), server.counts["create"]) == (1, 1)
    assert journal.count() == len(PROMPTS)
    assert await journal.notes("") == {}
    kept = await journal.get(request(server, "q3").key)
    assert kept
    assert kept.model_copy(update={"served_by": ""}) == Completion(text="You said: q3", tokens_in=10, tokens_out=5)


async def test_a_model_sends_batches_and_the_journal_makes_the_second_time_free(
    make: Make, server: BatchServer, journal: Journal
) -> None:
    current_log.set(CallLog())
    spec = model_spec(server, price={"input": 1000})
    server.answer = lambda prompt, seen: f"{prompt} {seen}"
    for _ in range(2):
        shared = ModelClient(spec, spec.model, journal, Governor(spec), lambda: BatchProvider(spec, journal))
        chat = ChatModel("teacher", shared)
        answers = await asyncio.gather(*[chat.samples(prompt, 3) for prompt in PROMPTS])
        await shared.close()
        assert [{answer.text for answer in three} for three in answers] == [
            {f"{prompt} {seen}" for seen in range(3)} for prompt in PROMPTS
        ]
    assert len(server.batches) == 1
    assert server.asked.total() == 30
    assert {call.cost_usd for call in current_log.get().calls} == {0.005}


@pytest.mark.parametrize("limit", ["requests", "bytes"])
async def test_too_many_requests_for_one_batch_go_into_several(
    make: Make, server: BatchServer, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make()
    line = provider._service.line(request(server, "q1"), KnownCapabilities())
    if limit == "requests":
        monkeypatch.setitem(model_specs._MOST_IN_BATCH, provider._spec.provider, 4)
    else:
        monkeypatch.setattr(provider._service, "most_bytes", 4 * len(line) + 9, raising=True)
    assert await ask(provider, server, *PROMPTS) == SAID
    assert sorted(len(server.lines(each)) for each in server.batches.values()) == [2, 4, 4]


@OPENAI
async def test_log_probabilities_arrive_even_if_the_requesting_row_is_gone(
    make: Make, server: BatchServer, journal: Journal
) -> None:
    server.hold = True
    first = make()
    asked = request(server, "q", logprobs=0)
    waiting = asyncio.create_task(first.complete([asked]))
    await until(lambda: server.counts["look"])
    await first.close()
    await asyncio.wait([waiting])
    server.hold = False
    [answer] = await make().complete([asked])
    assert answer.logprobs
    assert len(server.batches) == 1


# -- dying -----------------------------------------------------------------------------------------------------------


MOMENTS = [
    "list: hang",
    "upload: hang",
    "upload: after hang",
    "at the intent",
    "create: hang",
    "create: after hang",
    "while out",
]
MOMENTS += ["content: hang", "at the end"]


@pytest.mark.proof
@pytest.mark.parametrize("when", MOMENTS)
async def test_a_killed_process_costs_nothing(make: Make, server: BatchServer, journal: Journal, when: str) -> None:
    if when.partition(":")[0] == ("list" if server.provider == "openai" else "upload"):
        pytest.skip("this API is not asked for that")
    server.hold = when == "while out"
    await asyncio.to_thread(killed, server, journal.file.parent, when)
    server.hold = False
    server.add_noise(250)
    assert await ask(make(), server, *PROMPTS) == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    if when == "at the end":  # all answers are there, so only the next question finds the rest of the batch
        await ask(make(), server, "another")
        assert server.asked == dict.fromkeys([*PROMPTS, "another"], 1)
    assert await journal.notes("") == {}


@pytest.mark.proof
async def test_several_successors_of_a_killed_process_create_one_batch(
    make: Make, server: BatchServer, journal: Journal
) -> None:
    await asyncio.to_thread(killed, server, journal.file.parent, "create: hang")
    processes = [start(server, journal.file.parent) for _ in range(2)]
    here = [ask(make(), server, *PROMPTS) for _ in range(3)]
    assert await asyncio.gather(*here) == [SAID] * 3
    assert [await asyncio.to_thread(process.wait, 30) for process in processes] == [0, 0]
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    assert await journal.notes("") == {}


async def test_a_claim_of_another_machine_expires(make: Make, server: BatchServer, journal: Journal) -> None:
    await asyncio.to_thread(killed, server, journal.file.parent, "create: hang")
    [noted] = (await journal.notes("batch ")).values()
    name = f"claim {json.loads(noted)['file']} x"
    await journal.note(name, json.dumps({"host": "elsewhere", "pid": 1, "at": time.time()}))
    asked = asyncio.create_task(ask(make(), server, *PROMPTS))
    await asyncio.sleep(0.3)
    assert server.asked == {}
    await journal.note(name, json.dumps({"host": "elsewhere", "pid": 1, "at": time.time() - 3600}))
    assert await asked == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    assert await journal.notes("") == {}


async def test_a_batch_that_another_process_is_creating_is_awaited(make: Make, server: BatchServer) -> None:
    server.faults["create"] = [503, 503, 503]
    first = asyncio.create_task(ask(make(), server, *PROMPTS))
    await until(lambda: server.counts["create"])
    assert await ask(make(), server, *PROMPTS) == await first == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)


async def test_a_closed_provider_leaves_its_batch_open(make: Make, server: BatchServer, journal: Journal) -> None:
    server.hold = True
    first = make()
    waiting = [asyncio.create_task(first.complete([request(server, prompt)])) for prompt in PROMPTS]
    await until(lambda: server.counts["look"])
    await first.close()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    assert len(await journal.notes("batch ")) == 1
    server.hold = False
    # One more request goes into its own batch; the open batch is waited for.
    assert await ask(make(), server, "q3", "new") == ["You said: q3", "You said: new"]
    assert sorted(len(server.lines(each)) for each in server.batches.values()) == [1, 10]
    assert journal.count() == 11  # including answers that were not requested again
    assert await journal.notes("") == {}


async def test_closing_does_not_interrupt_a_creation(make: Make, server: BatchServer, journal: Journal) -> None:
    server.hold = True
    first = make()
    waiting = asyncio.create_task(first.complete([request(server, "q")]))
    await until(lambda: server.counts["create"])
    await first.close()
    await asyncio.wait([waiting])
    [note] = (await journal.notes("")).values()
    assert json.loads(note)["batch"] in server.batches


async def test_a_cancelled_row_removes_nothing_from_the_batch(make: Make, server: BatchServer) -> None:
    server.hold = True
    provider = make()
    first = asyncio.create_task(ask(provider, server, "q"))
    await until(lambda: server.counts["look"])
    first.cancel()
    second = asyncio.create_task(ask(provider, server, "q"))
    await asyncio.sleep(0.1)
    server.hold = False
    assert await second == ["You said: q"]
    assert server.asked == {"q": 1}


# -- failing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        {"upload": [503, "reset", 429]},
        {"create": [500, "after 500"]},
        {"create": ["after reset"], "list": [502, "reset"]},
        {"look": [500, "reset", 429, 503, 408, 500]},
        {"content": [500, "reset", "half", "short", "short"]},
    ],
)
async def test_transient_failures_are_waited_out(make: Make, server: BatchServer, faults: dict[str, list[Any]]) -> None:
    if server.provider == "anthropic" and "upload" in faults:  # the first call of that API
        faults = {"list": faults["upload"]}
    server.faults = {kind: [*those] for kind, those in faults.items()}
    assert await ask(make(retries=0), server, *PROMPTS) == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    assert not any(server.faults.values())


async def test_a_server_that_never_comes_back_ends_the_wait_and_nothing_is_lost(
    make: Make, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "PATIENCE_SECONDS", 0.1)
    server.faults["look"] = [503] * 1000
    with pytest.raises(EndpointError, match=r"503.*batch \w*batch_\d+ of 20.* is not lost: fix the problem and run again"):
        await ask(make(), server, "q")
    server.faults.clear()
    assert await ask(make(), server, "q") == ["You said: q"]
    assert server.asked == {"q": 1}


async def test_a_server_that_never_answered_is_reported_soon(make: Make, server: BatchServer) -> None:
    with pytest.raises(EndpointError, match=r"cannot connect to http://127\.0\.0\.1:9/v1/(files|messages/batches)"):
        await make(base_url="http://127.0.0.1:9/v1").complete([request(server, "q")])


@pytest.mark.parametrize("end", ["expired", "cancelled"])
async def test_unprocessed_requests_go_into_the_next_batch(make: Make, server: BatchServer, journal: Journal, end: str) -> None:
    end = "canceled" if end == "cancelled" and server.provider == "anthropic" else end
    server.ends, server.done = [end, end], 4
    assert await ask(make(), server, *PROMPTS) == SAID
    assert [len(server.lines(each)) for each in server.batches.values()] == [10, 6, 2]
    assert server.answered == dict.fromkeys(PROMPTS, 1)
    assert await journal.notes("") == {}


async def test_requests_that_no_batch_reaches_are_given_up(make: Make, server: BatchServer) -> None:
    server.ends = ["expired"] * 9
    with pytest.raises(
        RequestError, match=r"no answer after 3 attempts; last error: batch \w*batch_\d+ ended without an answer"
    ):
        await ask(make(), server, "q")
    assert len(server.batches) == 3


@OPENAI
async def test_a_failed_batch_is_reported_in_the_servers_words(make: Make, server: BatchServer, journal: Journal) -> None:
    server.ends = ["failed"]
    with pytest.raises(EndpointError, match=r"batch batch_\d+ failed: line 1: scripted failure"):
        await ask(make(), server, *PROMPTS)
    assert await journal.notes("") == {}
    assert await ask(make(), server, *PROMPTS) == SAID


async def test_a_refused_request_fails_alone(make: Make, server: BatchServer, journal: Journal) -> None:
    refused = (400, {"error": {"message": "poison"}})
    server.answer = lambda prompt, seen: refused if prompt == "q4" else prompt
    provider = make()
    done = await asyncio.gather(*[ask(provider, server, prompt) for prompt in PROMPTS], return_exceptions=True)
    assert isinstance(done[4], RequestError) and "400: poison" in str(done[4])  # noqa: PT018 - one fact
    assert sum(isinstance(each, list) for each in done) == journal.count() == 9
    assert len(server.batches) == 1


@pytest.mark.parametrize("failure", [(500, {"error": {"message": "oops"}}), (200, {"choices": []}), None])
async def test_a_request_with_a_transient_failure_goes_into_the_next_batch(
    make: Make, server: BatchServer, failure: tuple[int, dict[str, Any]] | None
) -> None:
    server.answer = lambda prompt, seen: failure if prompt == "q4" and seen < 2 else f"You said: {prompt}"
    assert await ask(make(), server, *PROMPTS) == SAID
    assert [len(server.lines(each)) for each in server.batches.values()] == [10, 1, 1]


async def test_a_request_that_keeps_failing_is_given_up_after_its_retries(make: Make, server: BatchServer) -> None:
    server.answer = lambda prompt, seen: (500, {"error": {"message": "oops"}})
    with pytest.raises(RequestError, match=r"no answer after 3 attempts; last error: .* answered 500: oops"):
        await ask(make(retries=2), server, "q")
    assert len(server.batches) == 3


async def test_a_missing_model_is_an_endpoint_error(make: Make, server: BatchServer) -> None:
    server.answer = lambda prompt, seen: (404, {"error": {"message": "no such model", "code": "model_not_found"}})
    with pytest.raises(EndpointError, match="no such model"):
        await ask(make(), server, "q")


async def test_an_empty_answer_is_reported_and_not_journalled(make: Make, server: BatchServer, journal: Journal) -> None:
    server.answer = lambda prompt, seen: " "
    with pytest.raises(RequestError, match="empty answer"):
        await ask(make(), server, "q")
    assert journal.count() == 0


async def test_only_an_empty_sample_is_requested_again(server: BatchServer, journal: Journal) -> None:
    current_log.set(CallLog())
    server.answer = lambda prompt, seen: "" if seen == 0 else f"answer {seen}"  # the order is not that of the samples
    spec = model_spec(server)
    shared = ModelClient(spec, spec.model, journal, Governor(spec), lambda: BatchProvider(spec, journal))
    answers = await ChatModel("teacher", shared).samples("q", 4)
    await shared.close()
    assert {answer.text for answer in answers} == {f"answer {number}" for number in range(1, 5)}
    assert [len(server.lines(each)) for each in server.batches.values()] == [4, 1]


@OPENAI
async def test_reasoning_that_the_default_length_cuts_off_is_requested_again(server: BatchServer, journal: Journal) -> None:
    current_log.set(CallLog())
    cut = {"message": {"role": "assistant", "content": "It is", "reasoning_content": "2 and 2"}, "finish_reason": "length"}
    body = {"choices": [cut], "usage": {"prompt_tokens": 10, "completion_tokens": 512}}
    server.answer = lambda prompt, seen: "It is 4" if seen else (200, body)
    spec = model_spec(server)
    shared = ModelClient(spec, spec.model, journal, Governor(spec), lambda: BatchProvider(spec, journal))
    answer = await ChatModel("teacher", shared).chat("q")
    await shared.close()
    assert answer.text == "It is 4"
    assert [line["body"]["max_tokens"] for each in server.batches.values() for line in server.lines(each)] == [512, 8192]


async def test_a_refreshed_answer_replaces_the_stored_one(make: Make, server: BatchServer, journal: Journal) -> None:
    server.answer = lambda prompt, seen: f"answer {seen}"
    assert await ask(make(), server, "q") == ["answer 0"]
    assert await ask(make(), server, "q") == ["answer 0"]  # of the journal
    refresh.set(True)
    assert await ask(make(), server, "q") == ["answer 1"]
    kept = await journal.get(request(server, "q").key)
    assert kept
    assert (kept.text, kept.tokens_in, kept.tokens_out) == ("answer 1", 10, 5)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("kind", ["upload", "create", "look", "content"])
async def test_a_refusal_is_an_endpoint_error_and_open_batches_stay_noted(
    make: Make, server: BatchServer, journal: Journal, kind: str, status: int
) -> None:
    if kind == "upload" and server.provider == "anthropic":
        kind = "list"
    server.faults[kind] = [status]
    with pytest.raises(EndpointError, match=f"answered {status}: scripted"):
        await ask(make(), server, "q")
    assert len(await journal.notes("")) == (1 if kind in ("look", "content") else 0)
    assert await ask(make(), server, "q") == ["You said: q"]
    assert server.asked == {"q": 1}


@OPENAI
async def test_the_key_is_sent_and_never_shown(
    make: Make, server: BatchServer, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sk-very-secret"
    monkeypatch.setenv("TEST_KEY", "sk-wrong-secret")
    with pytest.raises(EndpointError, match="check the key in TEST_KEY") as wrong:
        await ask(make(api_key_env="TEST_KEY"), server, "q")
    said = [str(wrong.value)]
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    server.ends, server.faults = ["failed", "completed"], {"look": [None, 403]}
    for _ in range(2):
        with pytest.raises(EndpointError) as failed:
            await ask(make(api_key_env="TEST_KEY"), server, "q")
        said.append(str(failed.value))
    said += (await journal.notes("batch ")).values()
    assert len(said) == 4
    assert not any("secret" in each for each in said)
    assert await ask(make(api_key_env="TEST_KEY"), server, "q") == ["You said: q"]


# -- whole runs ------------------------------------------------------------------------------------------------------


def pipeline(model: str) -> str:
    source = "{words: {type: Word, path: words.jsonl}}"
    return f"{{name: demo, datasets: {source}, models: {{teacher: {model}}}, steps: {{asked: {{op: ask_once, in: words}}}}}}"


@pytest.mark.usefixtures("ray_session")
def test_the_rows_of_a_step_are_one_batch(registry: Registry, server: BatchServer) -> None:
    words(*[str(number) for number in range(100)])
    result = run_text(pipeline(server.model()), registry)
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/asked") == [f"You said: Say {number}" for number in range(100)]
    assert [len(server.lines(each)) for each in server.batches.values()] == [100]


@pytest.mark.parametrize(
    "server", ["openai", pytest.param("anthropic", marks=pytest.mark.soak)], indirect=True
)  # processes that use either of them are killed above
@pytest.mark.ray
def test_a_killed_run_continues_with_its_batch(workdir: Path, registry: Registry, server: BatchServer) -> None:
    """The killed run has its workers on Ray, and the next one in this process; they share only the registry."""
    words(*[str(number) for number in range(100)])
    (workdir / "p.yaml").write_text(pipeline(server.model()))
    server.hold = True
    command = [sys.executable, "-m", "engine.cli", "run", "p.yaml"]
    process = subprocess.Popen(command, cwd=workdir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    asyncio.run(looked(server, process))
    kill_tree(process)
    server.hold = False
    result = run_text(pipeline(server.model()), registry, cluster=InProcess())
    assert result.state == "succeeded", result.error
    assert [len(server.lines(each)) for each in server.batches.values()] == [100]
    assert texts(registry, "demo/asked") == [f"You said: Say {number}" for number in range(100)]


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_attempts_count_against_max_calls(make: Make, server: BatchServer) -> None:
    server.answer = lambda prompt, seen: (500, {"error": {"message": "oops"}})
    provider = make(retries=3, max_calls=12)
    spec = provider._spec
    shared = ModelClient(spec, spec.model, provider._answers, Governor(spec), lambda: provider)
    await asyncio.gather(*[shared.answer([request(server, prompt)]) for prompt in PROMPTS], return_exceptions=True)
    assert server.asked.total() == 12


async def test_requests_within_max_calls_are_sent_and_the_next_run_continues(make: Make, server: BatchServer) -> None:
    for run in (1, 2):
        provider = make(max_calls=6)
        spec = provider._spec
        shared = ModelClient(spec, spec.model, provider._answers, Governor(spec), lambda p=provider: p)
        rows = [shared.answer([request(server, prompt)]) for prompt in PROMPTS]
        done = await asyncio.gather(*rows, return_exceptions=True)
        refused = [each for each in done if isinstance(each, BudgetError)]
        assert len(refused) == (4 if run == 1 else 0)
    assert server.asked == dict.fromkeys(PROMPTS, 1)


async def test_trouble_with_a_batch_is_shown_while_it_lasts(make: Make, server: BatchServer) -> None:
    server.faults["look"] = [503] * 5
    provider = make()
    asked = asyncio.create_task(ask(provider, server, "q"))
    await until(lambda: "answered 503" in provider.trouble)
    assert await asked == ["You said: q"]
    assert provider.trouble == ""
