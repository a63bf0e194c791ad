"""How the engine serves a model itself: the command of its server, the settings that affect answers, and what it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from engine.credentials import is_key, names_secret, secret_in_url
from engine.llm.types.spec import Spec

PLACEHOLDERS = ("model", "name", "host", "port", "python")
"""The names that may stand in `{...}` in a command."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")

_PLAIN = re.compile(r"""[^\s"\\]+""")

_NO_EFFECT = {
    "api-server-count", "block-size", "cpu-offload-gb", "data-parallel-size", "disable-log-requests", "disable-log-stats",
    "download-dir", "enable-prefix-caching", "enforce-eager", "gpu-memory-utilization", "kv-cache-memory-bytes", "log-level",
    "max-cpu-loras", "max-loras", "max-num-batched-tokens", "max-num-seqs", "n-gpu-layers", "n-threads", "n-threads-batch",
    "pipeline-parallel-size", "swap-space", "tensor-parallel-size", "uvicorn-log-level", "verbose",
}  # fmt: skip
"""Options of servers that say how fast they answer and with which devices, not what. All others are part of keys."""

_NO_EFFECT_ENV = re.compile(
    r"CUDA_|NVIDIA_|NCCL_|OMP_|MKL_|HF_HOME|HF_HUB_|TRANSFORMERS_OFFLINE|VLLM_CPU_|VLLM_LOGGING_|TOKENIZERS_"
)

_ENGINES = {"vllm": "vllm", "llama_cpp": "llama_cpp.server", "transformers": "transformers serve"}

OptionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Option = str | int | float | bool | list[str | int | float] | dict[str, Any]


class ServeSpec(Spec):
    """How the engine starts the server of a model, with OpenAI's chat completions. It places it on a node, waits until it
    answers, restarts it when it dies or hangs, and stops it when no step needs it any more.

    Args:
        engine: `vllm`, `llama_cpp` (llama-cpp-python's server, for GGUF files) or `transformers` (`transformers serve`).
        command: the command of any other server, with its arguments. In it, `{model}` stands for the weights (a folder, a file
            or a Hugging Face id), `{name}` for their name in the pipeline, `{host}` and `{port}` for the address to listen on,
            `{python}` for `python`. Part of every cache key, as it is written here.
        args: options of the engine's server by their names without dashes, such as `max-model-len: 8192`. true stands for an
            option without a value, a list for several values. Part of every cache key, except for options that only affect
            its speed or its devices (`gpu-memory-utilization`, `tensor-parallel-size`, `max-num-seqs`, ...).
        python: the Python of the environment that the server is installed in, such as `/opt/vllm/bin/python`; by default, the
            server is looked up in PATH. This key and all those below, except `env`, do not affect cache keys.
        env: environment variables of the server, in addition to those of the worker. Part of every cache key, except for
            variables about devices and caches (`CUDA_...`, `OMP_...`, `HF_HOME`, `VLLM_CPU_...`, ...).
        replicas: the number of servers. A request goes to the one with the fewest in flight.
        num_cpus: CPUs that Ray reserves for one server; by default 1 if it has GPUs, else 0.
        num_gpus: GPUs of one server; by default 1 for `vllm` and `transformers` if the cluster has GPUs, else 0.
        memory: bytes of memory that Ray reserves for one server.
        port: the port that the server listens on; a free one by default.
        health: the path of a GET request that is answered with 200 once the server is ready; `/health` by default, or
            `/v1/models` for `llama_cpp` and `command`.
        start_timeout: the seconds that a server may take from its start until it is ready.
        hang_timeout: the seconds after which a server that was ready counts as hung, if it does not answer `health` with 200.
            It is then restarted, as if it had died.
    """

    engine: Literal["vllm", "llama_cpp", "transformers"] | None = None
    command: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    args: dict[OptionName, Option] = {}
    python: str | None = None
    env: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = {}
    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    health: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$")] | None = None
    start_timeout: Annotated[float, Field(gt=0)] = 900.0
    hang_timeout: Annotated[float, Field(gt=0, le=1e6)] = 120.0

    @property
    def has_weights(self) -> bool:
        """Whether the engine finds the weights and gives them to the server."""
        return self.engine is not None or "model" in self._placeholders

    @property
    def health_path(self) -> str:
        """The path that tells whether the server is ready."""
        return self.health or ("/health" if self.engine in ("vllm", "transformers") else "/v1/models")

    @property
    def what(self) -> str:
        """The server in a word or two."""
        return _ENGINES[self.engine] if self.engine else self.command[0] if self.command else ""

    @property
    def shown(self) -> str:
        """The server's command for people, as far as the pipeline determines it."""
        if self.command is not None:
            return _joined(self.command)
        return _joined([*self.what.split(), *(word for name, value in self.args.items() for word in words_of(name, value))])

    @property
    def needs(self) -> str:
        """The resources of one server that the pipeline names, for people."""
        amounts = [("CPU", self.num_cpus), ("GPU", self.num_gpus)]
        named = [f"{amount:g} {unit}{'' if amount == 1 else 's'}" for unit, amount in amounts if amount is not None]
        named += [] if self.memory is None else [f"{self.memory / (1 << 30):.3g} GiB of memory"]
        return ", ".join(named)

    def identity(self, weights: str) -> str:
        """What determines the answers: the weights, and the settings in this section that affect answers.

        Args:
            weights: the identity of the weights, or the model's name if only the command knows them.
        """
        env = [f"{name}={value}" for name, value in sorted(self.env.items()) if not _NO_EFFECT_ENV.match(name)]
        if self.command is not None:
            words = [*env, *self.command]
        else:
            shaping = {name.replace("_", "-"): value for name, value in self.args.items()}
            options = [words_of(name, value) for name, value in sorted(shaping.items()) if name not in _NO_EFFECT]
            words = [*env, *self.what.split(), *(word for option in options for word in option)]
        return f"{weights} [{_joined(words)}]"

    @property
    def _placeholders(self) -> set[str]:
        return {name for word in self.command or () for name in _PLACEHOLDER.findall(word)}

    @model_validator(mode="after")
    def _names_one_server(self) -> ServeSpec:
        if (self.engine is None) == (self.command is None):
            raise ValueError("give either engine (vllm, llama_cpp or transformers) or command")
        if self.command is not None:
            self._command_is_usable()
        if self.port is not None and self.replicas > 1:
            raise ValueError("port is for one server; leave it out, and each of the replicas gets a free one")
        return self

    def _command_is_usable(self) -> None:
        if not self.command:
            raise ValueError("command is empty")
        if self.args:
            raise ValueError("args is for engine; write the arguments of a command into the command")
        if self.python is not None and "python" not in self._placeholders:
            raise ValueError("python is given, but the command has no {python}")
        if "port" not in self._placeholders and self.port is None:
            raise ValueError(
                "the command has no {port}, so it would not listen where the engine looks for it; add it, or set port"
            )
        if "{port}" in self.command[0]:
            raise ValueError("the command begins with {port}; it must begin with a program")

    @field_validator("args", "env")
    @classmethod
    def _no_secret_in_settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, value in given.items():
            text = str(value)
            if is_key(text) or ("://" in text and secret_in_url(text)) or (names_secret(name.replace("-", "_")) and text):
                raise ValueError(f"{name} is a secret; set the variable in the environment of the nodes, which servers get")
        return given

    @field_validator("command")
    @classmethod
    def _no_secret_in_command(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if any(is_key(word) for word in command or ()):
            raise ValueError("the command has an API key; set it in the environment of the nodes, which servers get")
        return command


def words_of(name: str, value: Option) -> list[str]:
    """An option as words of a command line: `--name value`, `--name` for true, `--no-name` for false."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)]


def _joined(words: Iterable[str]) -> str:
    """Words as a line for people and keys: different words are different lines."""
    return " ".join(word if _PLAIN.fullmatch(word) else json.dumps(word) for word in words)
