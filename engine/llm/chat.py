"""A model as an operator sees it: it returns one answer, several answers, or a validated object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from engine.errors import EngineError
from engine.llm.providers.response_body import excerpt
from engine.llm.types.answer_limit import limit_of
from engine.llm.types.completions import Completion
from engine.llm.types.errors import RequestError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, as_messages
from engine.llm.types.row_context import discarded
from engine.llm.types.structured import UnparsableError, json_schema, parse_answer, repair_prompt
from engine.llm.types.tools import as_tools
from engine.llm.weights import LocalWeights
from engine.provenance import CallRef, marked, sources_of

if TYPE_CHECKING:
    from engine.llm.client import ModelClient

T = TypeVar("T", bound=BaseModel)

_SAMPLING = {"temperature", "top_p", "max_tokens", "stop", "seed", "extra_body"}
_MOST_KNOWN = 1000


@dataclass(frozen=True)
class Call:
    """A call that an operator made, as lineage: which answer, whether it came from the journal, and its original cost."""

    call_id: str
    role: str
    model: str
    messages: tuple[dict[str, Any], ...]
    completion: Completion
    reused: bool
    cost_usd: float


@dataclass
class CallLog:
    """The calls for one row, in the order of their answers.

    Attributes:
        asked: the number of those that the journal did not answer.
        discarded: answers that were paid for beside these, each with the model before it and its cost in US dollars after it.
    """

    calls: list[Call] = field(default_factory=list)
    asked: int = 0
    discarded: list[tuple[str, Completion, float]] = field(default_factory=list)

    def add(self, later: CallLog) -> None:
        """Append what another log has."""
        self.calls += later.calls
        self.asked += later.asked
        self.discarded += later.discarded


current_log: ContextVar[CallLog] = ContextVar("current_log")
"""The calls of the row that is being processed. The worker sets it around each row; see engine.llm.types.row_context."""


class ChatModel:
    """A model in a role of an operator.

    Args:
        role: the operator's name for it (`teacher`).
        model: the model that fills the role.
        weights: finds the weights on this machine, for an in-process model (None: the model is behind an API).
    """

    def __init__(self, role: str, model: ModelClient, weights: Callable[[], LocalWeights] | None = None) -> None:
        self.role = role
        self._model = model
        self._weights = weights
        self._plain = model.spec.sampling()
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def spec(self) -> ModelSpec:
        """The model as the pipeline defines it."""
        return self._model.spec

    @property
    def identity(self) -> str:
        """What determines the answers besides prompt and sampling parameters: the model's name, or its weights."""
        return self._model.identity

    @property
    def notes(self) -> list[str]:
        """What users should know about the model's server."""
        return self._model.notes

    @property
    def weights(self) -> LocalWeights:
        """Where the weights are on this machine (in-process models only)."""
        if self._weights is None:
            raise EngineError(f"{self.role!r} needs an in-process model (provider: transformers), not an API")
        return self._weights()

    def cut_off(self, answer: Completion) -> str:
        """How an answer that is `truncated` ended, for people to read: `cut off at max_tokens=512`."""
        return f"cut off at max_tokens={limit_of(self.spec, answer)}"

    async def chat(
        self,
        prompt: str | Sequence[Any],
        *,
        sample: int = 0,
        logprobs: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **sampling: Any,
    ) -> Completion:
        """The model's answer to a prompt.

        Args:
            prompt: a text, or messages (records or dicts with role and content). A content is a text, or a list of parts:
                `{"type": "text", "text": ...}` and `{"type": "image_url", "image_url": {"url": ...}}`, as OpenAI has them. To
                continue after a tool call, add the answer's `message()`, and for each call
                `{"role": "tool", "tool_call_id": ..., "content": ...}`.
            sample: 0 for the first answer to this prompt, 1 for the second, ...
            logprobs: request each token's log-probability and this many (0 to 20) alternatives, in the answer's
                `logprobs`. An answer without them is a RequestError.
            tools: the tools that the model may call, each as `{"type": "function", "function": {"name", "description",
                "parameters"}}`, whatever the server. The answer's `tool_calls` are the calls that the model asks for.
            sampling: temperature, top_p, max_tokens, stop, seed or extra_body, overriding the pipeline's.

        Raises:
            ValueError: the tools are invalid.
            RequestError: the server refused this request or returned no answer. If uncaught, the row is rejected.
            EndpointError: no request can succeed. If uncaught, the step stops.
        """
        [done] = await self._ask([self._request(prompt, sample, logprobs, sampling, tools=tools)])
        return done

    async def samples(
        self,
        prompt: str | Sequence[Any],
        n: int,
        *,
        first: int = 0,
        logprobs: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **sampling: Any,
    ) -> list[Completion]:
        """`n` answers to one prompt: samples `first` to `first` + n - 1. One request fetches the missing ones, if possible.

        The other arguments and the errors are those of `chat`.
        """
        return await self._ask([self._request(prompt, first + number, logprobs, sampling, tools=tools) for number in range(n)])

    async def parse(self, prompt: str | Sequence[Any], answer: type[T], *, sample: int = 0, **sampling: Any) -> T:
        """The model's answer as an object of a pydantic model.

        The server enforces the model's JSON Schema if it can (`response_format`); otherwise the prompt asks for it. If an
        answer does not validate, the model gets one chance to repair it.

        Args:
            prompt: as for `chat`.
            answer: the pydantic model.
            sample, sampling: as for `chat`.

        Raises:
            RequestError: the repaired answer does not validate either; or see `chat`.
        """
        parsed, _ = await self.parsed(prompt, answer, sample=sample, **sampling)
        return parsed

    async def parsed(
        self, prompt: str | Sequence[Any], answer: type[T], *, sample: int = 0, **sampling: Any
    ) -> tuple[T, Completion]:
        """Like `parse`, with the answer that the object was read from, for its reasoning and its counts."""
        request = self._request(prompt, sample, None, sampling, json_schema(answer))
        [completion] = await self._ask([request])
        [found] = await self._objects([request], [completion], answer)
        if isinstance(found, RequestError):
            raise found
        return found

    async def each_sample(
        self,
        prompt: str | Sequence[Any],
        n: int,
        *,
        first: int = 0,
        tools: Sequence[Mapping[str, Any]] = (),
        **sampling: Any,
    ) -> list[Completion | RequestError]:
        """Like `samples`, but a sample that fails is its error, in its place.

        Raises:
            RequestError: all samples failed.
            EndpointError: see `chat`.
        """
        return await self._ask_each([self._request(prompt, first + number, None, sampling, tools=tools) for number in range(n)])

    async def parse_each(
        self, prompt: str | Sequence[Any], answer: type[T], n: int, *, first: int = 0, **sampling: Any
    ) -> list[tuple[T, Completion] | RequestError]:
        """`n` objects with their answers, or the errors of those that failed; see `each_sample` and `parsed`."""
        schema = json_schema(answer)
        requests = [self._request(prompt, first + number, None, sampling, schema) for number in range(n)]
        made = await self._objects(requests, await self._ask_each(requests), answer)
        if all(isinstance(each, RequestError) for each in made):
            raise next(each for each in made if isinstance(each, RequestError))
        return made

    async def _ask_each(self, requests: list[Request]) -> list[Completion | RequestError]:
        made = await self._found(requests)
        if all(isinstance(each, RequestError) for each in made):
            raise next(each for each in made if isinstance(each, RequestError))
        return made

    async def _at_once(self, requests: Sequence[Request]) -> list[Completion | RequestError]:
        """The answers to different prompts, or the errors of those that failed. Calls are logged in the requests' order."""

        logs = [CallLog() for _ in requests]

        async def ask(request: Request, log: CallLog) -> Completion | RequestError:
            current_log.set(log)  # of this task alone
            [found] = await self._found([request])
            return found

        try:
            import asyncio  # commands that only check a file do without

            done = await asyncio.gather(*map(ask, requests, logs), return_exceptions=True)
        finally:
            whole = current_log.get()
            for log in logs:
                whole.add(log)
        found = []
        for each in done:
            if isinstance(each, BaseException) and not isinstance(each, RequestError):
                raise each
            found.append(each)
        return found

    async def _found(self, requests: list[Request]) -> list[Completion | RequestError]:
        """The answers, or the errors of those that failed."""
        made: dict[str, Completion | RequestError] = {}
        while left := [request for request in requests if request.key not in made]:
            try:
                made |= zip([request.key for request in left], await self._ask(left), strict=True)
            except RequestError as error:
                made |= {request.key: answer.completion for request, answer in error.found}
                failed = [request for request in left if request.key not in made]
                # If the request was refused, so are the others; if an answer was unusable, others may not be.
                made |= {request.key: error for request in (failed if error.completion is None else failed[:1])}
        return [made[request.key] for request in requests]

    async def _objects(
        self, requests: Sequence[Request], answers: Sequence[Completion | RequestError], answer: type[T]
    ) -> list[tuple[T, Completion] | RequestError]:
        """The objects in answers, or in second ones, for which the model gets one chance; the errors of those that failed.

        All second answers are asked for at once.
        """
        made: dict[int, tuple[T, Completion] | RequestError] = {}
        again: dict[int, tuple[Request, Completion]] = {}
        for place, (request, first) in enumerate(zip(requests, answers, strict=True)):
            if isinstance(first, RequestError):
                made[place] = first
                continue
            try:
                made[place] = self._object(first, answer, first), first
            except UnparsableError as error:
                repair = repair_prompt(request.messages, first.text, error)
                again[place] = replace(request, messages=tuple(repair)), first
        seconds = await self._at_once([request for request, _ in again.values()])
        for (place, (_, first)), second in zip(again.items(), seconds, strict=True):
            if isinstance(second, RequestError):
                made[place] = second
                continue
            try:
                made[place] = self._object(second, answer, first, second), second
            except UnparsableError as error:
                made[place] = RequestError(
                    f"the answer is not a valid {answer.__name__}, even after one repair attempt: {error}"
                )
        return [made[place] for place in range(len(answers))]

    def _object(self, completion: Completion, answer: type[T], *sources: Completion) -> T:
        return marked(self._parsed(completion, answer), *(call for each in sources for call in sources_of(each)))

    def _parsed(self, completion: Completion, answer: type[T]) -> T:
        """The object in an answer. If the answer was cut off, it must consist of nothing but the object."""
        text = completion.text.strip()
        if completion.truncated and not (text.startswith("{") and text.endswith("}")):
            shown = f"it was {self.cut_off(completion)}, or at a limit of the server"
            # The first text is part of a prompt, so it stays as it is.
            raise UnparsableError(f"it was cut off at max_tokens={self.spec.max_tokens}", excerpt(completion.text, 300), shown)
        return parse_answer(completion.text, answer)

    def _request(
        self,
        prompt: str | Sequence[Any],
        sample: int,
        logprobs: int | None,
        sampling: dict[str, Any],
        schema: dict[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Request:
        messages = as_messages(prompt)
        if self.spec.system is not None and messages[0]["role"] != "system":
            messages = ({"role": "system", "content": self.spec.system}, *messages)
        wanted = self._sampling(sampling)
        if logprobs is not None:
            wanted = wanted | {"logprobs": min(max(logprobs, 0), 20)}
        return Request(
            self.spec.answered_by,
            self._model.identity,
            messages,
            wanted,
            sample,
            schema,
            tools=as_tools(tools) if tools else (),
        )

    def _sampling(self, changes: dict[str, Any]) -> dict[str, Any]:
        """All sampling parameters, validated: 0 and 0.0 are the same temperature, and an unknown name is an error."""
        if unknown := changes.keys() - _SAMPLING:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"{names}: not a sampling parameter; use {', '.join(sorted(_SAMPLING))}")
        if not changes:
            return self._plain
        name = repr(sorted(changes.items()))
        if name not in self._known:
            if len(self._known) >= _MOST_KNOWN:  # for example with a seed for each row
                self._known.clear()
            self._known[name] = ModelSpec.model_validate({**self.spec.model_dump(), **changes}).sampling()
        return self._known[name]

    async def _ask(self, requests: list[Request]) -> list[Completion]:
        lost: list[Completion] = []
        discarded.set(lost)
        try:
            answers = await self._model.answer(requests)
        except RequestError as error:
            current_log.get().asked += 1
            for request, answer in error.found:
                self._log(request, answer.completion, reused=answer.reused)
            if error.completion is not None:  # unusable, but paid for
                answered = {request.key for request, _ in error.found}
                failed = next(request for request in requests if request.key not in answered)
                self._log(failed, error.completion, reused=False)
            raise
        finally:
            discarded.set(None)
            if lost:
                current_log.get().discarded += [(self.spec.model, each, self._cost(each)) for each in lost]
        current_log.get().asked += sum(not answer.reused for answer in answers)
        for request, answer in zip(requests, answers, strict=True):
            self._log(request, answer.completion, reused=answer.reused)
        return [answer.completion for answer in answers]

    def _log(self, request: Request, done: Completion, *, reused: bool) -> None:
        cost = self._cost(done)
        marked(done, CallRef(request.key))
        current_log.get().calls.append(Call(request.key, self.role, self.spec.model, request.messages, done, reused, cost))

    def _cost(self, done: Completion) -> float:
        return self.spec.cost(done.tokens_in, done.tokens_out, done.tokens_cached, done.tokens_written)
