"""The commands that start servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError
from engine.llm.types.serve_spec import ServeSpec
from engine.llm.weights import LocalWeights
from engine.serving.command_line import Listen, command_line
from engine.serving.launch import AdapterRoom

HERE = Listen("127.0.0.1", 8123)
FULL = LocalWeights(Path("/weights/qwen"), None, "/weights/qwen")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A folder that looks like an environment with vLLM and transformers."""
    (tmp_path / "bin").mkdir()
    for program in ("python", "vllm", "transformers"):
        (tmp_path / "bin" / program).touch(mode=0o755)
    return tmp_path


def line(serve: ServeSpec, weights: LocalWeights | None = FULL, name: str = "qwen") -> str:
    return " ".join(command_line(serve, name, weights, HERE).words)


def test_vllm(environment: Path) -> None:
    args = {"max-model-len": 8192, "enforce_eager": True, "enable-prefix-caching": False, "allowed-origins": ["a", "b"]}
    command = line(ServeSpec(engine="vllm", python=str(environment), args=args))
    assert command == (
        f"{environment}/bin/vllm serve /weights/qwen --served-model-name qwen --host 127.0.0.1 --port 8123 "
        "--max-model-len 8192 --enforce-eager --no-enable-prefix-caching --allowed-origins a b"
    )


def test_an_adapter_is_served_on_its_base_model(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 20}))
    weights = LocalWeights(Path("/weights/qwen"), tmp_path, "Qwen/Qwen3-8B")
    words = command_line(
        ServeSpec(engine="vllm", python=str(environment / "bin/python")), "registry:a/lr=1@2", weights, HERE
    ).words
    assert words[3:9] == ("--served-model-name", "Qwen/Qwen3-8B", "--enable-lora", "--max-lora-rank", "32", "--lora-modules")
    assert json.loads(words[9]) == {"name": "registry:a/lr=1@2", "path": str(tmp_path)}
    with pytest.raises(EngineError, match="transformers serve cannot serve a, because it is an adapter"):
        command_line(ServeSpec(engine="transformers", python=str(environment)), "a", weights, HERE)


def test_several_models_on_one_server(environment: Path, tmp_path: Path) -> None:
    adapters = []
    for name, rank in (("a@1", 8), ("b@1", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
        adapters.append((f"registry:{name}", LocalWeights(Path("/weights/qwen"), tmp_path / name, "Qwen/Qwen3-8B")))
    serve = ServeSpec(engine="vllm", python=str(environment))
    [(first, weights), second] = adapters
    alone = command_line(serve, first, weights, HERE, [second])
    assert alone.words[3:9] == ("--served-model-name", "Qwen/Qwen3-8B", "--enable-lora", "--max-lora-rank", "32", "--max-loras")
    assert alone.words[9:11] == ("2", "--lora-modules")
    assert [json.loads(each)["name"] for each in alone.words[11:13]] == ["registry:a@1", "registry:b@1"]
    assert alone.names == ("registry:a@1",)
    same = command_line(serve, "qwen", FULL, HERE, [("too", FULL), ("qwen", FULL)])
    assert same.words[2:7] == ("/weights/qwen", "--served-model-name", "qwen", "too", "--host")
    assert same.names == ("qwen",)


@pytest.mark.parametrize(
    ("adapters", "args", "options"),
    [
        (1, {}, "--max-lora-rank 32"),
        (3, {}, "--max-lora-rank 32 --max-loras 3"),
        (20, {}, "--max-lora-rank 32 --max-loras 8 --max-cpu-loras 20"),
        (20, {"max_loras": 4}, "--max-lora-rank 32 --max-cpu-loras 20"),
        (20, {"max-loras": 30}, "--max-lora-rank 32"),
        (20, {"max-cpu-loras": 6}, "--max-lora-rank 32 --max-loras 6"),
    ],
)
def test_a_server_with_room_for_adapters_is_started_without_any(
    environment: Path, adapters: int, args: dict[str, Any], options: str
) -> None:
    serve = ServeSpec(engine="vllm", python=str(environment), args=args)
    command = command_line(serve, "qwen", FULL, HERE, room=AdapterRoom(adapters=adapters, rank=20))
    begin = f"{environment}/bin/vllm serve /weights/qwen --served-model-name qwen --enable-lora"
    assert " ".join(command.words).startswith(
        f"{begin} {options} --middleware engine_adapter_guard.OnlyTheEngine --host 127.0.0.1 --port 8123"
    )


def test_the_other_engines(environment: Path) -> None:
    gguf = LocalWeights(Path("/weights/q.gguf"), None, "q")
    assert line(ServeSpec(engine="llama_cpp", python=str(environment), args={"n-ctx": 4096}), gguf) == (
        f"{environment}/bin/python -m llama_cpp.server --model /weights/q.gguf --model_alias qwen --host 127.0.0.1 --port 8123 "
        "--n_ctx 4096"
    )
    command = command_line(ServeSpec(engine="transformers", python=str(environment)), "qwen", FULL, HERE)
    assert " ".join(command.words) == f"{environment}/bin/transformers serve /weights/qwen --host 127.0.0.1 --port 8123"
    assert command.names == ("/weights/qwen",)


def test_a_command_with_other_braces() -> None:
    serve = ServeSpec(command=("env", "--json", '{"a": {}}', "{model}", "{name}:{host}:{port}"))
    assert line(serve).endswith('/env --json {"a": {}} /weights/qwen qwen:127.0.0.1:8123')


def test_what_an_environment_lacks(environment: Path) -> None:
    (environment / "bin/vllm").unlink()
    with pytest.raises(EngineError, match=f"the environment of {environment}/bin/python has no program `vllm`"):
        line(ServeSpec(engine="vllm", python=str(environment)))
    with pytest.raises(EngineError, match="there is no program `vllm` in PATH"):
        line(ServeSpec(engine="vllm"))
