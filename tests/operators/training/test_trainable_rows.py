"""Rows on which a trainer would fail are named before a model is loaded; warnings of its libraries are passed on."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from operators.training.library_warnings import collected_warnings
from registry import Registry
from tests.engine.run_pipelines import run_text
from tests.tiny_model import TEMPLATE

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}"
)
THINKING = "{% if add_generation_prompt %}<|system|>{% endif %}"


def turn(role: str, content: str = "x") -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture
def student(tiny_model: Path, tmp_path: Path) -> Any:
    """Makes a copy of the tiny model with another chat template."""
    import shutil

    def copy(template: str = TEMPLATE) -> Path:
        folder = tmp_path / f"student-{abs(hash(template))}"
        if not folder.exists():
            shutil.copytree(tiny_model, folder)
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return copy


def train(registry: Registry, model: Path, rows: list[dict[str, Any]], kind: str = "sft", **settings: Any) -> Any:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    types = {"sft": "SFTExample", "dpo": "PreferencePair", "kto": "LabelledExample"}
    given = {"batch_size": 2, "max_steps": 1, "max_length": 64, "lora": None, **settings}
    document = {
        "name": "demo",
        "models": {"student": {"provider": "transformers", "model": str(model)}},
        "datasets": {"rows": {"type": types[kind], "path": "rows.jsonl"}},
        "steps": {"trained": {"op": f"train_{kind}", "in": "rows", "with": given}},
    }
    return run_text(json.dumps(document), registry)


GOOD = {"prompt": [turn("user")], "completion": [turn("assistant")]}
PAIR = {"prompt": [turn("user")], "chosen": [turn("assistant", "y")], "rejected": [turn("assistant", "n")]}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("kind", "template", "rows", "why"),
    [
        ("sft", "", [{**GOOD, "completion": []}, GOOD], "row 0: `completion` has no message; add one"),
        ("sft", "", [GOOD, {**GOOD, "prompt": []}], "row 1: `prompt` has no message"),
        ("sft", "", [GOOD, *[{**GOOD, "prompt": []}] * 9], "rows 1, 2, 3, 4, 5 and 4 more: `prompt` has no message"),
        ("dpo", "", [PAIR, {**PAIR, "rejected": []}], "row 1: `rejected` has no message"),
        ("kto", "", [{**GOOD, "label": True}, {**GOOD, "label": True, "completion": []}], "row 1: `completion` has no"),
        ("kto", "", [{**GOOD, "label": True}], "there is only one"),
        (
            "sft",
            NO_SYSTEM,
            [GOOD, {**GOOD, "prompt": [turn("system"), turn("user")]}],
            "row 1: the student's chat template refuses its turns (system, user): no system role here; put the system text into",
        ),
        (
            "dpo",
            ALTERNATING,
            [PAIR, {**PAIR, "prompt": [turn("user"), turn("user")]}],
            "row 1: the student's chat template refuses its turns (user, user): turns must alternate; join consecutive turns of the same role",
        ),
        (
            "sft",
            "{{ messages[3].content }}",
            [GOOD],
            "row 0: the student's chat template refuses its turns (user)",
        ),
    ],
    ids=[
        "no-completion",
        "no-prompt",
        "many",
        "no-rejected",
        "kto",
        "one-for-kto",
        "system",
        "alternation",
        "a-template-that-fails",
    ],
)
def test_bad_rows_are_named_with_a_remedy(
    kind: str, template: str, rows: list[dict[str, Any]], why: str, registry: Registry, student: Any
) -> None:
    import transformers

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transformers.AutoModelForCausalLM, "from_pretrained", pytest.fail)
        result = train(registry, student(template + TEMPLATE), rows, kind)
    assert result.state == "failed"
    assert why in result.error


@pytest.mark.usefixtures("in_process")
def test_a_student_without_a_chat_template_is_an_error(registry: Registry, student: Any) -> None:
    folder = student("{# another folder #}")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in train(registry, folder, [GOOD]).error


@pytest.mark.usefixtures("in_process")
def test_rows_longer_than_the_students_positions_are_an_error_or_noted(
    registry: Registry, tiny_model: Path, student: Any
) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    long = {**GOOD, "completion": [turn("assistant", "y" * 90)]}
    fixed = student("{# learned positions #}" + TEMPLATE)
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=260, n_positions=40, n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(shape).save_pretrained(fixed)
    refused = train(registry, fixed, [GOOD, long])
    assert "row 1: longer than the 40 tokens that the model supports (max_length is 64). Set max_length: 40" in refused.error
    assert train(registry, fixed, [GOOD, long], max_length=40).state == "succeeded"

    rotary = student("{# rotary positions #}" + TEMPLATE)
    config = json.loads((rotary / "config.json").read_text())
    (rotary / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    result = train(registry, rotary, [GOOD, long])
    assert result.state == "succeeded", result.error
    assert any("row 1: longer than the 40 tokens" in note for note in notes(result))


def notes(result: Any) -> list[str]:
    return [note for outcome in result.steps for note in outcome.notes]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
def test_trls_warnings_reach_the_user_once(kind: str, registry: Registry, student: Any) -> None:
    row = PAIR if kind == "dpo" else GOOD | ({"label": True} if kind == "kto" else {})
    result = train(registry, student(TEMPLATE + THINKING), [row] * 3, kind)
    assert result.state == "succeeded", result.error
    warned = [note for note in notes(result) if note.startswith("trl: The tokenized prompt is not a prefix")]
    assert len(warned) == 1


@pytest.mark.usefixtures("in_process")
def test_discouraged_settings_and_blank_completions_are_noted(registry: Registry, student: Any) -> None:
    blank = {**GOOD, "completion": [turn("assistant", " ")]}
    result = train(registry, student(), [GOOD, blank], truncation_mode="keep_end")
    assert result.state == "succeeded", result.error
    assert any("'keep_end'` truncation mode is deprecated" in note for note in notes(result))
    assert "row 1: an empty completion, which teaches the model to give no answer" in notes(result)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
def test_ordinary_training_gives_no_notes(kind: str, registry: Registry, student: Any) -> None:
    rows = [PAIR] * 2 if kind == "dpo" else [GOOD | ({"label": label} if kind == "kto" else {}) for label in (True, False)]
    result = train(registry, student(), rows, kind)
    assert (result.state, notes(result)) == ("succeeded", [])


@pytest.mark.training
def test_warnings_are_collected_once_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    before = logging.getLogger("transformers").level, warnings.showwarning
    with collected_warnings() as found:
        for _ in range(2):
            logging.getLogger("trl.trainer.sft_trainer").warning("[RANK 0] mind  the\ngap %d", 3)
            transformers.logging.get_logger("transformers.tokenization").warning_once("too long")
            warnings.warn("of ours", FutureWarning, stacklevel=1)
        logging.getLogger("trl.trainer").info("chatter")
    with collected_warnings() as again:
        transformers.logging.get_logger("transformers.tokenization").warning_once("too long")
    assert found == ["trl: mind the gap 3", "transformers: too long", "trl: of ours"]
    assert again == ["transformers: too long"]
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger("transformers").level, warnings.showwarning) == before


CALL = {"function": {"name": "rain", "arguments": '{"city": "Oslo"}'}, "type": "function"}
CALLING = (
    "{% for m in messages %}{% for c in m['tool_calls'] or [] %}"
    "{{ c.function.name }}{{ c.function.arguments | FORM }}{% endfor %}{% endfor %}"
)
LEFT_OUT = {
    "calls": ({"tool_calls": [CALL]}, "", "leaves out tool_calls of its turns"),
    "arguments": ({"tool_calls": [CALL]}, CALLING.replace("FORM", "string | tojson"), "writes their arguments as Python"),
    "thinking": ({"thinking": "Hm."}, "", "leaves out thinking of its turns"),
    "a name": ({"name": "Ann"}, "", "leaves out name of its turns"),
}


@pytest.mark.parametrize("case", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_the_template_leaves_out_is_not_trained_without(
    registry: Registry, student: Any, in_process: None, case: tuple[dict[str, Any], str, str]
) -> None:
    more, template, words = case
    rows = [GOOD, {"prompt": [turn("user")], "completion": [{**turn("assistant"), **more}]}]
    result = train(registry, student(TEMPLATE + template), rows)
    assert "row 1: the student's chat template leaves out" in (result.error or "")
    assert words in (result.error or "")


@pytest.mark.parametrize("form", ["string", "tojson"])  # templates take arguments as JSON text, or as an object
def test_calls_that_the_template_writes_are_trained_on(registry: Registry, student: Any, in_process: None, form: str) -> None:
    rows = [GOOD, {"prompt": [turn("user")], "completion": [{**turn("assistant"), "tool_calls": [CALL]}]}]
    result = train(registry, student(TEMPLATE + CALLING.replace("FORM", form)), rows, max_length=256)
    assert result.state == "succeeded", result.error


TOOLS = json.dumps([{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}])
WITH_TOOLS = "{% for tool in tools or [] %}<|system|>{{ tool | tojson }}{% endfor %}"


def test_tools_that_the_template_leaves_out_are_an_error(registry: Registry, student: Any, in_process: None) -> None:
    result = train(registry, student(), [GOOD, {**GOOD, "tools": TOOLS}])
    assert "row 1: the student's chat template leaves out tools" in (result.error or "")


def test_rows_with_and_without_tools_are_trained_on(registry: Registry, student: Any, in_process: None) -> None:
    result = train(registry, student(WITH_TOOLS + TEMPLATE), [GOOD, {**GOOD, "tools": TOOLS}], max_length=256)
    assert result.state == "succeeded", result.error
