"""Ask a server what it can do, in a few tiny requests, before it is relied on; what is known is not asked again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import aiohttp
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from engine.llm.abilities import Abilities, Ability, recall, remember
from engine.llm.base import PassingError, RequestError
from engine.llm.gated import gated
from engine.llm.journal import Answers
from engine.llm.limits import Gate
from engine.llm.openai import api_key, post_json, session
from engine.spec import ModelSpec

_TRIES = 4
_SAMPLES = 4
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Probed(NamedTuple):
    """What a server can do, and how many requests it took to find out."""

    abilities: Abilities
    calls: int


async def probe(spec: ModelSpec, answers: Answers, wanted: Sequence[Ability], gate: Gate, *, anew: bool = False) -> Probed:
    """Find out the wanted abilities of a model on its server, and keep them.

    Args:
        spec: the model.
        answers: where what is known is kept.
        wanted: abilities.
        gate: the model's limits.
        anew: ask also for what is known: servers learn.

    Raises:
        EndpointError: no request can succeed there (key, model name, address).
        PassingError: the server does not answer now.
        BudgetError: the limits allow no further request.
    """
    abilities, asker = await recall(answers, spec), None
    unknown = wanted if anew else abilities.unknown(wanted)
    if not unknown:
        return Probed(abilities, 0)
    secret = api_key(spec)
    async with session(spec, secret, aiohttp.ClientTimeout(total=spec.timeout)) as client:
        asker = _Asker(client, spec, secret, gate)
        found: dict[str, bool | None] = {ability: await _CHECKS[ability](asker) for ability in unknown}
    if asker.longest != "max_tokens":
        found["max_completion_tokens"] = True
    abilities = abilities.model_copy(update=found)
    await remember(answers, spec, abilities)
    return Probed(abilities, asker.calls)


class _Asker:
    def __init__(self, client: aiohttp.ClientSession, spec: ModelSpec, secret: str, gate: Gate) -> None:
        self._client, self._spec, self._secret, self._gate = client, spec, secret, gate
        self.calls = 0
        self.longest = "max_tokens"

    @retry(
        retry=retry_if_exception_type(PassingError),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(0.5, max=20),
        reraise=True,
    )
    async def choices(self, prompt: str, max_tokens: int, **more: Any) -> list[dict[str, Any]]:
        """The choices that come back; none when the server refuses the request."""
        self.calls += 1
        messages = [{"role": "user", "content": prompt}]
        asked = {**self._spec.extra_body, "model": self._spec.model, "messages": messages, self.longest: max_tokens, **more}
        try:
            send = partial(post_json, self._client, f"{self._spec.endpoint}/chat/completions", asked, self._spec, self._secret)
            answer = await gated(self._gate, self._spec, asked, max_tokens * int(more.get("n", 1)), send)
        except RequestError as error:
            if self.longest == "max_tokens" and "max_completion_tokens" in str(error):
                self.longest = "max_completion_tokens"
                raise PassingError(str(error)) from error
            return []
        return list(answer.get("choices") or []) if isinstance(answer, dict) else []


def _texts(choices: Sequence[dict[str, Any]]) -> list[str]:
    """What was said; models that think may come to no word within a few tokens."""
    return [text for choice in choices if (text := (choice.get("message") or {}).get("content"))]


async def _n(asker: _Asker) -> bool | None:
    return len(await asker.choices("Name an animal.", 8, n=2, temperature=1)) == 2


async def _logprobs(asker: _Asker) -> bool | None:
    choices = await asker.choices("Name an animal.", 8, logprobs=True, top_logprobs=2)
    if (choices and (choices[0].get("logprobs") or {}).get("content")) or not choices:
        return bool(choices)
    return False if _texts(choices) else None


async def _response_format(asker: _Asker) -> bool | None:
    held = {"type": "json_schema", "json_schema": {"name": "capital", "schema": _SCHEMA, "strict": True}}
    choices = await asker.choices("What is the capital of France?", 256, response_format=held)
    if not choices:
        return False
    for text in _texts(choices):
        try:
            return isinstance(json.loads(text)["city"], str)
        except (ValueError, KeyError, TypeError):
            return False
    return None


async def _sampling(asker: _Asker) -> bool | None:
    texts: list[str] = []
    for _ in range(_SAMPLES):
        texts += _texts(await asker.choices("Write a random number of ten digits.", 64, temperature=1, top_p=1))
    return len(set(texts)) > 1 if len(texts) > 1 else None


_CHECKS: dict[Ability, Callable[[_Asker], Awaitable[bool | None]]] = {
    "n": _n,
    "logprobs": _logprobs,
    "response_format": _response_format,
    "sampling": _sampling,
}
