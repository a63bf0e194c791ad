"""How fast is a model that `engine run` serves? `python -m benchmarks.serving --python VLLM_PYTHON [--model NAME] [--prompts N]`

Prints tokens per second for the same prompts, answers of the same length and the same weights: of vLLM's own offline `LLM.chat`
(which calls `LLM.generate`), of `engine run` with `serve: {engine: vllm}`, and of the provider that generates in the worker. End
tokens are ignored, so that all generate the same number of tokens. Loading counts for none: of `engine run`, the seconds from the
message that its server is ready to the message that the step is done.

The exit code is 1 if `engine run` is slower than 0.9 of `LLM.chat`. Server and engine share the CPUs here; with a GPU, the engine has
them for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.local_model import TEMPERATURE, prompts, provided
from benchmarks.runs import outcome, running

GOAL = 0.9
OFFLINE = Path(__file__).with_name("serving_offline.py")
OPERATORS = Path(__file__).with_name("serving_operators.py")
ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
_LOOK_SECONDS = 0.02


def offline(python: str, folder: Path, texts: Sequence[str], max_tokens: int, args: Mapping[str, Any]) -> float:
    """Tokens per second of vLLM by itself."""
    given = {"folder": str(folder), "prompts": texts, "max_tokens": max_tokens, "temperature": TEMPERATURE, "args": args}
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "result"
        told = json.dumps({**given, "result": str(result)})
        subprocess.run([python, str(OFFLINE), told], env={**os.environ, **ENV}, stdout=subprocess.DEVNULL, check=True)
        found = json.loads(result.read_text())
    assert found["tokens"] == len(texts) * max_tokens, found
    return float(found["tokens"] / found["seconds"])


def served(python: str, model: str, texts: Sequence[str], max_tokens: int, args: Mapping[str, Any]) -> float:
    """Tokens per second of `engine run` with a server that it starts."""
    serve = {"engine": "vllm", "python": python, "args": dict(args), "env": ENV}
    teacher = {"provider": "openai", "model": model, "temperature": TEMPERATURE, "max_tokens": max_tokens, "serve": serve}
    teacher |= {"extra_body": {"ignore_eos": True}, "limits": {"concurrency": len(texts)}}
    document = {
        "name": "serving",
        "operators": [OPERATORS.name],
        "models": {"teacher": teacher},
        "datasets": {"prompts": {"type": "Text", "path": "prompts.jsonl"}},
        "steps": {"answers": {"op": "continued", "in": "prompts"}},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / OPERATORS.name).write_bytes(OPERATORS.read_bytes())
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        said: dict[str, float] = {}
        with running(folder, document) as run:
            while run.poll() is None:
                printed = (folder / "stderr").read_text()
                for words in (" is ready after ", "answers: ran: "):
                    if words in printed:
                        said.setdefault(words, time.perf_counter())
                time.sleep(_LOOK_SECONDS)
        [step] = outcome(folder)["steps"]
    assert step["tokens_out"] == len(texts) * max_tokens, step
    ready, ended = said.values()
    return float(step["tokens_out"] / (ended - ready))


def in_process(model: str, folder: Path, texts: Sequence[str], max_tokens: int) -> float:
    """Tokens per second of the provider in the worker, with all prompts at once."""
    from engine.llm.local.transformers import TransformersProvider, load
    from engine.llm.types.model_spec import ModelSpec

    threads = os.cpu_count() or 1
    spec = ModelSpec(provider="transformers", model=model)
    loaded = dataclasses.replace(load(spec.model, folder, None, threads), ends=frozenset())

    async def measured() -> float:
        provider = TransformersProvider(spec, lambda: (folder, None), threads)
        provider._loaded = loaded
        await provided(provider, list(texts[:2]), 4)
        started = time.perf_counter()
        tokens = await provided(provider, list(texts), max_tokens)
        seconds = time.perf_counter() - started
        await provider.close()
        return tokens / seconds

    return asyncio.run(measured())


def weights_of(model: str) -> Path:
    """A folder with the weights."""
    from engine.llm.weights import identify, materialise
    from registry.storage.objects import ObjectStore

    with tempfile.TemporaryDirectory() as store:
        return materialise(identify(model, None), ObjectStore(Path(store)))


def main() -> int:
    """Run the benchmark and print its results; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", required=True, help="the Python of an environment with vLLM")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="embedded name or folder")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    texts, folder = prompts(options.prompts), weights_of(options.model)
    # What follows from the kind of use otherwise, and differs between the two.
    args = {"max-model-len": 1024, "enforce-eager": True, "max-num-seqs": 64, "max-num-batched-tokens": 2048}
    rates = {
        "vLLM's LLM.chat": offline(options.python, folder, texts, options.max_tokens, args),
        "engine run, served by vLLM": served(options.python, options.model, texts, options.max_tokens, args),
        "provider in the worker": in_process(options.model, folder, texts, options.max_tokens),
    }
    first = next(iter(rates.values()))
    table = Table(title=f"{options.model}: {len(texts)} prompts, {options.max_tokens} tokens each")
    for column in ("", "tokens/s", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / first:.2f}")
    console = Console(width=100)
    console.print(table)
    share = rates["engine run, served by vLLM"] / first
    console.print(f"{share:.2f} of vLLM alone; the goal is at least {GOAL}: {'met' if share >= GOAL else 'missed'}")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
