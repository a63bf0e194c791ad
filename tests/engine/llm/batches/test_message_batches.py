"""Peculiarities of Anthropic's batches: they carry no mark by which to find them, and results may not be as expected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from engine.llm.batches.provider import BatchProvider
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.llm.types.errors import EndpointError, RequestError
from engine.llm.types.model_spec import ModelSpec
from tests.batch_server import BatchServer, killed, model_spec, request, until
from tests.chat_server import ChatServer, message
from tests.message_batch_server import MessageBatchServer

PROMPTS = [f"q{number}" for number in range(10)]
SAID = [f"You said: {prompt}" for prompt in PROMPTS]
Ask = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[MessageBatchServer]:
    with MessageBatchServer() as server:
        yield server


@pytest.fixture
async def ask(server: MessageBatchServer, journal: Journal) -> AsyncIterator[Ask]:
    """Sends prompts at the same time, as a new process would on each call. `ask.made` has the providers and governors."""
    made: list[tuple[BatchProvider, Governor]] = []

    async def ask(*prompts: str, at: BatchServer = server, **spec: Any) -> list[Any]:
        model = model_spec(at, **spec)
        provider, governor = BatchProvider(model, journal), Governor(model)
        made.append((provider, governor))
        client = ModelClient(model, model.model, journal, governor, lambda: provider)
        asked = [client.answer([request(at, prompt, temperature=model.temperature)]) for prompt in prompts]
        done = await asyncio.gather(*asked, return_exceptions=True)
        return [each if isinstance(each, BaseException) else each[0].completion for each in done]

    ask.made = made  # type: ignore[attr-defined]
    yield ask
    for provider, _ in made:
        await provider.close()


def line(custom_id: Any, text: str) -> str:
    return json.dumps(
        {"custom_id": custom_id, "result": {"type": "succeeded", "message": message({"type": "text", "text": text})}}
    )


# -- which batch is ours ---------------------------------------------------------------------------------------------


async def test_a_batch_of_others_with_as_many_requests_is_not_taken_for_ours(
    server: MessageBatchServer, journal: Journal, ask: Ask
) -> None:
    await asyncio.to_thread(killed, server, journal.file.parent, "create: hang")
    server.add_noise(1, requests=10)
    [noise] = server.batches.values()
    asked = asyncio.create_task(ask(*PROMPTS, temperature=0.0))
    await until(lambda: ask.made and noise["id"] in ask.made[0][0].trouble)  # type: ignore[attr-defined]
    assert server.counts["create"] == 1, "nothing is sent while it is open whether it was sent"
    noise |= {"processing_status": "ended", "results": (line("another", "for others") + "\n").encode()}
    assert [each.text for each in await asked] == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    assert await journal.notes("batch ") == {}


async def test_ours_is_found_among_those_of_others(server: MessageBatchServer, journal: Journal, ask: Ask) -> None:
    server.add_noise(1, requests=10)
    [older] = server.batches.values()
    await asyncio.to_thread(killed, server, journal.file.parent, "create: after hang")
    server.add_noise(120, requests=7)
    assert [each.text for each in await ask(*PROMPTS, temperature=0.0)] == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 1)
    assert older["processing_status"] == "in_progress", "what was there before cannot be ours, so nobody waits for it"


async def test_rows_that_are_gone_are_not_asked_for(server: MessageBatchServer, journal: Journal, ask: Ask) -> None:
    await asyncio.to_thread(killed, server, journal.file.parent, "create: hang")
    assert [each.text for each in await ask("q3", "new", temperature=0.0)] == ["You said: q3", "You said: new"]
    assert server.asked == {"q3": 1, "new": 1}
    assert await journal.notes("batch ") == {}


async def test_results_that_the_server_has_deleted_are_asked_for_again(
    server: MessageBatchServer, journal: Journal, ask: Ask
) -> None:
    server.hold = True
    await asyncio.to_thread(killed, server, journal.file.parent, "while out")
    [lost] = server.batches.values()
    lost |= {"processing_status": "ended", "archived_at": lost["created_at"]}
    server.hold = False
    assert [each.text for each in await ask(*PROMPTS, temperature=0.0)] == SAID
    assert server.asked == dict.fromkeys(PROMPTS, 2)


# -- unexpected results ------------------------------------------------------------------------


async def test_results_are_read_from_our_host_only(server: MessageBatchServer, ask: Ask) -> None:
    with ChatServer() as elsewhere:
        server.results_url = f"{elsewhere.base_url}/messages/batches/x/results"
        assert [each.text for each in await ask("q")] == ["You said: q"]
        assert elsewhere.requests == []


async def test_lines_that_are_not_ours_change_nothing(server: MessageBatchServer, journal: Journal, ask: Ask) -> None:
    foreign = line("0" * 64, "not asked for")
    server.more_lines = (foreign, line(["q"], "x"), line(None, "x"), "not JSON", "[]", '{"custom_id": "a"}', "{" * 5000)
    assert [each.text for each in await ask(*PROMPTS)] == SAID
    assert journal.count() == len(PROMPTS)
    assert server.counts["content"] == 5, "it may have been cut off on its way"


async def test_the_first_result_of_a_request_counts(server: MessageBatchServer, journal: Journal, ask: Ask) -> None:
    server.more_lines = (line(request(server, "q", temperature=0.7).key, "first"),)
    assert [each.text for each in await ask("q")] == ["first"]
    assert server.asked == {"q": 1}


@pytest.mark.parametrize("name", ["../messages", "a/b", "a?b", "", 7, None, "x" * 300])
async def test_a_batch_with_an_invalid_name(server: MessageBatchServer, ask: Ask, name: Any) -> None:
    server.hold = True
    make = server._new
    server._new = lambda requests: make(requests) | {"id": name}  # type: ignore[method-assign]
    server._shown = web.json_response  # type: ignore[method-assign]
    asked = asyncio.create_task(ask("q"))
    await until(lambda: ask.made and "is not the id of a batch" in ask.made[0][0].trouble)  # type: ignore[attr-defined]
    assert server.counts["look"] == 0
    asked.cancel()
    await asyncio.wait([asked])


# -- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "answer", "most"),
    [
        (["expired"], None, 0.0),  # not processed, the server says
        ([], (500, {"error": {"message": "oops"}}), 0.0),  # errors are not billed
        ([], "nothing", 1.0),  # the cost of a missing result is unknown
    ],
)
async def test_what_a_request_without_an_answer_may_have_cost(
    server: MessageBatchServer, ask: Ask, ends: list[str], answer: Any, most: float
) -> None:
    server.ends = ends
    server.answer = lambda prompt, seen: None if answer == "nothing" else answer
    [failed] = await ask("q", retries=0, price={"input": 0, "output": 2e6 / 8})
    assert isinstance(failed, RequestError)
    [(_, governor)] = ask.made  # type: ignore[attr-defined]
    assert governor.spent.usd == pytest.approx(most)


async def test_batches_cost_half(server: MessageBatchServer, ask: Ask) -> None:
    await ask("q", price={"input": 1.0, "output": 2.0})
    [(_, governor)] = ask.made  # type: ignore[attr-defined]
    assert governor.spent.usd == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6 / 2)


# -- parameters that the model refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BatchServer, MessageBatchServer])
async def test_a_refused_parameter_is_learnt_once(kind: type[BatchServer], journal: Journal, ask: Ask) -> None:
    words = "Unsupported parameter: 'temperature' is not supported with this model."
    refused = (400, {"error": {"message": words, "code": "unsupported_parameter", "param": "temperature"}})
    with kind() as server:
        sent: list[dict[str, Any]] = []

        def answer(prompt: str, seen: int) -> Any:
            last = [*server.batches.values()][-1]
            found = [each.get("body") or each["params"] for each in server.lines(last)]
            sent.append(next(body for body in found if body["messages"][-1]["content"] == prompt))
            return refused if "temperature" in sent[-1] else prompt

        server.answer = answer
        done = await ask("a", "b", at=server)
        assert [(each.text, each.left_out) for each in done] == [("a", ("temperature",)), ("b", ("temperature",))]
        assert (await ask("c", at=server))[0].left_out == ("temperature",)
        assert ["temperature" in body for body in sent] == [True, True, False, False, False]
        notes = [note for provider, _ in ask.made for note in provider.notes]  # type: ignore[attr-defined]
        assert notes == [
            f"{server.base_url} takes no `temperature` for test-model: it is left out, and the server's default applies"
        ]


async def test_an_answer_that_only_calls_a_tool_is_kept(server: MessageBatchServer, journal: Journal, ask: Ask) -> None:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": "x"}}
    server.answer = lambda prompt, seen: (200, message(tool, stop_reason="tool_use"))
    tools = {"tools": [{"name": "look_up", "input_schema": {"type": "object"}}]}
    model = ModelSpec.model_validate({**model_spec(server).model_dump(), "extra_body": tools})
    provider = BatchProvider(model, journal)
    asked = request(server, "q", extra_body=tools)
    [answer] = await provider.complete([asked])
    await provider.close()
    assert [call.name for call in answer.tool_calls] == ["look_up"]
    assert await journal.get(asked.key) == answer


async def test_log_probabilities_are_refused_before_anything_is_sent(server: MessageBatchServer, journal: Journal) -> None:
    provider = BatchProvider(model_spec(server), journal)
    with pytest.raises(EndpointError, match="returns no log-probabilities"):
        await provider.complete([request(server, "q", logprobs=1)])
    await provider.close()
    assert server.counts.total() == 0
