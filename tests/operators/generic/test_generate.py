"""generate: a model's answers become fields, and mistakes are reported before the first call."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from engine.export.versions import export
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.engine.run_pipelines import ask, outcomes, run_text
from tests.operators.generic.steps import made, metrics, reasons, rows, run_ok, step, wrong

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

SAMPLED = {"temperature": 1}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def by_prompt(answers: dict[str, str]) -> Any:
    return lambda prompt, seen: next((text for part, text in answers.items() if part in prompt), f"other {seen}")


def test_an_answer_becomes_a_field(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "2 + 2?", "persona": "Ada"}, {"question": "3 + 3?"})
    chat_server.answer = by_prompt({"2 + 2": " 4\n", "3 + 3": "6"})
    run_ok(step("generate", chat_server, prompt="{{ persona }}: {{ question }}", system="Be brief."), registry)
    assert made(registry, "question, persona, response") == [("2 + 2?", "Ada", "4"), ("3 + 3?", None, "6")]
    assert chat_server.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sorted(chat_server.prompts) == [": 3 + 3?", "Ada: 2 + 2?"]
    assert ask(registry, "select child_row, parent_row from row_lineage where child = 'demo/step' order by 1") == [
        (0, 0),
        (1, 1),
    ]
    assert ask(registry, "select row, response from llm_calls where name = 'demo/step' order by 1") == [(0, " 4\n"), (1, "6")]
    assert metrics(registry)["answers kept"] == 2


def test_a_conversation_is_filled_turn_by_turn(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "2 + 2?"})
    turns = [
        {"role": "system", "content": "{{ persona }}"},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "{{ question }}"},
    ]
    run_ok(step("generate", chat_server, prompt=turns, into="answer"), registry)
    [sent] = chat_server.requests
    assert [each["role"] for each in sent["messages"]] == ["user", "assistant", "user"], "an empty system message is left out"
    assert made(registry, "answer") == [("You said: 2 + 2?",)]


SCORED = {
    "why": {"type": "str", "description": "one sentence"},
    "level": "low | high",
    "score": "int",
    "tags": "list[str]",
    "note": "str?",
    "place": {"city": "str"},
}


def test_a_structured_answer_has_fields_of_its_own(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "q"})
    answer = {"why": "so", "level": "high", "score": 3, "tags": ["a"], "note": None, "place": {"city": "Ulm"}, "more": 1}
    chat_server.answer = lambda prompt, seen: json.dumps(answer)
    run_ok(step("generate", chat_server, prompt="{{ question }}", fields=SCORED), registry)
    assert made(registry, "question, why, level, score, tags, note, place.city") == [("q", "so", "high", 3, ["a"], None, "Ulm")]
    held = chat_server.requests[0]["response_format"]["json_schema"]["schema"]
    assert list(held["properties"]) == list(SCORED)
    assert held["properties"]["why"]["description"] == "one sentence"
    assert held["properties"]["level"]["enum"] == ["low", "high"]


def test_a_description_that_changes_is_asked_again_and_keep_is_not(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a"}, {"question": "b"})
    chat_server.answer = lambda prompt, seen: '{"why": "so"}'

    def run(description: str, keep: list[str] | None = None) -> int:
        fields = {"why": {"type": "str", "description": description}}
        before = len(chat_server.requests)
        given = {} if keep is None else {"keep": keep}
        run_ok(step("generate", chat_server, prompt="{{ question }}", fields=fields, **given), registry)
        return len(chat_server.requests) - before

    assert run("short") == 2
    assert run("short") == 0
    assert run("long") == 2
    assert run("long", keep=["n"]) == 0
    assert ask(registry, 'select column_name from (describe select * exclude (row) from "demo/step")') == [("n",), ("why",)]
    assert run("long", keep=[]) == 0
    assert made(registry, "* exclude (row)") == [("so",), ("so",)]


def test_an_answer_that_does_not_fit_is_repaired_once_and_then_rejected(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "fine"}, {"question": "never"}, {"question": "later"})

    def answer(prompt: str, seen: int) -> str:
        if "never" in json.dumps(chat_server.requests[-1]["messages"]):
            return '{"level": "middling"}'
        if "later" in prompt:
            return '{"level": "middling"}'
        return '{"level": "low"}'

    chat_server.answer = answer
    run_ok(step("generate", chat_server, prompt="{{ question }}", fields={"level": "low | high"}), registry)
    assert made(registry, "question, level") == [("fine", "low"), ("later", "low")]
    [(row, reason)] = reasons(registry).items()
    assert row == 1
    assert "level: Input should be 'low' or 'high'; the answer reads: {\"level\": \"middling\"}" in reason
    assert len(ask(registry, "select 1 from llm_calls where name = 'demo/step' and row = 1")) == 2, "the repair is a call, too"


def test_samples_are_rows_with_their_numbers(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a"}, {"question": "b"})
    chat_server.answer = lambda prompt, seen: f"{prompt} {seen} {len(chat_server.requests)}"
    run_ok(step("generate", chat_server, SAMPLED, prompt="{{ question }}", samples=3), registry)
    assert made(registry, "question, sample") == [(each, number) for each in "ab" for number in range(3)]
    assert len({text for (text,) in made(registry, "response")}) == 6
    calls = ask(registry, "select row, count(*), count(distinct call_id) from llm_calls where name = 'demo/step' group by 1")
    assert sorted(calls) == [(row, 1, 1) for row in range(6)]


def test_a_sample_that_fails_is_left_out_with_its_reason(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "some"}, {"question": "none"})

    def reply(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        if prompt not in ("some", "none"):
            return None
        answer = completion(*[f"{prompt} {place}" for place in range(body.get("n", 1))])
        for place, choice in enumerate(answer["choices"]):
            choice["finish_reason"] = "length" if place == 1 or prompt == "none" else "stop"
        return answer

    chat_server.reply = reply
    chat_server.answer = lambda prompt, seen: f"probed {seen}"
    run_ok(step("generate", chat_server, SAMPLED, prompt="{{ question }}", samples=3), registry)
    assert made(registry, "response, sample") == [("some 0", 0), ("some 2", 2)]
    found = reasons(registry)
    assert found[0].startswith("sample 1: the answer was cut off at max_tokens=512")
    assert found[1].startswith("the answer was cut off")
    assert metrics(registry)["answers cut off"] == 4
    assert ask(registry, "select rejected from step_runs") == [(1,)]


def test_reasoning_goes_to_a_field_of_its_own(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "beside"}, {"question": "inside"}, {"question": "none"}, {"question": "only"})

    def reply(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        text = {"inside": "<think>hm</think>\n4", "only": "<think>hm</think>"}.get(prompt, "4")
        answer = completion(text)
        if prompt == "beside":
            answer["choices"][0]["message"]["reasoning_content"] = "2 and 2"
        return answer

    chat_server.reply = reply
    run_ok(step("generate", chat_server, prompt="{{ question }}", reasoning="thoughts"), registry)
    assert made(registry, "question, response, thoughts") == [
        ("beside", "4", "2 and 2"),
        ("inside", "4", "hm"),
        ("none", "4", None),
    ]
    assert reasons(registry) == {3: "empty answer, only reasoning (finish_reason 'stop')"}


IMAGED = {"question": "str", "picture": "str?", "pictures": "list[str]?"}


def test_images_go_with_the_prompt(registry: Registry, chat_server: ChatServer) -> None:
    Path("a.png").write_bytes(PNG)
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    given: list[str | None] = ["a.png", "https://x/y.png", url, None]
    rows(*({"question": str(place), "picture": each} for place, each in enumerate(given)))
    chat_server.answer = lambda prompt, seen: "a cat"
    text = step("generate", chat_server, row_type=IMAGED, prompt="{{ question }}", images="picture")
    run_ok(text.replace("path: rows.jsonl", "path: rows.jsonl, images: [picture]"), registry)
    assert made(registry, "question") == [("0",), ("1",), ("2",)]
    sent = {body["messages"][0]["content"][0]["text"]: body["messages"][0]["content"][1] for body in chat_server.requests}
    assert sent["0"] == sent["2"] == {"type": "image_url", "image_url": {"url": url}}
    assert sent["1"]["image_url"]["url"] == "https://x/y.png"
    assert chat_server.requests[0]["messages"][0]["content"][0]["text"] == "Which color is this?", "whether it takes images"
    assert reasons(registry) == {3: "the row has no image"}
    [(prompt,)] = ask(registry, "select prompt from llm_calls where name = 'demo/step' and row = 0")
    assert base64.b64encode(PNG).decode() not in prompt
    assert f"sha256:{hashlib.sha256(PNG).hexdigest()}" in prompt


def test_files_are_read_by_the_dataset_alone(registry: Registry, chat_server: ChatServer) -> None:
    Path("a.png").write_bytes(PNG)
    rows(*({"question": "q", "picture": each} for each in ("a.png", "ftp://x", "data:text/plain,x")))
    result = run_text(step("generate", chat_server, row_type=IMAGED, prompt="{{ question }}", images="picture"), registry)
    assert result.state == "succeeded"
    found = reasons(registry)
    assert found[0] == (
        "image 'a.png' is not in the registry; name its field under `images:` of the dataset, so that files are read with the rows"
    )
    assert found[1] == "image 'ftp://x': give a file, an http(s) URL or a data URL"
    assert found[2].startswith("image 'data:text/plain,x': a data URL is data:image/png;base64")
    assert not any(str(each["messages"][0]["content"][0]["text"]) == "q" for each in chat_server.requests)


def test_several_images_keep_their_order(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "q", "pictures": ["https://x/1", "https://x/2"]}, {"question": "many", "pictures": ["https://x/1"] * 17})
    run_ok(step("generate", chat_server, row_type=IMAGED, prompt="{{ question }}", images="pictures", into="seen"), registry)
    _, body = chat_server.requests
    assert [part["image_url"]["url"] for part in body["messages"][0]["content"][1:]] == ["https://x/1", "https://x/2"]
    assert reasons(registry) == {1: "the row has 17 images; the limit is 16"}


def test_images_as_bytes(registry: Registry, chat_server: ChatServer) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures: list[list[Any]] = [
        [{"bytes": PNG, "path": None}, {"bytes": None, "path": "https://x/1"}],
        [{"bytes": b"x", "path": "a"}],
    ]
    pq.write_table(pa.table({"question": ["a", "b"], "picture": [PNG, b""], "pictures": pictures}), "rows.parquet")
    for field in ("picture", "pictures"):
        chat_server.requests.clear()
        text = f"""
            name: {field}
            models: {{model: {chat_server.model()}}}
            datasets: {{rows: {{path: rows.parquet}}}}
            steps: {{step: {{op: generate, in: rows, max_reject_ratio: 1, with: {{prompt: "{{{{ question }}}}", images: {field}}}}}}}
        """
        run_ok(text, registry)
        url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        body = chat_server.requests[-1]
        sent = [part["image_url"]["url"] for part in body["messages"][0]["content"][1:]]
        assert sent == ([url] if field == "picture" else [url, "https://x/1"])
        [(why,)] = ask(registry, f"select reason from rejects where name = '{field}/step'")
        assert why == (
            "the row has no image" if field == "picture" else "image in the row is not a PNG, JPEG, GIF or WebP file"
        )


WEATHER = {
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
OFFERED = [{"type": "function", "function": WEATHER}]


def calling(*calls: tuple[str, str]) -> dict[str, Any]:
    """A completion that calls tools, by name and arguments."""
    answer = completion("")
    made = [
        {"id": f"c{n}", "type": "function", "function": {"name": each, "arguments": text}}
        for n, (each, text) in enumerate(calls)
    ]
    answer["choices"][0] |= {
        "message": {"role": "assistant", "content": None, "tool_calls": made},
        "finish_reason": "tool_calls",
    }
    return answer


def by_question(body: dict[str, Any]) -> Any:
    answers = {
        "rome": calling(("weather", '{"city": "Rome"}')),
        "both": calling(("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')),
        "other": calling(("whether", "{}")),
        "broken": calling(("weather", "Rome")),
        "typo": calling(("weather", '{"city": "Rome"}'), ("weather", '{"town": "Rome"}')),
        "number": calling(("weather", '{"city": 7}')),
        "nan": calling(("weather", '{"city": NaN}')),
    }
    return answers.get(body["messages"][-1]["content"], completion("Hello."))


def test_calls_of_tools_become_a_field(registry: Registry, chat_server: ChatServer) -> None:
    rows(*({"question": each} for each in ("rome", "both", "hello", "other", "broken", "typo", "number", "nan")))
    chat_server.reply = by_question
    run_ok(step("generate", chat_server, prompt="{{ question }}", tools=[WEATHER]), registry)
    assert all(body["tools"] == OFFERED for body in chat_server.requests if "weather" not in str(body["messages"]))
    rome = {"function": {"name": "weather", "arguments": '{"city": "Rome"}'}, "id": "c0", "type": "function"}
    oslo = {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}, "id": "c1", "type": "function"}
    assert made(registry, "question, response, tool_calls") == [
        ("rome", "", [rome]),
        ("both", "", [rome, oslo]),
        ("hello", "Hello.", None),
    ]
    assert reasons(registry) == {
        3: "the model called 'whether'; the tools are weather",
        4: "the arguments of the call of weather are not a JSON object: Rome",
        5: "the arguments of the call of weather do not fit its parameters: $: 'city' is a required property",
        6: "the arguments of the call of weather do not fit its parameters: $.city: 7 is not of type 'string'",
        7: 'the arguments of the call of weather are not a JSON object: {"city": NaN}',
    }


def test_tools_of_a_row_go_on_to_training(registry: Registry, chat_server: ChatServer, tmp_path: Path) -> None:
    tools = json.dumps([WEATHER])
    rows({"question": "rome", "functions": tools}, {"question": "hello"}, {"question": "both", "functions": "{}"})
    chat_server.reply = by_question
    text = f"""
        name: demo
        models: {{model: {chat_server.model()}}}
        types: {{Row: {{question: str, functions: "str?"}}}}
        datasets: {{rows: {{type: Row, path: rows.jsonl}}}}
        steps:
          asked: {{op: generate, in: rows, max_reject_ratio: 1, with: {{prompt: "{{{{ question }}}}", tools: functions}}}}
          step:
            op: to_chat
            in: asked
            with:
              messages: [{{role: user, content: "{{{{ question }}}}"}}, {{role: assistant, content: "{{{{ response }}}}"}}]
              tool_calls: tool_calls
              tools: functions
    """
    run_ok(text, registry)
    assert reasons(registry) == {
        1: "functions: the row has no tools",
        2: "functions: tool 0 has no name of letters, digits, `_` and `-`",
    }
    export(registry, "demo/step", "trl", tmp_path / "out")
    [line] = (tmp_path / "out/demo-step.jsonl").read_text().splitlines()
    written = json.loads(line)
    assert json.loads(written["tools"]) == OFFERED
    [turn] = written["completion"]
    assert turn["tool_calls"] == [
        {"function": {"name": "weather", "arguments": {"city": "Rome"}}, "id": "c0", "type": "function"}
    ]


def test_a_model_that_takes_no_tools_is_an_error_before_the_first_call(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "rome"})
    chat_server.reply = lambda body: (
        error(400, '"auto" tool choice requires --enable-auto-tool-choice') if "tools" in body else None
    )
    result = run_text(step("generate", chat_server, prompt="{{ question }}", tools=[WEATHER]), registry)
    assert result.state == "failed"
    assert "does not support `tools` (tools that the model can call), which generate needs from its model" in (
        result.error or ""
    )
    assert len(chat_server.requests) == 1
    found = wrong("generate", model={"provider": "transformers", "base_url": None}, prompt="{{ n }}", tools=[WEATHER])
    assert any("tools: models in this process call none" in said for said in found.values())


def test_a_model_that_takes_no_images_is_an_error_before_the_first_call(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "q", "picture": "https://x/1"})
    chat_server.reply = lambda body: error(400, "test-model is not a multimodal model") if "image_url" in str(body) else None
    text = step("generate", chat_server, row_type=IMAGED, prompt="{{ question }}", images="picture")
    result = run_text(text, registry)
    assert result.state == "failed"
    assert "does not support `images` (images in a prompt), which generate needs from its model" in (result.error or "")
    assert len(chat_server.requests) == 1
    found = wrong("generate", model={"provider": "transformers", "base_url": None}, prompt="{{ n }}", images="n")
    assert any("images in its prompts: models in this process take texts only" in said for said in found.values())


def test_a_prompt_that_is_too_long_for_the_model_rejects_its_row(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "long " * 50}, {"question": "short"})
    why = "This model's maximum context length is 100 tokens. However, you requested 300 tokens"
    chat_server.answer = lambda prompt, seen: error(400, why) if len(prompt) > 100 else "fine"
    run_ok(step("generate", chat_server, prompt="{{ question }}"), registry)
    assert made(registry, "response") == [("fine",)]
    assert "maximum context length is 100 tokens" in reasons(registry)[0]


def test_a_template_that_fails_for_a_row_rejects_it(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "a", "n": 0}, {"question": "b", "n": 2}, {"question": " ", "n": 1}, {"question": "c", "n": 50_000})
    prompt = "{% if 1 // n %}{% endif %}{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}{{ question }}"
    run_ok(step("generate", chat_server, prompt=prompt), registry)
    found = reasons(registry)
    assert "ZeroDivisionError" in found[0]
    assert found[2] == "the user's message is empty for this row"
    assert "at most" in found[3]
    assert made(registry, "question") == [("b",)]


def test_a_local_model_rejects_a_prompt_that_is_too_long(registry: Registry, tiny_model: Path) -> None:
    rows({"question": "long " * 5000})
    text = step(
        "generate", None, {"provider": "transformers", "model": str(tiny_model), "max_tokens": 2}, prompt="{{ question }}"
    )
    run_ok(text, registry)
    assert "the model's limit is" in reasons(registry)[0]


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        ({"prompt": "hello"}, '"hello"', "prompt: it is the same for every row, because it uses no field of the row"),
        ({"prompt": "{{ questoin }}"}, '"{{ questoin }}"', "Row has no field 'questoin'; did you mean 'question'?"),
        ({"prompt": "{question}"}, '"{question}"', "write {{ question }} instead of {question}, which is sent literally"),
        ({"prompt": "{{ question"}, '"{{ question"', "not a valid template"),
        ({"prompt": 3}, "3", "prompt: expected a text or a list of {role: ..., content: ...}"),
        ({"prompt": []}, "[]", "prompt: expected a text or a list"),
        ({"prompt": ["hello"]}, '"hello"]', "prompt: a turn is {role: ..., content: ...}"),
        ({"prompt": [{"role": "usr", "content": "{{ question }}"}]}, '"usr", "content": "{{ que', "no role 'usr'; did you mean 'user'?"),
        ({"prompt": [{"role": "user", "content": "{{ x }}"}]}, '"{{ x }}"}]', "Row has no field 'x'"),
        ({"prompt": [{"role": "assistant", "content": "{{ n }}"}]}, '"assistant", "content": ', "the last turn is the user's"),
        ({"prompt": [{"role": "user", "content": "hello"}]}, '[{"role": "user", "conten', "it is the same for every row"),
        ({"prompt": "{{ n }}", "system": "{{ x }}"}, '"{{ x }}"', "system: Row has no field 'x'"),
        ({"prompt": "{{ n }}", "into": "question"}, '"question"', "Row has a field 'question' already; choose another name, or leave it"),
        ({"prompt": "{{ n }}", "into": "Question"}, '"Question"', "Row has a field 'question' already"),
        ({"prompt": "{{ n }}", "into": "row"}, '"row"', "reserved for the row number"),
        ({"prompt": "{{ n }}", "into": "model_dump"}, '"model_dump"', "the name 'model_dump' is reserved"),
        ({"prompt": "{{ n }}", "into": "a", "fields": {"b": "str"}}, '"a"', "into and fields: an answer is either a text or has fields"),
        ({"prompt": "{{ n }}", "fields": {"b": "strr"}}, '"strr"}', "field 'b': there is no type 'strr'; did you mean 'str'?"),
        ({"prompt": "{{ n }}", "fields": {"n": "str"}}, '"str"}', "Row has a field 'n' already"),
        ({"prompt": "{{ n }}", "fields": {}}, "{}", "there are no fields"),
        ({"prompt": "{{ n }}", "fields": {"b": "Rwo"}}, '"Rwo"}', "there is no type 'Rwo'; did you mean 'Row'?"),
        ({"prompt": "{{ n }}", "keep": ["questoin"]}, '"questoin"]', "keep: Row has no field 'questoin'; did you mean 'question'?"),
        ({"prompt": "{{ n }}", "keep": ["n", "n"]}, '"n"]', "keep: 'n' is listed twice"),
        ({"prompt": "{{ n }}", "reasoning": "response"}, '"response"', "reasoning: there is a new field 'response' already"),
        ({"prompt": "{{ n }}", "images": "n"}, '"n"', "images: field 'n' is int?; expected images: str or bytes"),
        ({"prompt": "{{ n }}", "tools": []}, "[]", "tools: the list is empty"),
        ({"prompt": "{{ n }}", "tools": "n"}, '"n"', "tools: field 'n' is int?; expected str, with a list of tools as JSON"),
        ({"prompt": "{{ n }}", "tools": [{"name": "a b"}]}, "[{", "tools: tool 0 has no name of letters, digits"),
        (
            {"prompt": "{{ n }}", "tools": [{"name": "a", "parameters": {"type": "objekt"}}]},
            "[{",
            "tools: a: parameters is not a JSON Schema: $.type: 'objekt' is not valid",
        ),
        ({"prompt": "{{ n }}", "tools": [WEATHER], "into": "tool_calls"}, "[{", "there is a new field 'tool_calls' already"),
        ({"prompt": "{{ n }}", "tools": [WEATHER], "fields": {"a": "str"}}, "[{", "an answer either calls tools or has fields"),
        ({"prompt": "{{ n }}", "images": "x"}, '"x"', "images: Row has no field 'x'"),
        ({"prompt": "{{ n }}", "samples": 0}, "0", "greater than or equal to 1"),
        ({"prompt": "{{ n }}", "into": "sample", "samples": 2}, "2", "samples: there is a new field 'sample' already"),
        ({"prompt": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ n }}"}, '"{% for', "steps"),
        ({"promt": "{{ n }}"}, 'promt: "{{ n }}"', "no parameter 'promt'"),
    ],
)  # fmt: skip
def test_bad_parameters_have_a_place(params: dict[str, Any], at: str, said: str) -> None:
    found = wrong("generate", model=SAMPLED, **params)
    [text] = [text for place, text in found.items() if place.startswith(at)]
    assert said in text


def test_samples_need_a_model_that_samples() -> None:
    found = wrong("generate", model={"temperature": 0}, prompt="{{ n }}", samples=2)
    assert any("needs a model with a temperature above 0" in text for text in found.values())


def test_rows_of_a_package_and_of_an_earlier_step_get_fields_too(registry: Registry, chat_server: ChatServer) -> None:
    Path("p.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n')
    text = f"""
        name: demo
        models: {{model: {chat_server.model()}}}
        datasets: {{problems: {{type: MathProblem, path: p.jsonl}}}}
        steps:
          first: {{op: generate, in: problems, with: {{prompt: "{{{{ question }}}}", into: hint}}}}
          second: {{op: generate, in: first, with: {{prompt: "{{{{ hint }}}} {{{{ answer }}}}", into: said}}}}
        """
    run_ok(text, registry)
    assert made(registry, "question, answer, id, hint, said", "demo/second") == [
        ("2 + 2?", "4", None, "You said: 2 + 2?", "You said: You said: 2 + 2? 4")
    ]
    assert outcomes(run_text(text, registry)) == {"first": "hit", "second": "hit"}


def test_fields_can_have_types_of_the_file(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "Why?"})
    chat_server.answer = lambda prompt, seen: json.dumps({"steps": [{"text": "Because", "sure": "low"}], "done": True})
    text = step("generate", chat_server, prompt="{{ question }}", fields={"steps": "list[Step]", "done": "bool"})
    text = text.replace("types: {", "types: {Step: {text: {type: str, description: one sentence}, sure: low | high}, ")
    run_ok(text, registry)
    assert made(registry, "steps, done") == [([{"text": "Because", "sure": "low"}], True)]
    [schema] = [each["response_format"]["json_schema"]["schema"] for each in chat_server.requests]
    assert "one sentence" in json.dumps(schema)
    assert outcomes(run_text(text, registry)) == {"step": "hit"}
    assert outcomes(run_text(text.replace("low | high", "low | medium | high"), registry)) == {"step": "ran"}


def test_the_order_of_fields_is_that_of_the_answer_so_another_order_runs_again(
    registry: Registry, chat_server: ChatServer
) -> None:
    rows({"question": "Why?"})
    long = {f"a_field_with_a_long_name_{number}": "str" for number in range(4)}
    chat_server.answer = lambda prompt, seen: json.dumps(dict.fromkeys(long, "x"))
    run_ok(step("generate", chat_server, prompt="{{ question }}", fields=long), registry)
    turned = dict(reversed(long.items()))
    assert outcomes(run_text(step("generate", chat_server, prompt="{{ question }}", fields=turned), registry)) == {
        "step": "ran"
    }


def test_samples_are_repaired_at_the_same_time(registry: Registry, chat_server: ChatServer) -> None:
    rows({"question": "Why?"})
    numbers = itertools.count()

    def reply(body: dict[str, Any]) -> dict[str, Any] | None:
        if len(body["messages"]) > 1:
            return None
        return completion(*(f"no object {next(numbers)}" for _ in range(body.get("n", 1))))

    def hold(body: dict[str, Any]) -> float:
        return 0.2 if len(body["messages"]) > 1 else 0

    chat_server.reply, chat_server.hold = reply, hold
    chat_server.answer = lambda prompt, seen: '{"level": "low"}'
    text = step("generate", chat_server, SAMPLED, prompt="{{ question }}", fields={"level": "low | high"}, samples=4)
    run_ok(text, registry)
    assert made(registry, "level, sample") == [("low", number) for number in range(4)]
    assert chat_server.most_in_flight >= 4
