"""A model that one step trains is used by later steps; operators may need a model only with some parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, outcomes, run_text, words


def pipeline(model: Path, rate: float = 0.05) -> dict[str, Any]:
    turns = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "yes"}]}
    Path("rows.jsonl").write_text(json.dumps(turns) + "\n")
    words("q")
    return {
        "name": "demo",
        "models": {
            "student": {"provider": "transformers", "model": str(model)},
            "tuned": {"provider": "transformers", "model": "step:sft", "max_tokens": 3, "temperature": 0},
        },
        "datasets": {"rows": {"type": "SFTExample", "path": "rows.jsonl"}, "words": {"type": "Word", "path": "words.jsonl"}},
        "steps": {
            # Written before the step that it waits for.
            "asked": {"op": "ask_once", "in": "words", "models": {"teacher": "tuned"}, "max_reject_ratio": 1},
            "sft": {"op": "train_sft", "in": "rows", "with": {"max_length": 64, "max_steps": 1, "learning_rate": rate}},
        },
    }


@pytest.mark.usefixtures("in_process")
def test_a_step_uses_the_model_that_another_step_trained(registry: Registry, tiny_model: Path) -> None:
    document = pipeline(tiny_model)
    Path("p.yaml").write_text(json.dumps(document))
    planned = {step.name: step for step in make_plan(check(Path("p.yaml")), registry, select=set(), force=set()).steps}
    assert (planned["sft"].status, planned["asked"].status, planned["asked"].waits_for) == ("RUN", "WAIT", ("sft",))

    assert run_text(json.dumps(document), registry).state == "succeeded"
    assert ("demo/asked", 1, "demo/sft", 1) in ask(registry, "select child, child_version, parent, parent_version from lineage")
    assert outcomes(run_text(json.dumps(document), registry)) == {"sft": "hit", "asked": "hit"}

    # Another model, so its answers are requested again. --select includes the step that trains it.
    again = run_text(json.dumps(pipeline(tiny_model, rate=0.01)), registry, select="asked")
    assert outcomes(again) == {"sft": "ran", "asked": "ran"}
    assert ("demo/asked", 2, "demo/sft", 2) in ask(registry, "select child, child_version, parent, parent_version from lineage")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("step:sfd", "no dataset or step 'sfd'"),
        ("step:rows", "the output of rows is SFTExample, not a model"),
        ("step:asked", "the output of asked is Word, not a model"),
    ],
)
def test_a_step_that_makes_no_model_is_reported_before_anything_runs(
    workdir: Path, tiny_model: Path, name: str, message: str
) -> None:
    document = pipeline(tiny_model)
    document["models"]["tuned"]["model"] = name
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match=message):
        check(Path("p.yaml"))


def test_a_steps_model_cannot_be_behind_an_api(workdir: Path, tiny_model: Path) -> None:
    document = pipeline(tiny_model)
    document["models"]["tuned"] = {"provider": "openai", "model": "step:sft"}
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match="a step trains step:sft"):
        check(Path("p.yaml"))


def test_a_dataset_of_models_is_not_a_step(workdir: Path, tiny_model: Path) -> None:
    document = pipeline(tiny_model)
    Path("models.jsonl").write_text("")
    document["datasets"]["old"] = {"type": "Model", "path": "models.jsonl"}
    document["models"]["tuned"]["model"] = "step:old"
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match="old is not a step of this pipeline"):
        check(Path("p.yaml"))


def test_a_step_that_needs_its_own_model_is_a_cycle(workdir: Path, tiny_model: Path) -> None:
    document = pipeline(tiny_model)
    document["steps"]["sft"]["models"] = {"student": "tuned"}
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match="the steps form a cycle"):
        check(Path("p.yaml"))


@pytest.mark.usefixtures("in_process")
def test_only_the_models_that_the_parameters_require_are_needed(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    text = (
        f"{{name: demo, models: {{judge: {chat_server.model()}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}},"
        " steps: {asked: {op: either, in: words, with: {strict: STRICT}}}}"
    )
    assert run_text(text.replace("STRICT", "true"), registry).state == "succeeded"
    with pytest.raises(PipelineError, match="either needs a model as 'teacher'"):
        run_text(text.replace("STRICT", "false"), registry)


def test_encoders_and_chat_models_cannot_replace_each_other(workdir: Path) -> None:
    words("a")
    Path("personas.jsonl").write_text('{"persona": "x"}\n')
    models = "teacher: {provider: sentence-transformers, model: all-minilm-l6-v2}"
    with pytest.raises(PipelineError, match="ask_once needs a chat model as 'teacher', but model 'teacher' is not"):
        check_text(models, "{op: ask_once, in: words}")
    models = "encoder: {provider: openai, model: m, base_url: 'http://127.0.0.1:1/v1'}"
    with pytest.raises(PipelineError, match="classify_personas needs an encoder"):
        check_text(models, "{op: classify_personas, in: personas, with: {method: embedding}}")


def check_text(models: str, step: str) -> None:
    Path("p.yaml").write_text(
        f"{{name: demo, models: {{{models}}}, datasets: {{words: {{type: Word, path: words.jsonl}},"
        f" personas: {{type: Persona, path: personas.jsonl}}}}, steps: {{only: {step}}}}}"
    )
    check(Path("p.yaml"))
