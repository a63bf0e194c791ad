"""The command that starts a server: the engine's own programs with their options, or the user's command."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.errors import EngineError
from engine.llm.types.serve_spec import PLACEHOLDERS, ServeSpec, words_of
from engine.llm.weights import LocalWeights
from engine.serving.launch import AdapterRoom

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for max-lora-rank."""
_MOST_AT_ONCE = 8
"""Adapters in one batch: each takes GPU memory, used or not. vLLM swaps others in as requests arrive."""


class Listen(NamedTuple):
    """The address that a server is to listen at."""

    host: str
    port: int


class Command(NamedTuple):
    """A server's command, and the names that it may know the model by, the most likely first."""

    words: tuple[str, ...]
    names: tuple[str, ...]


MIDDLEWARE = "engine_adapter_guard.OnlyTheEngine"
"""In engine/serving/vllm_path, which is on the server's PYTHONPATH."""

Named = tuple[str, LocalWeights]
"""The pipeline's name for some weights, and where they are."""


def command_line(
    serve: ServeSpec,
    name: str,
    weights: LocalWeights | None,
    listen: Listen,
    beside: Sequence[Named] = (),
    room: AdapterRoom | None = None,
) -> Command:
    """The command for a server of a model on this machine.

    Args:
        name: the pipeline's name of the weights.
        weights: the path of the weights; None if the command knows it itself.
        beside: the other models that it serves (vLLM only): further adapters on the same base, or the same weights.
        room: the room for adapters on the weights, which it loads while it runs (vLLM only); see engine.serving.adapters.

    Raises:
        EngineError: the program is not on this machine, or the server cannot use the weights.
    """
    if serve.command is not None:
        return _own(serve, name, weights, listen)
    assert serve.engine is not None
    assert weights is not None
    if weights.adapter is not None and serve.engine != "vllm":
        raise EngineError(f"{serve.what} cannot serve {name}, because it is an adapter; serve it with engine: vllm")
    if serve.engine == "vllm":
        return _vllm(serve, [(name, weights), *beside], listen, room)
    return _ENGINES[serve.engine](serve, name, weights, listen)


def program_of(serve: ServeSpec) -> str:
    """The program that starts a server, or the Python that runs it.

    Raises:
        EngineError: it is not on this machine.
    """
    if serve.command is not None:
        python = str(_python(serve.python)) if serve.python else sys.executable
        return _program(serve.command[0].replace("{python}", python))
    return _interpreter(serve) if serve.engine == "llama_cpp" else _script(serve, str(serve.engine))


def _own(serve: ServeSpec, name: str, weights: LocalWeights | None, listen: Listen) -> Command:
    assert serve.command is not None
    if weights is not None and weights.adapter is not None:
        raise EngineError(f"{name} is an adapter, which a command cannot serve; serve it with engine: vllm")
    place = str(weights.folder) if weights else name
    python = str(_python(serve.python)) if serve.python else sys.executable
    meant = dict(zip(PLACEHOLDERS, (place, name, listen.host, str(listen.port), python), strict=True))
    words = [_filled(word, meant) for word in serve.command]
    return Command((_program(words[0]), *words[1:]), tuple(dict.fromkeys((name, place))))


def _vllm(serve: ServeSpec, models: Sequence[Named], listen: Listen, room: AdapterRoom | None) -> Command:
    """Full weights have the names of all models that use them; each adapter has its own name."""
    base = models[0][1]
    adapters = {name: weights.adapter for name, weights in models if weights.adapter is not None}
    own = dict.fromkeys(name for name, weights in models if weights.adapter is None)
    words = [_script(serve, "vllm"), "serve", str(base.folder), "--served-model-name", *(own or [base.name])]
    if room is not None:
        words += ["--enable-lora", *_room_options(serve, room), "--middleware", MIDDLEWARE]
    elif adapters:
        room = AdapterRoom(adapters=len(adapters), rank=max(map(rank_of, adapters.values())))
        words += ["--enable-lora", *_room_options(serve, room), "--lora-modules"]
        words += [json.dumps({"name": name, "path": str(place)}) for name, place in adapters.items()]
    return Command((*words, *_listen(listen), *_options(serve)), (models[0][0],))


def _room_options(serve: ServeSpec, room: AdapterRoom) -> list[str]:
    """By default, a batch may have requests for several adapters, and all adapters stay in memory."""
    words = ["--max-lora-rank", str(next((each for each in _LORA_RANKS if each >= room.rank), room.rank))]
    at_once, kept = _number(serve, "max-loras"), _number(serve, "max-cpu-loras")
    if at_once is None:
        at_once = max(1, min(room.adapters, kept or _MOST_AT_ONCE, _MOST_AT_ONCE))
        words += ["--max-loras", str(at_once)] if at_once > 1 else []
    return [*words, "--max-cpu-loras", str(room.adapters)] if kept is None and room.adapters > at_once else words


def _number(serve: ServeSpec, option: str) -> int | None:
    """The pipeline's value for an option of the server; None if there is none or it is not a number."""
    given = {name.replace("_", "-"): str(value) for name, value in serve.args.items()}.get(option, "")
    return int(given) if given.isdecimal() else None


def _llama_cpp(serve: ServeSpec, name: str, weights: LocalWeights, listen: Listen) -> Command:
    words = [_interpreter(serve), "-m", "llama_cpp.server", "--model", str(weights.folder), "--model_alias", name]
    return Command((*words, *_listen(listen), *_options(serve, "_")), (name,))


def _transformers(serve: ServeSpec, name: str, weights: LocalWeights, listen: Listen) -> Command:
    place = str(weights.folder)
    return Command((_script(serve, "transformers"), "serve", place, *_listen(listen), *_options(serve)), (place,))


_ENGINES: Mapping[str, Callable[[ServeSpec, str, LocalWeights, Listen], Command]] = {
    "llama_cpp": _llama_cpp,
    "transformers": _transformers,
}


def _listen(listen: Listen) -> tuple[str, ...]:
    return ("--host", listen.host, "--port", str(listen.port))


def _options(serve: ServeSpec, joint: str = "-") -> list[str]:
    return [
        word for name, value in serve.args.items() for word in words_of(name.replace("-", joint).replace("_", joint), value)
    ]


def _script(serve: ServeSpec, program: str) -> str:
    """A program of the environment that `python` names, or of PATH."""
    if serve.python is None:
        if (found := shutil.which(program)) is None:
            raise EngineError(
                f"there is no program `{program}` in PATH on {socket.gethostname()}; install it in an environment of its own, "
                "and name that in serve.python, such as /opt/vllm/bin/python"
            )
        return found
    python = _python(serve.python)
    script = python.parent / program
    if not script.is_file():
        raise EngineError(f"the environment of {python} has no program `{program}` on {socket.gethostname()}; install it there")
    return str(script)


def _interpreter(serve: ServeSpec) -> str:
    return str(_python(serve.python)) if serve.python else _program("python3")


def _python(named: str) -> Path:
    """The Python that `python` names: its path, or that of its environment."""
    path = Path(named).expanduser().absolute()  # not resolved: it may be a link, which tells Python the environment
    path = path / "bin" / "python" if path.is_dir() else path
    if not path.is_file():
        raise EngineError(f"serve.python: there is no file {path} on {socket.gethostname()}")
    return path


def _program(word: str) -> str:
    found = shutil.which(str(Path(word).expanduser()))
    if found is None:
        where = "" if "/" in word else " in PATH"
        raise EngineError(f"serve.command: there is no program {word!r}{where} on {socket.gethostname()}")
    return found


def _filled(word: str, meant: Mapping[str, str]) -> str:
    # Not str.format, because words may contain other braces, such as JSON.
    for name, text in meant.items():
        word = word.replace("{" + name + "}", text)
    return word


def rank_of(adapter: Path) -> int:
    """The rank of an adapter; raises EngineError if its folder does not state it."""
    try:
        return int(json.loads((adapter / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EngineError(
            f"the adapter in {adapter} cannot be used: it has no readable adapter_config.json ({error})"
        ) from error
