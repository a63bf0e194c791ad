"""Answers are journalled before they are used, failures are told apart, limits hold, keys stay secret."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine.llm.base import BudgetError, Completion, EndpointError, Request, RequestError
from engine.llm.client import CallLog, ChatModel, SharedModel, current_log
from engine.llm.journal import DamagedJournalError, Journal
from engine.llm.limits import Gate
from engine.llm.openai import OpenAIProvider
from engine.llm.transformers import TransformersProvider
from engine.spec import ModelSpec
from tests.chat_server import ChatServer, error

Make = Callable[..., ChatModel]


@pytest.fixture
async def model(workdir: Path, chat_server: ChatServer) -> AsyncIterator[Make]:
    """Makes models on the test's server; all share one journal."""
    journal = Journal(workdir / "journal")
    made = []

    def make(**spec: Any) -> ChatModel:
        full = ModelSpec.model_validate(
            {"provider": "openai", "model": "test-model", "base_url": chat_server.base_url, "retries": 2, **spec}
        )
        shared = SharedModel(full, full.model, journal, Gate(full), lambda: OpenAIProvider(full))
        made.append(shared)
        return ChatModel("teacher", shared, full.model, Path)

    current_log.set(CallLog())
    yield make
    for each in made:
        await each.close()
    journal.close()


async def test_an_answer_comes_with_its_tokens_and_is_asked_for_once(model: Make, chat_server: ChatServer) -> None:
    first = await model().chat("hello")
    again = await model().chat([{"role": "user", "content": "hello"}])
    assert (first.text, first.tokens_in, first.tokens_out) == ("You said: hello", 10, 5)
    assert again == first
    assert chat_server.prompts == ["hello"]
    assert [call.reused for call in current_log.get().calls] == [False, True]


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, 1),
        ({"limits": {"concurrency": 2}, "retries": 5, "timeout": 9, "price": {"input": 1}, "budget_usd": 3}, 1),
        ({"temperature": 0.1}, 2),
        ({"top_p": 0.5}, 2),
        ({"max_tokens": 7}, 2),
        ({"seed": 1}, 2),
        ({"stop": ["x"]}, 2),
        ({"model": "other"}, 2),
    ],
)
async def test_what_shapes_an_answer_is_in_its_key_and_nothing_else(
    model: Make, chat_server: ChatServer, change: dict[str, Any], asked: int
) -> None:
    await model().chat("hello")
    await model(**change).chat("hello")
    assert len(chat_server.requests) == asked


async def test_samples_of_one_prompt_are_separate_and_added_to(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: f"answer {seen}"
    assert len({(await model().chat("q", sample=sample)).text for sample in range(3)}) == 3
    for sample in range(5):
        await model().chat("q", sample=sample)
    assert len(chat_server.requests) == 5


async def test_the_same_question_at_the_same_time_is_asked_once(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.05
    one = model()
    answers = await asyncio.gather(*[one.chat("same") for _ in range(10)])
    assert len(chat_server.requests) == 1
    assert len({answer.text for answer in answers}) == 1


async def test_passing_failures_are_tried_again(model: Make, chat_server: ChatServer) -> None:
    failures = [error(500, "oops"), error(429, "slow down", **{"Retry-After": "0"})]
    chat_server.answer = lambda prompt, seen: failures[seen] if seen < len(failures) else "fine"
    assert (await model(retries=3).chat("q")).text == "fine"
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_not_tried_again(model: Make, chat_server: ChatServer, status: int) -> None:
    chat_server.answer = lambda prompt, seen: error(status, "the server's words")
    with pytest.raises(RequestError, match=f"{status}: the server's words"):
        await model().chat("q")
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_endpoint_that_cannot_answer_stops_at_once(model: Make, chat_server: ChatServer, status: int) -> None:
    chat_server.answer = lambda prompt, seen: error(status, "no such thing")
    with pytest.raises(EndpointError, match=f"{status}: no such thing"):
        await model().chat("q")
    assert len(chat_server.requests) == 1


async def test_a_server_that_is_not_there_concerns_the_endpoint(model: Make) -> None:
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
        await model(base_url="http://127.0.0.1:9/v1", retries=0).chat("q")


@pytest.mark.parametrize("answer", ["", "  \n "])
async def test_an_empty_answer_is_an_error_and_is_not_journalled(model: Make, chat_server: ChatServer, answer: str) -> None:
    chat_server.answer = lambda prompt, seen: answer
    with pytest.raises(RequestError, match="empty answer"):
        await model().chat("q")
    chat_server.answer = lambda prompt, seen: "now there is one"
    assert (await model().chat("q")).text == "now there is one"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
async def test_a_broken_body_is_a_passing_failure(model: Make, chat_server: ChatServer, body: bytes) -> None:
    chat_server.answer = lambda prompt, seen: web.Response(body=body, content_type="application/json") if not seen else "fine"
    assert (await model().chat("q")).text == "fine"


async def test_a_slow_answer_is_given_up(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 5
    with pytest.raises(RequestError, match="no answer in 0 s"):
        await model(timeout=0.05, retries=0).chat("q")


async def test_the_key_is_sent_and_never_shown(model: Make, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    await model(api_key_env="TEST_KEY").chat("q")
    assert chat_server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    chat_server.answer = lambda prompt, seen: error(401, "Incorrect API key provided: sk-very-secret")
    with pytest.raises(EndpointError) as wrong:
        await model(api_key_env="TEST_KEY", temperature=0).chat("q")
    assert "sk-very-secret" not in str(wrong.value)
    assert "TEST_KEY" in str(wrong.value)


async def test_the_same_question_of_two_processes_has_one_answer(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.05
    chat_server.answer = lambda prompt, seen: f"answer {seen}"
    one, other = await asyncio.gather(model().chat("q"), model().chat("q"))  # two clients that know nothing of each other
    assert len(chat_server.requests) == 2
    assert one == other == await model().chat("q")


async def test_a_row_that_gives_up_does_not_take_others_with_it(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.2
    one = model()
    first = asyncio.create_task(one.chat("q"))
    follower = asyncio.create_task(one.chat("q"))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await follower).text == "You said: q"


async def test_sampling_parameters_of_a_call_are_checked_and_spelt_one_way(model: Make, chat_server: ChatServer) -> None:
    await model(temperature=0.0).chat("q")
    await model().chat("q", temperature=0)
    assert len(chat_server.requests) == 1
    with pytest.raises(ValueError, match="temprature"):
        await model().chat("q", temprature=0)


async def test_a_key_that_is_missing_where_the_worker_runs_is_said(model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(EndpointError, match="TEST_KEY is not set on"):
        await model(api_key_env="TEST_KEY").chat("q")


async def test_no_more_requests_are_in_flight_than_allowed(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.02
    one = model(limits={"concurrency": 4})
    await asyncio.gather(*[one.chat(str(number)) for number in range(30)])
    assert chat_server.most_in_flight == 4


async def test_requests_a_minute_are_counted(model: Make, chat_server: ChatServer) -> None:
    one = model(limits={"requests_per_minute": 5})
    asked = [asyncio.create_task(one.chat(str(number))) for number in range(8)]
    done, waiting = await asyncio.wait(asked, timeout=1)
    assert (len(done), len(chat_server.requests)) == (5, 5)
    for task in waiting:
        task.cancel()


async def test_a_budget_waits_for_what_calls_in_flight_give_back(model: Make, chat_server: ChatServer) -> None:
    chat_server.latency = 0.01
    # A call costs half a dollar and may cost ten; eleven dollars are enough for twenty, one after the other.
    one = model(price={"output": 100_000}, max_tokens=100, budget_usd=20)
    await asyncio.gather(*[one.chat(str(number)) for number in range(20)])
    assert len(chat_server.requests) == 20


async def test_a_budget_is_never_exceeded(model: Make, chat_server: ChatServer) -> None:
    # Each call costs 5 x 0.1 = 0.5 dollars and may cost 10 x 0.1 = 1 dollar.
    one = model(price={"output": 100_000}, max_tokens=10, budget_usd=2.2)
    for number in range(3):
        await one.chat(str(number))
    with pytest.raises(BudgetError, match=r"budget_usd 2\.2"):
        await one.chat("3")
    assert len(chat_server.requests) == 3
    assert (await one.chat("0")).text == "You said: 0"  # what was paid for is free


def test_the_journal_survives_a_kill(workdir: Path) -> None:
    code = """
import asyncio, os, sys
from pathlib import Path
from engine.llm.journal import Journal
from engine.llm.base import Completion
async def main():
    journal = Journal(Path(sys.argv[1]))
    for number in range(100):
        await journal.put(f"key {number}", Completion(text=str(number)))
        print(number, flush=True)
        if number == 41:
            os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code, str(workdir / "j")], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    journal = Journal(workdir / "j")
    told = done.stdout.split()
    assert [journal.get(f"key {number}") for number in told] == [Completion(text=number) for number in told]
    assert len(told) == 42
    journal.close()


def test_processes_share_the_journal(workdir: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from engine.llm.journal import Journal
from engine.llm.base import Completion
async def main():
    journal = Journal(Path(sys.argv[1]))
    await asyncio.gather(*[journal.put(f"{sys.argv[2]}-{n}", Completion(text=str(n))) for n in range(300)])
    journal.close()
asyncio.run(main())
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(workdir / "j"), who]) for who in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    journal = Journal(workdir / "j")
    assert journal.count() == 900
    assert journal.get("b-299") == Completion(text="299")
    journal.close()


async def test_a_changed_entry_is_an_error(workdir: Path) -> None:
    journal = Journal(workdir / "j")
    await journal.put("k", Completion(text="good"))
    with sqlite3.connect(journal.file) as con:
        con.execute("update answers set answer = replace(answer, 'good', 'evil')")
    with pytest.raises(DamagedJournalError, match="entry k"):
        journal.get("k")
    journal.close()


# -- models in this process ---------------------------------------------------------------------------------------


def request(prompt: str, **sampling: Any) -> Request:
    wanted = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "stop": (), "seed": None, **sampling}
    return Request("transformers", "tiny", ({"role": "user", "content": prompt},), wanted)


@pytest.fixture
async def local(tiny_model: Path) -> AsyncIterator[TransformersProvider]:
    spec = ModelSpec(provider="transformers", model=str(tiny_model), batch_size=4)
    provider = TransformersProvider(spec, lambda: (tiny_model, None))
    yield provider
    await provider.close()


async def test_concurrent_requests_are_generated_together(local: TransformersProvider) -> None:
    sizes = []
    generate = local._generate
    local._generate = lambda requests: sizes.append(len(requests)) or generate(requests)  # type: ignore[method-assign,func-returns-value]
    answers = await asyncio.gather(*[local.complete(request(f"q{number}")) for number in range(10)])
    assert sizes == [4, 4, 2]
    assert all(answer.tokens_in == len("<u>q0<e><a>") - 6 for answer in answers)
    assert all(0 < answer.tokens_out <= 8 for answer in answers)


async def test_greedy_answers_equal_those_of_plain_generate(local: TransformersProvider, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    prompts = ["a", "a longer prompt", "x" * 50]
    answers = await asyncio.gather(*[local.complete(request(prompt)) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        turns = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        plain = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(plain, skip_special_tokens=True)


async def test_a_sample_depends_on_its_request_and_not_on_its_batch(local: TransformersProvider) -> None:
    alone = await local.complete(request("q", temperature=1.0))
    together = await asyncio.gather(*[local.complete(request(q, temperature=1.0)) for q in ("q", "other", "more")])
    assert together[0].text == alone.text
    seeds = [await local.complete(request("q", temperature=1.0, seed=seed)) for seed in range(4)]
    assert len({answer.text for answer in seeds}) > 1


def test_sampling_follows_the_distribution() -> None:
    import torch

    from engine.llm.transformers import _RowSampler

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = [
        int(_RowSampler([request("q", temperature=0.5, seed=seed)], torch.device("cpu"))(None, logits.clone()).argmax())  # type: ignore[arg-type]
        for seed in range(2000)
    ]
    wanted = (logits[0] / 0.5).softmax(-1)
    got = torch.bincount(torch.tensor(draws), minlength=4) / 2000
    assert torch.allclose(got, wanted, atol=0.04)
    nucleus = {
        int(_RowSampler([request("q", temperature=0.5, top_p=0.8, seed=s)], torch.device("cpu"))(None, logits.clone()).argmax())  # type: ignore[arg-type]
        for s in range(300)
    }
    assert nucleus == {0}


async def test_a_prompt_that_does_not_fit_is_refused_and_the_others_are_answered(local: TransformersProvider) -> None:
    fits, too_long = await asyncio.gather(
        local.complete(request("short")), local.complete(request("x" * 2000)), return_exceptions=True
    )
    assert isinstance(fits, Completion)
    assert isinstance(too_long, RequestError)
    assert "the model takes 1024" in str(too_long)


async def test_stop_words_end_the_answer(local: TransformersProvider) -> None:
    whole = await local.complete(request("q", max_tokens=30))
    word = whole.text[3]
    cut = await local.complete(request("q", max_tokens=30, stop=(word,)))
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop"


def test_a_key_is_a_digest_of_canonical_json() -> None:
    assert request("q").key == request("q").key
    assert request("q").key != request("q", max_tokens=9).key
