"""Reasoning and tools of teachers in training rows, in the form that TRL and chat templates take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.operator import Place
from operators.formats import trl
from operators.records import FunctionCall, Message, SFTExample, ToolCall
from operators.training.rendering import presented, thinking_name
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.run_pipelines import ask, run_text
from tests.tiny_model import TEMPLATE

SOLUTION = "So it is \\boxed{2}."
LIKE_GPT_OSS = "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}"
LIKE_QWEN = "{% if m.reasoning_content is string %}<think>{{ m.reasoning_content }}</think>{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
TOOL = {"type": "function", "function": {"name": "rain", "description": "in a city", "parameters": {"type": "object"}}}


def template(thoughts: str) -> str:
    return (
        "{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>{% endfor %}"
        f"{{% for m in messages %}}<|{{{{ m['role'] }}}}|>{thoughts}{{{{ m['content'] }}}}{CALLS}<|end|>{{% endfor %}}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def solved(registry: Registry, server: ChatServer, **settings: Any) -> list[dict[str, Any]]:
    """The completion of a teacher that reasons, as to_sft makes it."""
    reply = completion(SOLUTION)
    reply["choices"][0]["message"]["reasoning_content"] = "1 and 1 is 2."
    server.reply = lambda body: reply
    Path("problems.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model())},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems"},
            "rows": {"op": "to_sft", "in": "cot.solved", "with": settings},
        },
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    [(turns,)] = ask(registry, 'select completion from "demo/rows"')
    return [{name: value for name, value in turn.items() if value is not None} for turn in turns]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"content": SOLUTION}),
        ({"thinking": "drop"}, {"content": SOLUTION}),
        ({"thinking": "keep"}, {"content": SOLUTION, "thinking": "1 and 1 is 2."}),
        ({"thinking": "tag"}, {"content": f"<think>\n1 and 1 is 2.\n</think>\n\n{SOLUTION}"}),
    ],
)
def test_the_teachers_reasoning_is_dropped_kept_or_tagged(
    registry: Registry, chat_server: ChatServer, settings: dict[str, str], expected: dict[str, str]
) -> None:
    assert solved(registry, chat_server, **settings) == [{"role": "assistant", **expected}]


ROWS = [
    SFTExample(
        prompt=[
            Message(role="user", content="Rain in Oslo?"),
            Message(
                role="assistant",
                content="",
                tool_calls=[ToolCall(function=FunctionCall(name="rain", arguments='{"city": "Oslo"}'))],
            ),
            Message(role="tool", content="yes"),
        ],
        completion=[Message(role="assistant", content="Yes.", thinking="It says yes.")],
        tools=json.dumps([TOOL]),
    ),
    SFTExample(
        prompt=[Message(role="user", content="Wind?")],
        completion=[
            Message(
                role="assistant",
                content="",
                tool_calls=[ToolCall(function=FunctionCall(name="wind", arguments='{"knots": true}'))],
            )
        ],
    ),
    SFTExample(prompt=[Message(role="user", content="Hi")], completion=[Message(role="assistant", content="Hello.")]),
]


def test_trl_renders_what_is_exported(tiny_model: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import apply_chat_template

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template(LIKE_GPT_OSS)
    assert trl.SFT.write
    written = [{"tools": None, **trl.SFT.write(row, Place("d", place))} for place, row in enumerate(ROWS)]
    data = Dataset.from_list(written, on_mixed_types="use_json")
    shown = [apply_chat_template(row, tokenizer, tools=json.loads(row["tools"] or "[]")) for row in data]
    assert shown[0] == {
        "prompt": f'<tool>{json.dumps(TOOL)}</tool><|user|>Rain in Oslo?<|end|><|assistant|><call>rain {{"city": "Oslo"}}'
        "</call><|end|><|tool|>yes<|end|><|assistant|>",
        "completion": "<think>It says yes.</think>Yes.<|end|>",
    }
    assert shown[1]["completion"] == '<call>wind {"knots": true}</call><|end|>', "without the arguments of other tools"
    assert shown[2] == {"prompt": "<|user|>Hi<|end|><|assistant|>", "completion": "Hello.<|end|>"}


@pytest.mark.parametrize("thoughts", [LIKE_GPT_OSS, LIKE_QWEN])
@pytest.mark.usefixtures("in_process")
def test_a_student_is_trained_on_them(registry: Registry, tiny_model: Path, tmp_path: Path, thoughts: str) -> None:
    import shutil

    student = tmp_path / "student"
    shutil.copytree(tiny_model, student)
    (student / "chat_template.jinja").write_text(template(thoughts))
    Path("rows.jsonl").write_text("".join(row.model_dump_json(exclude_none=True) + "\n" for row in ROWS))
    document = {
        "name": "demo",
        "models": {"student": {"provider": "transformers", "model": str(student)}},
        "datasets": {"rows": {"type": "SFTExample", "path": "rows.jsonl"}},
        "steps": {"sft": {"op": "train_sft", "in": "rows", "with": {"max_steps": 1, "max_length": 512, "lora": None}}},
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, "select metric, value from metrics where metric like 'rows%' order by 1") == [
        ("rows", 3),
        ("rows_dropped", 0),
        ("rows_truncated", 0),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TEMPLATE, "thinking"),
        (LIKE_GPT_OSS, "thinking"),
        (LIKE_QWEN, "reasoning_content"),
        ("{% if enable_thinking %}{{ message['reasoning_content'] }}{% endif %}", "reasoning_content"),
        ("{{ message.get('reasoning') }}", "reasoning"),
    ],
)
def test_the_name_by_which_a_template_takes_reasoning(text: str, name: str) -> None:
    assert thinking_name(text) == name


def test_arguments_that_are_not_an_object_stay_unchanged() -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "[1"}}]}
    assert presented([turn], "thinking", objects=True) == [turn]


@pytest.mark.parametrize("tools", ["", "{", "{}", "[1]", "null"])
def test_tools_that_are_not_a_json_list_are_refused(tools: str) -> None:
    with pytest.raises(ValueError, match="tools is not"):
        SFTExample(prompt=[], completion=[], tools=tools)
