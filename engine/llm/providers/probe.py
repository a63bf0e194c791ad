"""Finds out a server's capabilities with a few tiny requests, unless they are already known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import aiohttp

from engine.llm.journal.answers import Answers
from engine.llm.limits.governor import Gate
from engine.llm.limits.single_request import send_within_limits
from engine.llm.providers.capabilities import KnownCapabilities, recall, remember
from engine.llm.providers.chat_completions import used
from engine.llm.providers.http import credentials, post_json, session
from engine.llm.providers.parameters import renamed_max_tokens
from engine.llm.providers.redaction import redacted
from engine.llm.providers.response_body import from_json
from engine.llm.types.capability import Capability
from engine.llm.types.errors import RequestError, TransientError
from engine.llm.types.finish_reason import ending
from engine.llm.types.model_spec import ModelSpec

_MOST_WAIT = 60.0
_SAMPLES = 4
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAJ0lEQVR42u3NsQkAAAjAsP7/tF7hIASyp6lTCQQCgUAgEAgEgi/B"
    "AjLD/C5w/SM9AAAAAElFTkSuQmCC"
)
"""A picture of 32 by 32 pixels: some models take no smaller ones."""


class Probed(NamedTuple):
    """A server's capabilities, and how many requests it took to find them out."""

    capabilities: KnownCapabilities
    calls: int


async def probe(
    spec: ModelSpec,
    answers: Answers,
    wanted: Sequence[Capability],
    gate: Gate,
    *,
    recheck_all: bool = False,
    recheck: bool = False,
    at: ModelSpec | None = None,
) -> Probed:
    """Find out the wanted capabilities of a model on its server, and store each as soon as it is known.

    Args:
        spec: the model.
        answers: the store for known capabilities.
        wanted: the capabilities to look for.
        gate: the model's limits.
        recheck_all: check the known capabilities again as well: servers gain features.
        recheck: check again those that the server did not have.
        at: the model at one of its servers, if the engine has started them.

    Raises:
        EndpointError: no request can succeed there (key, model name, address).
        TransientError: the server did not answer after `retries` further attempts.
        BudgetError: the limits allow no further request.
    """
    capabilities = await recall(answers, spec)
    missing = capabilities.missing(wanted) if recheck else []
    unknown = [each for each in wanted if recheck_all or each in missing or each in capabilities.unknown(wanted)]
    if not unknown:
        return Probed(capabilities, 0)
    known = credentials(spec)
    timeout = aiohttp.ClientTimeout(total=spec.timeout, sock_connect=spec.connect_timeout)
    async with session(spec, known, timeout) as client:
        asker = _Asker(client, at or spec, known.secrets, gate, is_ours=at is not None)
        for capability in unknown:
            found: dict[str, bool | None] = {capability: await _CHECKS[capability](asker)}
            if asker.longest != "max_tokens":
                found["max_completion_tokens"] = True
            found |= dict.fromkeys(asker.refused, False)
            capabilities = capabilities.model_copy(update=found)
            await remember(answers, spec, capabilities)
    return Probed(capabilities, asker.calls)


class _Asker:
    """Asks a server.

    Args:
        is_ours: the engine has started it. Nothing waits for it to come back, because it would have another address.
    """

    def __init__(
        self, client: aiohttp.ClientSession, spec: ModelSpec, secrets: Sequence[str], gate: Gate, *, is_ours: bool
    ) -> None:
        self._client, self._spec, self._secrets, self._gate, self._is_ours = client, spec, secrets, gate, is_ours
        self._heard = False
        self.calls = 0
        self.longest = "max_tokens"
        self.seed = spec.seed
        self.refused: set[str] = set()

    async def choices(self, prompt: str, max_tokens: int, **more: Any) -> list[dict[str, Any]]:
        """The choices in the response; none if the server refuses the request.

        A server may also answer an unsupported feature with 5xx. That counts as a refusal if the server answers the same
        request without `more`, and fails again with it.
        """
        try:
            return await self._answered(prompt, max_tokens, more)
        except TransientError as error:
            if not error.refused or not more:
                raise
        await self._answered(prompt, max_tokens, {})
        try:
            return await self._answered(prompt, max_tokens, more)
        except TransientError as error:
            if error.refused:
                return []
            raise

    async def _answered(self, prompt: str, max_tokens: int, more: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices, with as many attempts as the model's `retries` allow; with one, if the server may refuse `more`."""
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._sent(prompt, max_tokens, more)
            except TransientError as error:
                if attempts > self._spec.retries or (error.refused and more) or (self._is_ours and error.down):
                    raise
                pause = _seconds_to_wait(error, attempts)
            await asyncio.sleep(pause)

    async def _sent(self, prompt: str, max_tokens: int, more: dict[str, Any]) -> list[dict[str, Any]]:
        self.calls += 1
        more = {name: value for name, value in more.items() if name not in self.refused}
        messages = [{"role": "user", "content": prompt}]
        asked = {**self._spec.extra_body, "model": self._spec.model, "messages": messages, self.longest: max_tokens, **more}
        url = self._spec.url("/chat/completions")
        try:
            with redacted(self._secrets):
                send = partial(post_json, self._client, url, asked, self._spec, heard=self._heard)
                answer = await send_within_limits(self._gate, self._spec, asked, max_tokens * int(more.get("n", 1)), send, used)
        except RequestError as error:
            self._heard = True
            if self.longest == "max_tokens" and renamed_max_tokens(str(error)):
                self.longest = "max_completion_tokens"
                return await self._sent(prompt, max_tokens, more)
            if error.parameter in more:
                self.refused.add(str(error.parameter))
                return await self._sent(prompt, max_tokens, more)
            return []
        self._heard = True
        choices = answer.get("choices")
        return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _seconds_to_wait(error: TransientError, attempts: int) -> float:
    """The server's Retry-After if it sent one; otherwise exponential back-off with full jitter."""
    if error.retry_after is not None:
        return min(error.retry_after, _MOST_WAIT)
    return random.uniform(0, min(_MOST_WAIT, 0.5 * 2 ** min(attempts, 10)))


def _texts(choices: Sequence[dict[str, Any]]) -> list[str]:
    """The texts of the choices. A reasoning model may not reach its answer within a few tokens."""
    messages = [choice.get("message") for choice in choices]
    texts = [message.get("content") for message in messages if isinstance(message, dict)]
    return [text for text in texts if text and isinstance(text, str)]


async def _n(asker: _Asker) -> bool | None:
    return len(await asker.choices("Name an animal.", 8, n=2, temperature=1)) == 2


async def _logprobs(asker: _Asker) -> bool | None:
    choices = await asker.choices("Name an animal.", 8, logprobs=True, top_logprobs=2)
    if not choices:
        return False
    given = choices[0].get("logprobs")
    if isinstance(given, dict) and given.get("content"):
        return True
    return False if _texts(choices) else None


async def _response_format(asker: _Asker) -> bool | None:
    held = {"type": "json_schema", "json_schema": {"name": "capital", "schema": _SCHEMA, "strict": True}}
    choices = await asker.choices("What is the capital of France?", 256, response_format=held)
    if not choices:
        return False
    for text in _texts(choices):
        try:
            return isinstance(from_json(text)["city"], str)
        except (ValueError, LookupError, TypeError):
            return False
    return None


async def _sampling(asker: _Asker) -> bool | None:
    texts: list[str] = []
    for sample in range(_SAMPLES):
        # As samples are asked for. Some servers draw the same each time, unless they are given different seeds.
        seeded = {} if asker.seed is None else {"seed": asker.seed + sample}
        choices = await asker.choices("Write a random number of ten digits.", 64, temperature=1, top_p=1, **seeded)
        texts += _texts([choice for choice in choices if ending(choice.get("finish_reason")) != "cut off"])
    return len(set(texts)) > 1 if len(texts) > 1 else None


async def _images(asker: _Asker) -> bool | None:
    parts = [{"type": "text", "text": "Which color is this?"}, {"type": "image_url", "image_url": {"url": _IMAGE}}]
    return bool(await asker.choices("Name a color.", 8, messages=[{"role": "user", "content": parts}]))


async def _tools(asker: _Asker) -> bool | None:
    """Whether the server takes tools. A model may answer without calling any."""
    tool = {"name": "get_weather", "description": "The weather of a city.", "parameters": _SCHEMA}
    return bool(await asker.choices("What is the weather in Paris?", 64, tools=[{"type": "function", "function": tool}]))


_CHECKS: dict[Capability, Callable[[_Asker], Awaitable[bool | None]]] = {
    "n": _n,
    "logprobs": _logprobs,
    "response_format": _response_format,
    "sampling": _sampling,
    "images": _images,
    "tools": _tools,
}
