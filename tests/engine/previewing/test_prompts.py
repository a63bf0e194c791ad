"""If a step's rows are known, the bound in a plan counts the prompts that the step will send."""

from __future__ import annotations

import base64
import gc
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.cli.plan_view import plan_rows, print_plan
from engine.llm.local.tokenizer import Tokenizer
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.planning.results import SharedPrefix, StepPlan
from engine.previewing.prompt_bounds import with_prompts
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.previewing.test_preview import pipeline
from tests.engine.run_pipelines import run_text, words

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"


@pytest.fixture
def folder(workdir: Path) -> Path:
    """A model folder with only a tokenizer: a token for each letter, except `Say`."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = {**letters, "Sa": len(letters), "Say": len(letters) + 1}
    made = Fast(models.BPE(vocab=vocabulary, merges=[("S", "a"), ("Sa", "y")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (workdir / "model").mkdir()
    made.save(str(workdir / "model" / "tokenizer.json"))
    (workdir / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return workdir / "model"


def planned(text: str) -> tuple[StepPlan, StepPlan]:
    """The first step of a pipeline, planned without and with its prompts."""
    Path("p.yaml").write_text(text)
    checked, registry = check(Path("p.yaml"), None), Registry("scratch")
    plain = make_plan(checked, registry, select=set(), force=set())
    return plain.steps[0], with_prompts(checked, plain, registry).steps[0]


def test_prompts_are_counted_with_the_tokenizer_of_the_model(registry: Registry, chat_server: ChatServer, folder: Path) -> None:
    words("ab", "cdefg")
    model = chat_server.model(model=str(folder), max_tokens=9, system="Be short")
    before, now = planned(pipeline("a: {op: ask_once, in: words}", model))
    frame = len("<|system|>Be short<|end|><|user|><|end|><|assistant|>")
    assert now.tokens == (frame + len("# ab") + 9) + (frame + len("# cdefg") + 9)
    assert now.calls == before.calls == 2


def test_counts_of_another_tokenizer_are_not_remembered(
    registry: Registry, chat_server: ChatServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_CACHE", "empty-cache")
    words("ab")
    text = pipeline("a: {op: ask_once, in: words}", chat_server.model(model=str(folder), max_tokens=9))
    counted = [planned(text)[1].tokens for _ in range(2)]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": f"12345{TEMPLATE}"}))
    counted.append(planned(text)[1].tokens)
    (folder / "tokenizer.json").unlink()
    counted.append(planned(text)[1].tokens)
    first = len("<|user|># ab<|end|><|assistant|>") + 9
    assert counted == [first, first, first + 5, len("Say ab") + 16 + 9]


def test_a_template_that_cannot_be_rendered_has_texts_in_parts_counted(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ no_such_function() }}"}))
    parts = [{"type": "text", "text": "abc"}, {"type": "text", "text": "Say"}]
    in_parts = Tokenizer(folder).count_prompt([{"role": "user", "content": parts}])
    assert in_parts == Tokenizer(folder).count_prompt([{"role": "user", "content": "abcSay"}])


def test_without_a_tokenizer_each_byte_is_a_token(registry: Registry, chat_server: ChatServer) -> None:
    words("ab", "cdefgé")
    _, now = planned(pipeline("a: {op: ask_once, in: words}", chat_server.model(max_tokens=9)))
    assert now.tokens == len("Say ab") + 16 + 9 + len("Say cdefgé".encode()) + 16 + 9


def test_an_open_length_counts_as_that_of_a_model_that_reasons(registry: Registry, chat_server: ChatServer) -> None:
    words("ab")
    before, now = planned(pipeline("a: {op: ask_once, in: words}", chat_server.model(price={"output": 1.0})))
    assert now.tokens == len("Say ab") + 16 + 8192
    assert before.tokens > 8192
    assert any("has no max_tokens: the bounds assume 8,192 tokens per answer" in note for note in now.notes)


@pytest.mark.parametrize(
    ("given", "characters"),
    [(("ab", "abc", "abd"), len("Be shortSay ab")), (("x", "y"), len("Be shortSay ")), (("alone",), None)],
)
def test_the_common_beginning_of_prompts_is_measured(
    registry: Registry,
    chat_server: ChatServer,
    caplog: pytest.LogCaptureFixture,
    given: tuple[str, ...],
    characters: int | None,
) -> None:
    words(*given)
    _, now = planned(pipeline("a: {op: ask_once, in: words}", chat_server.model(system="Be short")))
    found = now.shared.get("teacher")
    gc.collect()
    assert caplog.text == "", "operators that are listened to are cancelled, which nobody needs to know"
    length = sum(len(f"Be shortSay {text}") for text in given) / len(given)
    assert found == (None if characters is None else SharedPrefix(characters, length))


def test_a_plan_says_what_is_shared(registry: Registry, chat_server: ChatServer) -> None:
    words("x", "y")
    Path("p.yaml").write_text(pipeline("a: {op: ask_once, in: words}", chat_server.model()))
    checked = check(Path("p.yaml"), None)
    made = with_prompts(checked, make_plan(checked, registry, select=set(), force=set()), registry)
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    print_plan(made, console)
    assert "a: prompts to teacher have their first 4 of 5 characters (80%) in common" in console.export_text()
    [row] = [row for row in plan_rows(made, None) if row["step"] == "a"]
    assert row["shared_prompts"] == [{"role": "teacher", "characters": 4, "length": 5.0, "share": 0.8}]


OWN = """
from collections.abc import AsyncIterator

from engine.operator import ChatModel, Params, Record, Reject, operator


class Line(Record):
    \"\"\"A line.\"\"\"

    text: str


class Twice(Params):
    \"\"\"Two calls a row.\"\"\"

    def calls(self) -> dict[str, int]:
        \"\"\"The second is about the first.\"\"\"
        return {"teacher": 2}


@operator
async def long_only(line: Line, teacher: ChatModel) -> AsyncIterator[Line]:
    \"\"\"Ask about long lines only.\"\"\"
    if len(line.text) < 3:
        raise Reject("short")
    yield Line(text=(await teacher.chat(line.text)).text)


@operator
async def improved(line: Line, teacher: ChatModel, params: Twice) -> AsyncIterator[Line]:
    \"\"\"Ask twice.\"\"\"
    first = await teacher.chat(f"A draft about {line.text}, please")
    yield Line(text=(await teacher.chat(f"Improve what you said about {line.text}: {first.text}")).text)
"""


def own(op: str, chat_server: ChatServer, **model: Any) -> str:
    """A pipeline with an operator of `OWN`."""
    Path("own.py").write_text(f"{OWN}\n# for {op}\n")
    return (
        f"{{name: demo, operators: [own.py], models: {{teacher: {chat_server.model(**model)}}}, "
        f"datasets: {{words: {{type: Line, path: words.jsonl}}}}, steps: {{a: {{op: {op}, in: words}}}}}}"
    )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("op", ["ask_once", "three_of", "long_only", "improved"])
def test_the_bound_holds(registry: Registry, chat_server: ChatServer, folder: Path, op: str) -> None:
    words("Say", *[f"word {number}" for number in range(20)])
    counted = Tokenizer(folder)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        made = completion(*["an answer of 30 letters, truly"] * body.get("n", 1))
        made["usage"] = {"prompt_tokens": counted.count_prompt(body["messages"]), "completion_tokens": 30 * body.get("n", 1)}
        return made

    chat_server.reply = reply
    model: dict[str, Any] = {"model": str(folder), "max_tokens": 30}
    text = own(op, chat_server, **model)
    if op in ("ask_once", "three_of"):
        text = pipeline(f"a: {{op: {op}, in: words}}", chat_server.model(**model))
    _, now = planned(text)
    record = run_text(text, registry).steps[0].record
    taken = record.tokens_in + record.tokens_out
    assert taken <= now.tokens
    # A prompt that holds an answer is only bounded; a request for three samples is billed once for its prompt.
    assert now.tokens <= {"improved": 20, "three_of": 2}.get(op, 1) * taken


def test_rows_that_need_no_answer_cost_nothing(registry: Registry, chat_server: ChatServer) -> None:
    words("ab", "cdefg", "h")
    text = own("long_only", chat_server, max_tokens=9)
    _, now = planned(text)
    assert (now.calls, now.tokens) == (1, 5 + 16 + 9)
    assert not chat_server.requests


def test_images_are_counted_whatever_the_machine_does(registry: Registry, chat_server: ChatServer) -> None:
    picture = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    )
    Path("one.png").write_bytes(picture)
    rows = [{"question": question, "pictures": ["one.png"] * 16} for question in ("q1", "q2")]
    Path("photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        f"{{name: demo, models: {{model: {chat_server.model(max_tokens=9)}}}, "
        "datasets: {photos: {path: photos.jsonl, images: [pictures]}}, "
        "steps: {a: {op: generate, in: photos, with: {prompt: '{{ question }}', images: pictures}}}}"
    )
    before, now = planned(text)
    assert (now.calls, before.calls) == (2, 2)
    assert now.shared == {"model": SharedPrefix(1, 2.0)}  # the prompts were seen
    assert now.tokens is not None
    assert 32 * 50_000 < now.tokens < 32 * 50_100
