"""Anthropic's Messages API, called with plain aiohttp; see messages_api for its JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence

import aiohttp

from engine.llm.journal.answers import Answers
from engine.llm.providers import messages_api
from engine.llm.providers.capabilities import KnownCapabilities, lacks, recall, remember
from engine.llm.providers.http import Credentials, credentials, post_json, session
from engine.llm.providers.redaction import holds, redacted
from engine.llm.providers.response_body import body_limit
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_OF_SCHEMAS = re.compile(r"output_config|output_format|json_schema|structured output", re.IGNORECASE)


def refused_feature(error: RequestError, request: Request, known: KnownCapabilities) -> str | None:
    """What the model refuses in every request, by its name among the capabilities, if an error says so."""
    if error.refused and request.schema is not None and known.response_format is not False and _OF_SCHEMAS.search(str(error)):
        return "response_format"
    return error.parameter if error.refused else None


def headers_of(spec: ModelSpec) -> Credentials:
    """The headers of the API, which has its own for the key."""
    known = credentials(spec)
    headers = {name: value for name, value in known.headers.items() if name != "Authorization" or name in spec.headers}
    if spec.api_key_env:
        headers = {"x-api-key": known.headers["Authorization"].removeprefix("Bearer "), **headers}
    return Credentials({"anthropic-version": messages_api.VERSION, **headers}, known.secrets)


class AnthropicProvider:
    """A client for one endpoint; connections are kept and reused. Parameters that the model refuses are left out.

    Args:
        spec: the model.
        answers: the store for what is known about the server.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._capabilities: KnownCapabilities | None = None
        self._heard = False
        known = headers_of(spec)
        self._secrets = known.secrets
        self._session = session(spec, known, aiohttp.ClientTimeout(total=spec.timeout, sock_connect=spec.connect_timeout))

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One POST for the first request: the API returns one answer at a time. See Provider."""
        if self._capabilities is None:
            self._capabilities = await recall(self._answers, self._spec)
        first = requests[0]
        if "logprobs" in first.sampling:
            raise EndpointError(messages_api.NO_LOGPROBS)
        known = self._capabilities
        try:
            with redacted(self._secrets):
                return [await self._post(first, known)]
        except RequestError as error:
            refused = refused_feature(error, first, known)
            if refused is None:
                raise
            if refused in known.left_out:
                raise EndpointError(f"{error} (it refuses `{refused}` even where it is not sent)") from None
            await self._leave_out(refused)
            raise TransientError(str(error), adapted=True) from None
        except TransientError as error:
            self._heard = self._heard or not error.unreachable
            raise

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """See Provider. Requests in flight are paid for, so they finish."""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, request: Request, known: KnownCapabilities) -> Completion:
        asked = messages_api.body(self._spec, request, known)
        most = body_limit(request.max_tokens, 1, False)
        started = time.perf_counter()
        answer = await post_json(
            self._session, self._spec.url("/messages"), asked, self._spec, most=most, heard=self._heard, expected="content"
        )
        self._heard = True
        made = messages_api.completion(answer, request, (time.perf_counter() - started) * 1000)
        if holds(made.words, self._secrets):
            nothing = made.model_copy(update={"text": "", "reasoning": None, "tool_calls": (), "finish_reason": "unknown"})
            raise RequestError("the answer contains the API key, so it is discarded", nothing)
        not_sent = messages_api.left_out(request, known)
        return made.model_copy(update={"left_out": not_sent}) if not_sent else made

    async def _leave_out(self, name: str) -> None:
        assert self._capabilities is not None
        if getattr(self._capabilities, name) is not False:
            self._capabilities = self._capabilities.model_copy(update={name: False})
            self.notes.append(lacks(self._spec, name))
            await remember(self._answers, self._spec, self._capabilities)
