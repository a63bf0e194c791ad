"""Questions about made-up lands with poisoned contexts, and a server that answers as their policy and judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from engine.running.result import RunResult
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.run_pipelines import run_text

Says = Callable[[list[dict[str, str]]], "str | web.Response | dict[str, Any]"]
"""From a conversation to a model's answer."""

ROLES = ("policy", "judge", "reviser", "student")


def correct(land: int) -> str:
    """The capital of a land."""
    return f"Aville{land}"


def incorrect(land: int) -> str:
    """The capital according to poisoned passages."""
    return f"Bburg{land}"


def case(land: int, pcn: int = 1, fc: bool = False, **more: Any) -> dict[str, Any]:
    """A ConflictCase."""
    factual = [f"The capital of land {land} is {correct(land)}."] if fc else []
    return {
        "question": f"What is the capital of land {land}?",
        "correct_answer": correct(land),
        "incorrect_answer": incorrect(land),
        "contexts": [f"Guide {number}: {incorrect(land)} is the capital of land {land}." for number in range(pcn)] + factual,
        "pcn": pcn,
        "fc": fc,
        "id": f"land-{land}",
        **more,
    }


def response(
    land: int, pcn: int = 1, fc: bool = False, *, path: str = "base", right: bool = True, **more: Any
) -> dict[str, Any]:
    """A PathResponse."""
    text = f"It is {correct(land) if right else incorrect(land)}, says {path}."
    return {**case(land, pcn, fc), "path": path, "response": text, "correct": right, **more}


def strategy(path: str, pcn: int = 1, fc: bool = False) -> dict[str, Any]:
    """A StrategyChoice: the chosen path of a cell."""
    return {"pcn": pcn, "fc": fc, "path": path, "n": 9, "accuracy": 1, "ci_low": 0.7, "ci_high": 1, "chosen": True}


def write(name: str, *rows: dict[str, Any]) -> None:
    """Write a file of rows."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def land_of(conversation: list[dict[str, str]]) -> int:
    """The land that a conversation is about."""
    [land] = set(re.findall(r"land (\d+)\?", "\n".join(turn["content"] for turn in conversation)))
    return int(land)


def judging(conversation: list[dict[str, str]]) -> str:
    """A judge that chooses the answer that the response mentions last; it cannot read "mumble"."""
    prompt = conversation[0]["content"]
    shown = dict(re.findall(r"^(First|Second) answer: (.*)$", prompt, re.MULTILINE))
    text = prompt.partition("<response>")[2].partition("</response>")[0]
    if "mumble" in text:
        return "I cannot say."
    places = {name.lower(): text.rfind(answer) for name, answer in shown.items()}
    best = max(places, key=lambda name: places[name])
    return json.dumps({"reason": "It says so.", "gives": best if places[best] >= 0 else "neither"})


def play(server: ChatServer, **roles: Says) -> None:
    """Make the server answer as the models with these names; the judge is `judging` by default."""
    speakers: dict[str, Says] = {"judge": judging, **roles}

    def reply(body: dict[str, Any]) -> Any:
        text = speakers[body["model"]](body["messages"])
        return completion(text) if isinstance(text, str) else text

    server.reply = reply


def asked(server: ChatServer, role: str) -> list[list[dict[str, str]]]:
    """The conversations that a model was sent, in order."""
    return [request["messages"] for request in server.requests if request["model"] == role]


def run_steps(
    registry: Registry,
    server: ChatServer,
    datasets: dict[str, str],
    steps: dict[str, dict[str, Any]],
    roles: tuple[str, ...] = ROLES,
    **how: Any,
) -> RunResult:
    """Run a pipeline.

    Args:
        datasets: record types by dataset name; the rows are in `<name>.jsonl`.
        steps: the steps, as in YAML.
        roles: the names of its models.
        how: further arguments of `run_text`.
    """
    document = {
        "name": "demo",
        "models": {role: json.loads(server.model(model=role, retries=0)) for role in roles},
        "datasets": {name: {"type": record, "path": f"{name}.jsonl"} for name, record in datasets.items()},
        "steps": steps,
    }
    return run_text(json.dumps(document), registry, **how)
