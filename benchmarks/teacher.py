"""A teacher for benchmarks: an OpenAI-compatible endpoint that knows the answers and makes mistakes at a fixed rate.

It is a program, not a model. It recognizes the problems of word_problems.yaml, solves them step by step from their known
structure, gets each step wrong with a fixed probability, repairs a solution of its own with a fixed probability, and rewrites
problems for personas. Its answers depend on its seed, the prompt and how often the prompt was sent. benchmarks/personamath.py
starts it through `Teacher`; `python -m benchmarks.teacher` is not meant to be run by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from aiohttp import web

from benchmarks.loopback import serve
from benchmarks.word_problems import Known, calculations, recognise, rewrite

UNKNOWN = "I do not know how to solve this."
_PROBLEM = re.compile(r"^Problem:[ \n](.+?)(?=\n\s*(?:Solution|Persona):|\Z)", re.MULTILINE | re.DOTALL)
_SOLUTION = re.compile(r"^Solution:\s(.+)", re.MULTILINE | re.DOTALL)
_PERSONA = re.compile(r"^Persona:\s(.+)$", re.MULTILINE)


@dataclass
class Teacher:
    """`with Teacher(slip=0.1, repairs=0.6) as server:` serves `server.base_url`, in a process of its own.

    Args:
        slip: probability that a step of a solution goes wrong, so that long solutions are wrong more often.
        repairs: probability that a reflection gives the right solution.
        seed: the seed of all mistakes and wordings.
    """

    slip: float
    repairs: float
    seed: int = 0
    base_url: str = field(default="", init=False)

    def __enter__(self) -> Teacher:
        options = [f"--{name}={getattr(self, name)}" for name in ("slip", "repairs", "seed")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.teacher", *options], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def answer(prompt: str, slip: float, repairs: float, random: Random) -> str:
    """The answer to a prompt: a rewrite if it names a persona, another solution if it contains one, else a solution."""
    problems = _PROBLEM.findall(prompt)
    known = recognise(problems[-1].strip()) if problems else None
    if known is None:
        return UNKNOWN
    if persona := _PERSONA.search(prompt):
        return rewrite(known, persona[1], random)
    if _SOLUTION.search(prompt):
        return solution(known, 0.0 if random.random() < repairs else 1.0, random)
    return solution(known, slip, random)


def solution(known: Known, slip: float, random: Random) -> str:
    """A solution, with one calculation per line and the answer in a box."""
    steps = calculations(known, slip, random)
    return "\n".join([*map(str, steps), f"The answer is \\boxed{{{steps[-1].result}}}."])


class _Server:
    def __init__(self, slip: float, repairs: float, seed: int) -> None:
        self._slip, self._repairs, self._seed = slip, repairs, seed
        self._asked: Counter[str] = Counter()

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        choices, words = [], 0
        for index in range(body.get("n") or 1):
            random = Random(f"{self._seed}/{self._asked[prompt]}/{prompt}")
            self._asked[prompt] += 1
            text = answer(prompt, self._slip, self._repairs, random)
            words += len(text.split())
            choices.append({"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"})
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": words}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage}
        )


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slip", type=float, default=0.0)
    parser.add_argument("--repairs", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(web.post("/v1/chat/completions", _Server(options.slip, options.repairs, options.seed).chat)))


if __name__ == "__main__":
    _main()
