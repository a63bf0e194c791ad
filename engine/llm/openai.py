"""Any server that speaks OpenAI's chat completions, over bare aiohttp.

aiohttp costs a tenth of the `openai` package's CPU per request (0.46 ms against 5 ms), which on small machines is the
difference between a saturated endpoint and a saturated client.
"""

from __future__ import annotations

import json
import os
import socket
import time
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from engine.llm.base import Completion, EndpointError, PassingError, Request, RequestError
from engine.spec import ModelSpec

_PASSING = {408, 409, 425, 429}
_ENDPOINT = {401, 403, 404}
_WORDS = 500


class OpenAIProvider:
    """A client for one endpoint; connections are kept and reused."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._url = f"{spec.endpoint}/chat/completions"
        self._key = os.environ.get(spec.api_key_env, "") if spec.api_key_env else ""
        if spec.api_key_env and not self._key:
            # Keys do not travel with jobs: every node of a cluster must have its own.
            raise EndpointError(f"the environment variable {spec.api_key_env} is not set on {socket.gethostname()}")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=spec.timeout),
            connector=aiohttp.TCPConnector(limit=spec.limits.concurrency),
        )

    async def complete(self, request: Request) -> Completion:
        """One POST; see Provider."""
        body = {"model": self._spec.model, "messages": list(request.messages), **_sampling(request.sampling)}
        started = time.perf_counter()
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status != 200:
                    raise self._failure(response.status, await response.text(errors="replace"), response.headers)
                answer = await response.json(content_type=None)
        except TimeoutError as error:
            raise PassingError(f"{self._url}: no answer in {self._spec.timeout:.0f} s") from error
        except aiohttp.InvalidURL as error:
            raise EndpointError(f"{self._url} is not a URL; correct base_url") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise EndpointError(f"{self._url}: {error}; correct base_url, or check the network") from error
        except aiohttp.ClientConnectorError as error:
            said = f"nobody answers at {self._url} ({error.strerror or error}); is the server running, and base_url right?"
            raise PassingError(said, unreachable=True) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise PassingError(f"{self._url}: {type(error).__name__}: {error}") from error
        return self._completion(answer, (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _completion(self, answer: Any, latency_ms: float) -> Completion:
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            usage = answer.get("usage") or {}
            if message.get("refusal"):
                raise RequestError(f"the model refused: {message['refusal'][:_WORDS]}")
            text = message.get("content") or ""
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise RequestError("the answer has half of a surrogate pair, which is no character")
            return Completion(
                text=text,
                finish_reason=choice.get("finish_reason") or "stop",
                tokens_in=_count(usage.get("prompt_tokens")),
                tokens_out=_count(usage.get("completion_tokens")),
                latency_ms=round(latency_ms, 3),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise PassingError(f"{self._url}: the answer is not a chat completion ({type(error).__name__}: {error})") from error

    def _failure(self, status: int, body: str, headers: Any) -> Exception:
        words = _hide(_server_words(body), self._key)
        said = f"{self._url} answered {status}: {words}"
        if status in _ENDPOINT:
            hint = {
                401: f"check the key in {self._spec.api_key_env}" if self._spec.api_key_env else "set api_key_env",
                403: "this key may not use this model",
                404: f"check base_url and the model name {self._spec.model!r}",
            }[status]
            return EndpointError(f"{said} ({hint})")
        if status in _PASSING or status >= 500:
            return PassingError(said, _retry_after(headers.get("Retry-After")))
        return RequestError(said)


def _count(value: Any) -> int:
    """A count of tokens; what is none does not cost the answer it comes with."""
    return value if isinstance(value, int) and value >= 0 else 0


def _sampling(sampling: dict[str, Any]) -> dict[str, Any]:
    body = {"temperature": sampling["temperature"], "max_tokens": sampling["max_tokens"]}
    if sampling["top_p"] != 1.0:
        body["top_p"] = sampling["top_p"]
    if sampling["stop"]:
        body["stop"] = list(sampling["stop"])
    if sampling["seed"] is not None:
        body["seed"] = sampling["seed"]
    return body


def _server_words(body: str) -> str:
    """The message inside an error body, or the body, shortened."""
    try:
        error = json.loads(body)
        while isinstance(error, dict) and (inner := error.get("error") or error.get("message") or error.get("detail")):
            error = inner
        return str(error)[:_WORDS]
    except ValueError:
        return body.strip()[:_WORDS] or "(nothing)"


def _hide(text: str, key: str) -> str:
    """Servers repeat wrong keys in their errors; ours never shows one."""
    return text.replace(key, "***") if key else text


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
