"""Any server that speaks OpenAI's chat completions, over bare aiohttp.

aiohttp costs a tenth of the `openai` package's CPU per request, which on small machines is the difference between a
saturated endpoint and a saturated client; `benchmarks/clients.py` measures both.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from engine.llm.journal.answers import Answers
from engine.llm.providers import chat_completions
from engine.llm.providers.capabilities import KnownCapabilities, recall, remember
from engine.llm.providers.http import api_key, post_json, session
from engine.llm.providers.redaction import holds, redacted
from engine.llm.providers.response_body import (
    GarbledError,
    body_limit,
    from_json,
)
from engine.llm.types.capability import MEANING
from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_NAMES_IT = re.compile(r"response_format|json.?schema|grammar|guided|structured output|\bn\b", re.IGNORECASE)
_GUESSES = 3


@dataclass(frozen=True)
class _Change:
    """What a server is taken for when a request is put differently.

    Attributes:
        to: abilities that it is taken to have, or not to have.
        sure: whether it said so.
    """

    to: Mapping[str, bool]
    sure: bool = True

    def and_also(self, more: Mapping[str, bool], *, sure: bool) -> _Change:
        return _Change({**self.to, **more}, sure=self.sure and sure)


_AS_IS = _Change({})


class OpenAIProvider:
    """A client for one endpoint; connections are kept and reused.

    What the server turns out not to know (`n`, `response_format`) is done without from then on, and noted.

    Args:
        spec: the model.
        answers: where it is noted what the server can do.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._abilities: KnownCapabilities | None = None
        self._differently: dict[str, _Change] = {}
        self._guesses: Counter[str] = Counter()
        self._broke_down: set[str] = set()
        self._odd_schemas: set[str] = set()
        self._heard = False
        self._key = api_key(spec)
        self._session = session(spec, self._key, aiohttp.ClientTimeout(total=spec.timeout))

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One POST; see Provider.

        A request that is refused because of what not every server knows raises a TransientError, and is put differently
        when it is sent again. Only when that helps has anything been learnt of the server.
        """
        if self._abilities is None:
            self._abilities = await recall(self._answers, self._spec)
        first = requests[0]
        change = self._differently.pop(first.key, _AS_IS)
        abilities = self._abilities.model_copy(update=change.to)
        if first.schema is not None and str(first.schema["title"]) in self._odd_schemas:
            abilities = abilities.model_copy(update={"response_format": False})
        requests = requests[: 1 if abilities.n is False else chat_completions.MOST_AT_ONCE]
        try:
            with redacted(self._key):
                found, choices, says_why = await self._post(requests, abilities)
        except (RequestError, TransientError) as error:
            self._heard = self._heard or not (isinstance(error, TransientError) and error.unreachable)
            if not error.refused or (more := self._other_words(requests, abilities, error, change)) is None:
                raise
            self._differently[first.key] = more
            raise TransientError(str(error), differently=True) from None
        self._broke_down.discard(first.key)
        await self._learn_from(change)
        if len(requests) > 1:
            await self._learn({"n": choices >= len(requests)})
        if not says_why:
            self._note(
                f"{self._spec.endpoint} does not say why answers end (finish_reason); they are taken as whole unless they took "
                "all of max_tokens"
            )
        if first.schema is not None and abilities.response_format is not False:
            if _is_json(found[0].text):
                await self._learn({"response_format": True})
            elif found[0].text.strip() and not found[0].truncated:
                await self._learn({"response_format": False})
        return found

    def _other_words(
        self, requests: Sequence[Request], abilities: KnownCapabilities, error: RequestError | TransientError, change: _Change
    ) -> _Change | None:
        """How a request that was refused is to be put when it is sent again; None when that is of no use."""
        refusal = str(error)
        if isinstance(error, TransientError):
            if requests[0].key in self._broke_down:  # putting it differently did not help
                return None
            self._broke_down.add(requests[0].key)
        if abilities.max_completion_tokens is None and "max_completion_tokens" in refusal:
            return change.and_also({"max_completion_tokens": True}, sure=True)
        schema = requests[0].schema
        held = schema is not None and abilities.response_format is not False
        if held and "invalid schema" in refusal.lower():
            self._odd_schemas.add(str(schema and schema["title"]))  # this one, not every one
            return change
        more = {}
        if len(requests) > 1 and abilities.n is None:
            more["n"] = False
        if held and abilities.response_format is None:
            more["response_format"] = False
        # A server that breaks down (5xx) may do so for other reasons; one that names what it does not know does not.
        sure = isinstance(error, RequestError) or _NAMES_IT.search(refusal) is not None
        return change.and_also(more, sure=sure) if more else None

    def stop(self, why: ModelError) -> None:
        """See Provider: what was sent is paid for, and comes to its end."""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _learn(self, found_out: Mapping[str, bool]) -> None:
        assert self._abilities is not None
        if news := {ability: able for ability, able in found_out.items() if getattr(self._abilities, ability) is None}:
            self._abilities = self._abilities.model_copy(update=news)
            self.notes += [
                f"{self._spec.endpoint} does not know `{ability}` ({MEANING[ability]})"
                for ability, able in news.items()
                if not able
            ]
            await remember(self._answers, self._spec, self._abilities)

    async def _learn_from(self, change: _Change) -> None:
        """What helped is true of the server: at once where its refusal was clear, else when it helped several times."""
        if not change.to:
            return
        self._guesses.update(list(change.to))
        if change.sure or all(self._guesses[ability] >= _GUESSES for ability in change.to):
            await self._learn(change.to)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    async def _post(self, requests: Sequence[Request], abilities: KnownCapabilities) -> chat_completions.Reply:
        sampling = requests[0].sampling
        most = body_limit(sampling["max_tokens"], len(requests), "logprobs" in sampling)
        asked = chat_completions.body(self._spec, requests, abilities)
        url = f"{self._spec.endpoint}/chat/completions"
        started = time.perf_counter()
        answer = await post_json(self._session, url, asked, self._spec, most=most, heard=self._heard)
        self._heard = True
        reply = chat_completions.completions(answer, requests, (time.perf_counter() - started) * 1000)
        if any(holds(each.text, self._key) for each in reply.completions):
            raise RequestError("the answer has the API key in it, so it is not kept", chat_completions.unused(reply))
        return reply


def _is_json(text: str) -> bool:
    try:
        return isinstance(from_json(text), dict)
    except GarbledError:
        return False
