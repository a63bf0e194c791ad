"""Any server with OpenAI's chat completions, called with plain aiohttp.

aiohttp uses a tenth of the `openai` package's CPU per request. On small machines that decides whether the endpoint or the
client is saturated; `benchmarks/clients.py` measures both.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from engine.llm.journal.answers import Answers
from engine.llm.providers import chat_completions
from engine.llm.providers.capabilities import KnownCapabilities, lacks, recall, remember
from engine.llm.providers.http import credentials, post_json, session
from engine.llm.providers.parameters import out_of_range, renamed_max_tokens
from engine.llm.providers.redaction import holds, redacted
from engine.llm.providers.replicas import Replicas
from engine.llm.providers.response_body import (
    GarbledError,
    body_limit,
    from_json,
)
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError, UnknownModelError
from engine.llm.types.model_spec import Address, ModelSpec
from engine.llm.types.requests import Request

_NAMES = {
    "n": re.compile(r"\bn\b|completion choice|multiple (choices|completions|candidates)|\bcandidate_?count", re.IGNORECASE),
    "response_format": re.compile(r"response_format|json.?schema|grammar|guided|structured output", re.IGNORECASE),
}
"""Words of a refusal that name an optional feature."""
_NAMES_ANY = re.compile(r"requested parameters", re.IGNORECASE)
"""Words of a router that has no provider with everything that a request asks for."""

_GUESSES = 3


@dataclass(frozen=True)
class _Adaptation:
    """What to assume about a server when a refused request is sent again in another form.

    Attributes:
        assumed: capabilities that the server is assumed to have, or not to have.
        sure: whether the server said so.
    """

    assumed: Mapping[str, bool]
    sure: bool = True

    def extended(self, more: Mapping[str, bool], *, sure: bool) -> _Adaptation:
        return _Adaptation({**self.assumed, **more}, sure=self.sure and sure)


_NONE = _Adaptation({})


class OpenAIProvider:
    """A client for one endpoint; connections are kept and reused.

    Works around what the server turns out not to support (`n`, `response_format`), and notes that for the user.

    Args:
        spec: the model.
        answers: the store for the server's known capabilities.
        replicas: the servers that the engine itself has started for the model; None if the model has an address.
    """

    def __init__(self, spec: ModelSpec, answers: Answers, replicas: Replicas | None = None) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._replicas = replicas
        self._at: dict[Address, ModelSpec] = {}
        self._answers = answers
        self._capabilities: KnownCapabilities | None = None
        self._adapted: dict[str, _Adaptation] = {}
        self._said: dict[str, bool] = {}  # what refusals have said, until an answer confirms it
        self._most_samples: dict[float | None, int] = {}
        self._worked: Counter[float | None] = Counter()
        self._guesses: Counter[str] = Counter()
        self._broke_down: set[str] = set()
        self._odd_schemas: set[str] = set()
        self._heard = False
        known = credentials(spec)
        self._secrets = known.secrets
        self._session = session(spec, known, aiohttp.ClientTimeout(total=spec.timeout, sock_connect=spec.connect_timeout))

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One POST; see Provider.

        If a refusal may be due to an optional feature, this raises a TransientError, and the next attempt sends the request
        without that feature. The server's capabilities are recorded only if that helps.
        """
        if self._capabilities is None:
            self._capabilities = await recall(self._answers, self._spec)
        first = requests[0]
        adaptation = self._adapted.pop(first.key, _NONE)
        # What one request has found out, others need not find out as well, even if it has yet to be answered.
        said = {name: able for name, able in self._said.items() if getattr(self._capabilities, name) is None}
        capabilities = self._capabilities.model_copy(update={**said, **adaptation.assumed})
        if first.schema is not None and str(first.schema["title"]) in self._odd_schemas:
            capabilities = capabilities.model_copy(update={"response_format": False})
        temperature = first.sampling["temperature"]
        most = self._most_samples.get(temperature, chat_completions.MOST_AT_ONCE)
        requests = requests[: 1 if capabilities.n is False else most]
        try:
            with redacted(self._secrets):
                found, choices, says_why = await self._post(requests, capabilities)
        except (RequestError, TransientError) as error:
            self._heard = self._heard or not (isinstance(error, TransientError) and error.unreachable)
            if isinstance(error, RequestError) and error.parameter in capabilities.left_out:
                raise EndpointError(f"{error} (it refuses `{error.parameter}` even where it is not sent)") from None
            if not error.refused or (more := self._adaptation(requests, capabilities, error, adaptation)) is None:
                raise
            self._adapted[first.key] = more
            raise TransientError(str(error), adapted=True) from None
        self._broke_down.discard(first.key)
        await self._learn(said)
        await self._learn_from(adaptation)
        if len(requests) > 1:
            await self._learn({"n": choices >= len(requests)})
            self._worked[temperature] = max(self._worked[temperature], len(requests))
        if not says_why:
            self._note(
                f"{self._spec.endpoint} does not report why answers end (finish_reason); answers count as complete unless they "
                "used all of max_tokens"
            )
        if first.schema is not None and capabilities.response_format is not False:
            if _is_json(found[0].text):
                await self._learn({"response_format": True})
            elif found[0].text.strip() and not found[0].truncated:
                await self._learn({"response_format": False})
        return found

    def _adaptation(
        self,
        requests: Sequence[Request],
        capabilities: KnownCapabilities,
        error: RequestError | TransientError,
        adaptation: _Adaptation,
    ) -> _Adaptation | None:
        """How to adapt a refused request before it is sent again; None if that would not help."""
        refusal = str(error)
        if isinstance(error, TransientError):
            if requests[0].key in self._broke_down:  # adapting it did not help
                return None
            self._broke_down.add(requests[0].key)
        if capabilities.max_completion_tokens is None and renamed_max_tokens(refusal):
            self._said["max_completion_tokens"] = True
            return adaptation
        refused = error.parameter if isinstance(error, RequestError) else None
        if refused and getattr(capabilities, refused) is None:
            self._said[refused] = False
            return adaptation
        schema = requests[0].schema
        held = schema is not None and capabilities.response_format is not False
        if held and "invalid schema" in refusal.lower():
            self._odd_schemas.add(str(schema and schema["title"]))  # only this schema, not all
            return adaptation
        named = {name for name, words in _NAMES.items() if words.search(refusal)}
        suspects = {"n"} if len(requests) > 1 else set()
        if "n" in suspects & named and (capabilities.n or out_of_range(refusal) or requests[0].sampling["temperature"] == 0):
            # It gives several samples, but not so many, or not at this temperature.
            self._ask_for_fewer(requests, many=out_of_range(refusal))
            return adaptation
        suspects |= {"response_format"} if held else set()
        suspects = {name for name in suspects if getattr(capabilities, name) is None}
        if named := suspects if _NAMES_ANY.search(refusal) else suspects & named:
            self._said |= dict.fromkeys(named, False)
            return adaptation
        # A 5xx can have other causes.
        sure = isinstance(error, RequestError)
        return adaptation.extended(dict.fromkeys(suspects, False), sure=sure) if suspects else None

    def _ask_for_fewer(self, requests: Sequence[Request], *, many: bool) -> None:
        """From now on, request at most as many samples at once as the server has returned before, at this temperature.

        Args:
            many: whether they were too many; otherwise, they may have to be one.
        """
        temperature = requests[0].sampling["temperature"]
        worked = self._worked[temperature]
        fewer = worked if 0 < worked < len(requests) else len(requests) // 2 if many else 1
        self._most_samples[temperature] = min(fewer, self._most_samples.get(temperature, fewer))

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """See Provider. Requests in flight are paid for, so they finish."""
        if self._replicas is not None:
            self._replicas.release(keys, why)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _learn(self, found_out: Mapping[str, bool]) -> None:
        assert self._capabilities is not None
        if news := {
            capability: able for capability, able in found_out.items() if getattr(self._capabilities, capability) is None
        }:
            self._capabilities = self._capabilities.model_copy(update=news)
            self.notes += [lacks(self._spec, capability) for capability, able in news.items() if not able]
            await remember(self._answers, self._spec, self._capabilities)

    async def _learn_from(self, adaptation: _Adaptation) -> None:
        """Record what a successful adaptation shows: at once if the refusal was clear, otherwise after several successes."""
        if not adaptation.assumed:
            return
        self._guesses.update(list(adaptation.assumed))
        if adaptation.sure or all(self._guesses[capability] >= _GUESSES for capability in adaptation.assumed):
            await self._learn(adaptation.assumed)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    async def _post(self, requests: Sequence[Request], capabilities: KnownCapabilities) -> chat_completions.Reply:
        if self._replicas is None:
            return await self._post_to(self._spec, requests, capabilities)
        async with self._replicas.use(requests[0].key) as address:
            if address not in self._at:
                self._at[address] = self._spec.at(address)
            try:
                return await self._post_to(self._at[address], requests, capabilities)
            except (TransientError, UnknownModelError) as error:
                # It had the model: this is its successor at the same port, which has yet to load its adapters.
                gone = isinstance(error, UnknownModelError) or error.unreachable
                if gone and self._replicas.shun(address):
                    raise TransientError(str(error), adapted=True) from None  # the next attempt is sent to another server
                if isinstance(error, UnknownModelError):
                    raise TransientError(str(error), unreachable=True) from None
                raise

    async def _post_to(
        self, spec: ModelSpec, requests: Sequence[Request], capabilities: KnownCapabilities
    ) -> chat_completions.Reply:
        sampling = requests[0].sampling
        most = body_limit(requests[0].max_tokens, len(requests), "logprobs" in sampling)
        asked = chat_completions.body(spec, requests, capabilities)
        started = time.perf_counter()
        answer = await post_json(self._session, spec.url("/chat/completions"), asked, spec, most=most, heard=self._heard)
        self._heard = True
        reply = chat_completions.completions(answer, requests, (time.perf_counter() - started) * 1000)
        if left_out := chat_completions.left_out(requests[0], capabilities):
            reply = reply._replace(completions=[each.model_copy(update={"left_out": left_out}) for each in reply.completions])
        if any(holds(each.words, self._secrets) for each in reply.completions):
            raise RequestError("the answer contains the API key, so it is discarded", chat_completions.unused(reply))
        return reply


def _is_json(text: str) -> bool:
    try:
        return isinstance(from_json(text), dict)
    except GarbledError:
        return False
