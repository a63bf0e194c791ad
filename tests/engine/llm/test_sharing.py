"""Workers share limits and a journal through a Service, even if some of them die."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import EngineError
from engine.llm import shared_service
from engine.llm.journal import disk_reserve
from engine.llm.limits.accounting import CallOutcome, Spent
from engine.llm.limits.estimates import Estimate
from engine.llm.service_client import RemoteAnswers, RemoteGate, WorkerConnection
from engine.llm.shared_service import Service
from engine.llm.types.completions import Completion
from engine.llm.types.errors import BudgetError, EndpointError
from engine.llm.types.model_spec import ModelSpec


class LocalTransport:
    """Carries calls within this process, pickled like calls to another one."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def call(self, method: str, *arguments: Any) -> Any:
        return pickle.loads(pickle.dumps(await getattr(self.service, method)(*pickle.loads(pickle.dumps(arguments)))))


async def served(workdir: Path, spec: ModelSpec) -> LocalTransport:
    """A Service that keeps the limits of a model "m"."""
    service = Service(workdir / "journal")
    await service.add_model("m", spec, Spent())
    return LocalTransport(service)


@pytest.fixture
async def transport(workdir: Path) -> LocalTransport:
    spec = ModelSpec.model_validate(
        {"provider": "openai", "model": "m", "limits": {"concurrency": 1}, "budget_usd": 1, "price": {"output": 1}}
    )
    return await served(workdir, spec)


async def test_two_workers_share_the_limits(transport: LocalTransport) -> None:
    posts = [WorkerConnection(transport), WorkerConnection(transport)]
    gates = [RemoteGate(post, "m") for post in posts]
    first = await gates[0].admit(Estimate("a"))
    second = asyncio.create_task(gates[1].admit(Estimate("b")))
    await asyncio.wait([second], timeout=0.1)
    assert not second.done()
    gates[0].release(first, CallOutcome("answered"))
    gates[1].release(await second, CallOutcome("answered", cost=0.9))
    with pytest.raises(BudgetError, match="budget_usd 1 of model m is used up"):
        await gates[0].admit(Estimate("c", cost=0.5))
    for post in posts:
        await post.close()


async def test_the_places_of_a_silent_worker_become_free(transport: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, other = WorkerConnection(transport), WorkerConnection(transport)
    await RemoteGate(gone, "m").admit(Estimate("a"))
    await gone.close()
    monkeypatch.setattr(shared_service, "_SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(shared_service, "_LISTEN_SECONDS", 0.05)
    assert await asyncio.wait_for(RemoteGate(other, "m").admit(Estimate("b")), timeout=10) == 0
    await other.close()


async def test_a_worker_that_was_written_off_still_pays(transport: LocalTransport) -> None:
    post = WorkerConnection(transport)
    ticket = await RemoteGate(post, "m").admit(Estimate("a", cost=0.5))
    transport.service._last_heard = dict.fromkeys(transport.service._last_heard, -1e9)
    transport.service._write_off_silent_workers()
    post.send(shared_service.Release(ticket, CallOutcome("answered", cost=0.5)))
    await post.close()
    assert transport.service._governors["m"].spent_usd == 0.5


async def test_a_request_that_gives_up_waiting_takes_no_place(transport: LocalTransport) -> None:
    post = WorkerConnection(transport)
    gate = RemoteGate(post, "m")
    ticket = await gate.admit(Estimate("a"))
    waiting = asyncio.create_task(gate.admit(Estimate("b")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.release(ticket, CallOutcome("answered"))
    gate.release(await gate.admit(Estimate("c")), CallOutcome("answered"))
    await post.close()


async def test_what_the_driver_has_spent_counts(workdir: Path) -> None:
    spec = ModelSpec.model_validate({"provider": "openai", "model": "m", "max_calls": 3})
    transport = await served(workdir, spec)
    await transport.call("add_model", "m", spec, Spent(calls=2))
    post = WorkerConnection(transport)
    gate = RemoteGate(post, "m")
    gate.release(await gate.admit(Estimate("a")), CallOutcome("answered"))
    with pytest.raises(BudgetError, match="max_calls 3"):
        await gate.admit(Estimate("b"))
    await post.close()


async def test_the_journal_works_through_the_service(transport: LocalTransport) -> None:
    answers = RemoteAnswers(transport)
    done = [Completion(text=str(number)) for number in range(50)]
    kept = await asyncio.gather(*[answers.put(str(number), each) for number, each in enumerate(done)])
    assert kept == done
    assert await answers.put("7", Completion(text="late")) == done[7]
    assert await asyncio.gather(*[answers.get(str(number)) for number in range(52)]) == [*done, None, None]
    await answers.note("a b", "c")
    assert await answers.notes("a") == {"a b": "c"}


async def test_a_dead_worker_frees_its_places_at_once(workdir: Path) -> None:
    spec = ModelSpec.model_validate(
        {"provider": "openai", "model": "m", "limits": {"concurrency": 2}, "budget_usd": 1, "price": {"output": 1}}
    )
    transport = await served(workdir, spec)
    dead, other = WorkerConnection(transport, "dead"), WorkerConnection(transport, "other")
    await RemoteGate(dead, "m").admit(Estimate("sent", cost=0.25))
    dead._listening.cancel()  # type: ignore[union-attr] - it hears no more
    dead.send(shared_service.Admission("m", 100, Estimate("granted", cost=0.25)))
    dead.send(shared_service.Admission("m", 101, Estimate("waiting", cost=0.25)))
    await dead.close()
    waiting = asyncio.create_task(RemoteGate(other, "m").admit(Estimate("a", cost=0.5)))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    await transport.call("remove_worker", "dead")
    ticket = await asyncio.wait_for(waiting, timeout=2)
    # A request that was sent may be billed. One that was admitted after its worker had gone was never sent.
    assert (await transport.call("spent"))["m"] == Spent(usd=0.75, calls=2)
    dead.send(shared_service.Admission("m", 102, Estimate("last words", cost=0.25)))
    await dead.close()
    RemoteGate(other, "m").release(ticket, CallOutcome("answered", cost=0.5))
    await other.close()
    assert (await transport.call("spent"))["m"] == Spent(usd=0.75, calls=2)
    assert not transport.service._admitting


async def test_an_outage_is_known_to_all_workers(workdir: Path) -> None:
    spec = ModelSpec.model_validate({"provider": "openai", "model": "m", "retries": 0})
    transport = await served(workdir, spec)
    posts = [WorkerConnection(transport), WorkerConnection(transport)]
    ticket = await RemoteGate(posts[0], "m").admit(Estimate("a"))
    RemoteGate(posts[0], "m").release(ticket, CallOutcome("failed", down=True, unreachable=True, why="nobody answers"))
    await posts[0].delivered()
    with pytest.raises(EndpointError, match="no answer after 1 attempt; last error: nobody answers"):
        await RemoteGate(posts[1], "m").admit(Estimate("b"))
    for post in posts:
        await post.close()


async def test_a_full_disk_is_reported_through_the_service(transport: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = RemoteAnswers(transport)
    await answers.ensure_room()
    transport.service._journal._reserve.release()
    monkeypatch.setattr(disk_reserve.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 << 20))
    await asyncio.sleep(0)
    answers._room_until = 0.0
    with pytest.raises(EngineError, match=r"no room left for answers in .*: 3\.0 MiB are free, and at least 4 MiB must be"):
        await answers.ensure_room()
