"""Every recipe runs from its YAML alone, on a scripted server, and makes the rows that it promises."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.packages.local_modules import use_local_modules
from engine.pipeline.check import check
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine import run_pipelines
from tests.engine.run_pipelines import ask

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"
LINES = 40
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}

Answer = Callable[[str, dict[str, Any], int], dict[str, Any] | str]


def replying(answer: Answer, usage: Mapping[str, Any] = USAGE, **message: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A server's reply with the texts of `answer`, which gets the prompt, the schema, and how often the prompt came before."""
    numbers: dict[str, int] = {}

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        prompt = str(body["messages"][-1]["content"])
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        texts = []
        for _ in range(body.get("n", 1)):
            numbers[prompt] = numbers.get(prompt, -1) + 1
            # Servers are asked first whether they sample.
            made = str(numbers[prompt]) if "random number" in prompt else answer(prompt, schema, numbers[prompt])
            texts.append(made if isinstance(made, str) else json.dumps(made))
        messages = [called(text) if "tools" in body else {"role": "assistant", "content": text, **message} for text in texts]
        return {"choices": [{"message": each, "finish_reason": "stop"} for each in messages], "usage": usage}

    return reply


def scored(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """An answer that fits the schema; numbers and words differ from call to call."""
    if not schema:
        return f"Answer {number}: a text that is long enough to be kept, about {prompt[-40:].strip()!r}."
    made: dict[str, Any] = {}
    for name, about in schema["properties"].items():
        if "enum" in about or "const" in about:
            words = about.get("enum", [about.get("const")])
            made[name] = words[(zlib.crc32(prompt.encode()) + number) % len(words)] if isinstance(words[0], int) else words[0]
        else:
            made[name] = f"text {number}"
    return made


def best(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """The best score, where there is one."""
    made = scored(prompt, schema, number)
    return made if isinstance(made, str) else {name: 5 if isinstance(value, int) else value for name, value in made.items()}


def same(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """Four of five samples agree."""
    return {"solution": f"step {number}", "answer": "85" if number % 5 else "86"}


def quoting(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """Every second answer quotes the document."""
    document = prompt.partition("\n\n")[2]
    quote = document.partition(". ")[0] if number % 2 else "words that are not there"
    return {"question": "What?", "quote": quote, "answer": "That."}


def moods(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """The mood that the text was asked for."""
    if not schema:
        return f"{re.findall('positive|negative|neutral', prompt)[0]}: text {number}"
    return {**best(prompt, schema, number), "mood": re.findall("positive|negative|neutral", prompt.partition("?")[2])[0]}


def programs(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """A right program, a wrong one, one that never ends, one that leaves a child process behind."""
    if "fizz" not in prompt:
        return {"code": "while True: pass"} if "longest" in prompt else {"code": "def flat(items): return items"}
    child = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    return {"code": f"{child}def fizz(n): return 'Fizz' if n % 3 == 0 else str(n)"}


def calls(prompt: str, schema: dict[str, Any], number: int) -> dict[str, Any] | str:
    """Requests, of which some need no tool."""
    about = "weather" if "about the weather" in prompt else "price" if "about the price" in prompt else "talk"
    return f"{about} {number}" if "about" in prompt else prompt


def called(text: str) -> dict[str, Any]:
    """The message that answers a request with tools."""
    if text.startswith("talk"):
        return {"role": "assistant", "content": "Hello."}
    if text.startswith("weather"):
        call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    else:
        call = {"name": "convert", "arguments": '{"amount": 20, "from": "EUR", "to": "USD"}'}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}


RESULTS: dict[str, tuple[Answer, str, str]] = {
    # recipe -> who answers, the output, what it must be
    "distil": (scored, "distil/rows", "rows = 6"),
    "judge-and-filter": (best, "judge-and-filter/rows", "rows = 4"),
    "best-of-n": (scored, "best-of-n/pairs", "rows between 1 and 6"),
    "self-consistency": (same, "self-consistency/rows", "rows = 4"),
    "instruction-evolution": (scored, "instruction-evolution/rows", "rows between 12 and 18"),
    "document-questions": (quoting, "document-questions/rows", "rows = 3"),
    "support-dialogues": (scored, "support-dialogues/rows", "rows = 6"),
    "classification": (moods, "classification/parts.train", "rows between 6 and 12"),
    "translation": (best, "translation/rows", "rows = 3"),
    "code": (programs, "code/rows", "rows = 2"),
    "preferences": (best, "preferences/pairs", "rows >= 0"),
    "tool-calls": (calls, "tool-calls/rows", "rows = 4"),
}


def test_there_are_twelve_and_each_is_short() -> None:
    found = {file.stem: len(file.read_text().splitlines()) for file in RECIPES.glob("*.yaml")}
    assert found.keys() == RESULTS.keys()
    assert len(found) == 12
    assert max(found.values()) < LINES


def test_the_pipeline_of_the_readme_is_a_recipe() -> None:
    readme = (RECIPES.parents[1] / "README.md").read_text()
    assert f"```yaml\n{(RECIPES / 'distil.yaml').read_text()}```" in readme


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", RESULTS)
def test_a_recipe_runs(name: str, registry: Registry, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, output, expected = RESULTS[name]
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    chat_server.reply = replying(answer)
    try:
        pipeline = check(RECIPES / f"{name}.yaml", [f"base_url={chat_server.base_url}"], keys=True)
        executor = run_pipelines.new_cluster(registry.location)
        observer = PlainProgress(Console(quiet=True))
        result = run(pipeline, registry, observer, select=set(), force=set(), cluster=executor)
    finally:
        use_local_modules(())
    assert result.state == "succeeded", result.error
    [(good, rows)] = ask(registry, f"select {expected}, rows from versions where name = '{output}'")
    assert good, rows
    # Every row can be traced back to the seeds.
    assert ask(registry, f"select count(*) from lineage where child = '{output}' and opaque") == [(0,)]
    assert ask(registry, "select count(*) from rejects") == [(0,)]
