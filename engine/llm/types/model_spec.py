"""A model of a pipeline as frozen data: its identity, its sampling, its limits and its price."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, field_validator, model_serializer, model_validator

from engine.credentials import ENV, is_key, names_secret, secret_in_url, secrets_in
from engine.llm.types.serve_spec import ServeSpec
from engine.llm.types.spec import Spec

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_MOST_IN_BATCH = {"openai": 50_000, "anthropic": 100_000}
"""The maximum of requests in one batch of a provider's API."""

_SET_BY_ENGINE = {
    "model",
    "messages",
    "n",
    "stream",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
}
_SET_BY_ENGINE |= {"response_format", "logprobs", "top_logprobs"}
"""Keys that the engine itself sets in requests, so that `extra_body` must not contain them."""

STEP_PREFIX = "step:"

DEFAULT_MAX_TOKENS = 512
REASONING_MAX_TOKENS = 8192
"""The default for max_tokens: for any model, and for one that turns out to reason."""

ROOM_FOR_ANSWERS = 2048
"""The tokens that errors propose for an answer in addition to its thinking."""

_APIS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
"""The providers that are servers, with the address of each if the pipeline gives none."""
SERVED = "served"
"""Replaces the endpoint in keys of answers if the model has an `identity`: its server may run anywhere."""

_CACHE_WRITES = {"anthropic": 1.25}
"""What a provider bills for tokens that it puts into its cache, as a multiple of the input price: budgets are upper bounds."""

_OF_ENCODERS = {"provider", "model", "batch_size"}
"""The keys that apply to an encoder, which has no prompts, answers, server or price."""


class Address(NamedTuple):
    """Where a server of a model listens, up to and including `/v1`, and the name that it knows the model by."""

    url: str
    model: str


class Limits(Spec):
    """Limits for requests to an endpoint, divided among the runs on a machine that use it. Never part of a cache key.

    Args:
        concurrency: the maximum number of requests in flight, over all workers and all runs on this machine; the engine sends
            fewer while the server answers 429.
        requests_per_minute: requests started per minute.
        tokens_per_minute: prompt and completion tokens per minute.
        patience: seconds that the endpoint may be down, or answer nothing but 429, before the step gives up; 150 by default.
            An endpoint that is down and has never answered gets `retries` further attempts, unless this is set.
    """

    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Price(Spec):
    """US dollars per million tokens.

    Args:
        input: the price of a million prompt tokens.
        cache_write: the price of a million prompt tokens that the server puts into its cache; by default the same as `input`,
            and a quarter more with `provider: anthropic`.
        cached_input: the price of a million prompt tokens that the server had in its cache; by default the same as `input`.
        output: the price of a million completion tokens.
    """

    input: Annotated[float, Field(ge=0)] = 0.0
    cache_write: Annotated[float, Field(ge=0)] | None = None
    cached_input: Annotated[float, Field(ge=0)] | None = None
    output: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _cached_is_no_dearer(self) -> Price:
        if self.cached_input is not None and self.cached_input > self.input:
            raise ValueError("cached_input is more than input; budgets assume that input is the higher price")
        return self


class ModelSpec(Spec):
    """A model that operators call or train.

    Args:
        provider: `openai` (any compatible server), `anthropic` (its Messages API) or `transformers` (in-process);
            `sentence-transformers` (in-process) turns texts into vectors and accepts only `model` and `batch_size`.
        model: the server's model name; for `transformers` a Hugging Face id, a folder, `smollm2-135m-instruct`
            (embedded), `registry:NAME@VERSION`, or `step:NAME` for the model that a step of this pipeline trains; the same with
            `serve`; for `sentence-transformers` a Hugging Face id, a folder or `all-minilm-l6-v2` (embedded).
        serve: how the engine starts the model's server itself, in place of `base_url`.
        identity: a text that stands for everything that determines the answers, in place of the server's address and the
            model's name; part of every cache key.
            Set it to the text that `engine plan` shows for a served model to reuse its answers with a server that you start.
        base_url: the server, up to and including `/v1`; it can have a query, such as `?api-version=...`.
        headers: further headers of every request. `${env.NAME}` in a value stands for an environment variable, which is where
            secrets belong.
        api_key_env: the name of the environment variable that holds the key.
        system: a system message before every prompt without one; part of every cache key.
        temperature: how much answers vary. With null, no temperature is sent, and the server's default applies. Part of every
            cache key, as are the four keys below.
        top_p: the share of probability that tokens are drawn from.
        max_tokens: the maximum number of tokens in an answer, including its reasoning. An answer that reaches it is cut off
            and never used as if it were complete. If it is not set, a model behind an API that turns out to reason gets 8,192.
        stop: texts that end an answer.
        seed: a seed for the server, if it accepts one.
        extra_body: further parameters that the server knows (`top_k`, `reasoning_effort`, `chat_template_kwargs`), sent as
            they are; part of every cache key.
        thinking: for `anthropic`: how the model thinks before it answers, such as `{budget_tokens: 1024}` or
            `{type: adaptive}`; part of every cache key.
        limits: limits for requests to the endpoint. This key and all those below do not affect cache keys.
        price: what tokens cost, for `engine plan`, budgets and `cost_usd`.
        budget_usd: US dollars; a run stops before it spends more on this model.
        max_calls: a number of requests; a run stops before it sends more to this model. Each attempt counts.
        mode: `chat`, or `batch` for OpenAI's Batch API and Anthropic's Message Batches: half the price, within a day.
        timeout: the seconds that one request may take.
        connect_timeout: the seconds that the server may take to accept a connection.
        retries: the number of further attempts after a transient failure.
        batch_size: for models in this process, the number of answers generated, or texts encoded, together.
    """

    provider: Literal["openai", "anthropic", "transformers", "sentence-transformers"]
    model: Annotated[str, Field(min_length=1)]
    serve: ServeSpec | None = None
    identity: Annotated[str, Field(min_length=1)] | None = None
    base_url: str | None = None
    headers: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], str] = {}
    api_key_env: EnvName | None = None
    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    extra_body: dict[str, Any] = {}
    thinking: dict[str, Any] | None = None
    limits: Limits = Limits()
    price: Price = Price()
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    max_calls: Annotated[int, Field(ge=1)] | None = None
    mode: Literal["chat", "batch"] = "chat"
    timeout: Annotated[float, Field(gt=0)] = 120.0
    connect_timeout: Annotated[float, Field(gt=0)] = 30.0
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    batch_size: Annotated[int, Field(ge=1)] = 64

    @property
    def made_by(self) -> str | None:
        """The step of this pipeline that trains the model: the name after `step:`."""
        return self.model.removeprefix(STEP_PREFIX) if self.model.startswith(STEP_PREFIX) else None

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder, which turns texts into vectors; all others are chat models."""
        return self.provider == "sentence-transformers"

    def most(self, tokens_in: int, tokens_out: int) -> float:
        """The maximum cost of these tokens, whatever the server's cache does."""
        return max(self.cost(tokens_in, tokens_out), self.cost(tokens_in, tokens_out, 0, tokens_in))

    @property
    def remote(self) -> bool:
        """Whether it is behind an API. All others run in the worker's process."""
        return self.provider in _APIS

    @property
    def endpoint(self) -> str:
        """The URL that requests go to, in words if the engine serves the model; for an in-process model, its provider."""
        if self.serve is not None:
            return f"the server of {self.model}"
        if self.remote:
            return (self.base_url or _APIS[self.provider]).rstrip("/")
        return self.provider

    @property
    def answered_by(self) -> str:
        """The endpoint in keys, or what replaces it there."""
        return SERVED if self.serve is not None or self.identity is not None else self.endpoint

    def at(self, address: Address) -> ModelSpec:
        """The served model at one of its servers."""
        return self.model_copy(update={"base_url": address.url, "model": address.model, "serve": None})

    def url(self, path: str) -> str:
        """The URL of a path below the endpoint, with the endpoint's query."""
        before, mark, query = self.endpoint.partition("?")
        return f"{before.rstrip('/')}{path}{mark}{query}"

    @property
    def leaves_length_open(self) -> bool:
        """Whether a model that reasons may answer with more than `max_tokens`, because the pipeline does not set it."""
        return self.remote and "max_tokens" not in self.model_fields_set

    def longest_answer(self, asked: int) -> int:
        """The maximum number of tokens in an answer that is asked for with `asked`, if the model turns out to reason."""
        return REASONING_MAX_TOKENS if self.leaves_length_open and asked == DEFAULT_MAX_TOKENS else asked

    @property
    def environment(self) -> tuple[str, ...]:
        """The environment variables that requests need."""
        named = [name for value in self.headers.values() for name in ENV.findall(value)]
        return tuple(dict.fromkeys([*([self.api_key_env] if self.api_key_env else []), *named]))

    @property
    def capped(self) -> bool:
        """Whether it has a budget or a maximum of calls."""
        return self.max_calls is not None or self.budget_usd is not None

    @property
    def most_in_flight(self) -> int:
        """The maximum of requests in flight: a full batch in batch mode, two of its batches for an in-process model."""
        if not self.remote:
            return 2 * self.batch_size
        return self.most_in_batch if self.mode == "batch" else self.limits.concurrency

    @property
    def most_in_batch(self) -> int:
        """The maximum of requests in one batch of the provider's API."""
        return _MOST_IN_BATCH[self.provider]

    def sampling(self) -> dict[str, Any]:
        """All parameters that affect an answer; none for an encoder."""
        if self.encodes:
            return {}
        plain = self.model_dump(mode="json", include={"temperature", "top_p", "stop", "seed"})
        plain["max_tokens"] = self.max_tokens
        further = {"extra_body": self.extra_body} if self.extra_body else {}
        return plain | further | ({"thinking": self.thinking} if self.thinking is not None else {})

    def cost(self, tokens_in: int, tokens_out: int, tokens_cached: int = 0, tokens_written: int = 0) -> float:
        """The price of these tokens in US dollars. `tokens_cached` and `tokens_written` are some of `tokens_in`."""
        cached = min(tokens_in, tokens_cached)
        written = min(tokens_in - cached, tokens_written)
        price = self.price
        prompt = (tokens_in - cached - written) * price.input
        prompt += cached * (price.input if price.cached_input is None else price.cached_input)
        prompt += written * (
            _CACHE_WRITES.get(self.provider, 1.0) * price.input if price.cache_write is None else price.cache_write
        )
        full = (prompt + tokens_out * price.output) / 1e6
        return full / 2 if self.mode == "batch" else full

    @model_serializer(mode="wrap")
    def _without_open_length(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A spec that was sent to a worker still says whether the pipeline sets `max_tokens`."""
        return {name: value for name, value in dump(self).items() if name != "max_tokens" or name in self.model_fields_set}

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_base_url(cls, url: str | None) -> str | None:
        if url and (secret := secret_in_url(url)):
            raise ValueError(f"it contains {secret}; put the key into an environment variable and name it in api_key_env")
        return url

    @field_validator("base_url")
    @classmethod
    def _no_fragment_in_base_url(cls, url: str | None) -> str | None:
        if url and "#" in url:
            raise ValueError("it has a fragment (#...), which is never sent to a server; remove it")
        return url

    @field_validator("headers")
    @classmethod
    def _no_secret_in_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not value.isprintable():
                raise ValueError(f"headers.{name} has a line break or another control character")
            if is_key(value) or (names_secret(name) and ENV.sub("", value).removeprefix("Bearer").strip()):
                raise ValueError(f"headers.{name} is a secret; put it into an environment variable and write ${{env.NAME}}")
        return headers

    @field_validator("thinking")
    @classmethod
    def _thinking_has_a_type(cls, thinking: dict[str, Any] | None) -> dict[str, Any] | None:
        if thinking is None or isinstance(thinking.get("type"), str):
            return thinking
        if thinking.keys() != {"budget_tokens"}:
            raise ValueError("write {budget_tokens: N}, {type: adaptive} or {type: disabled}")
        return {"type": "enabled", **thinking}

    @field_validator("extra_body")
    @classmethod
    def _no_secret_in_extra_body(cls, body: dict[str, Any]) -> dict[str, Any]:
        if places := list(secrets_in(body, "extra_body")):
            shown = ", ".join(places)
            raise ValueError(f"{shown} is a secret; put the key into an environment variable and name it in api_key_env")
        return body

    @model_validator(mode="after")
    def _fits_the_provider(self) -> ModelSpec:
        if self.encodes:
            self._fits_an_encoder()
        if self.made_by is not None and self.remote and self.serve is None:
            raise ValueError(
                f"a step trains {self.model}, so no server has it yet: use provider: transformers, or add serve: to start one"
            )
        if self.serve is not None:
            self._fits_its_own_server()
        if self.thinking is not None and self.provider != "anthropic":
            raise ValueError(
                "thinking is only for provider: anthropic; other servers have their own keys for it, see extra_body"
            )
        if self.provider == "anthropic" and self.serve is not None:
            raise ValueError("serve is only for provider: openai, the API that such servers have")
        if self.provider == "anthropic" and self.seed is not None:
            raise ValueError("seed: Anthropic's API has no seed; remove it")
        budget = (self.thinking or {}).get("budget_tokens")
        if isinstance(budget, int) and budget >= self.max_tokens:
            default = "" if "max_tokens" in self.model_fields_set else ", the default"
            raise ValueError(
                f"thinking.budget_tokens ({budget}) must be below max_tokens ({self.max_tokens}{default}), which covers "
                f"both thinking and answer; set for example max_tokens: {budget + ROOM_FOR_ANSWERS}"
            )
        if not self.remote:
            only = {"mode: batch": self.mode == "batch", "extra_body": bool(self.extra_body), "headers": bool(self.headers)}
            only |= {"serve": self.serve is not None, "identity": self.identity is not None}
            for name, given in only.items():
                if given:
                    raise ValueError(f"{name} is only for models behind an API")
        if self.budget_usd is not None and not (self.price.input or self.price.output):
            raise ValueError("budget_usd needs a price: {input: ..., output: ...}; or limit the run with max_calls")
        if ours := sorted(self.extra_body.keys() & _SET_BY_ENGINE):
            names, verb = ", ".join(ours), "is" if len(ours) == 1 else "are"
            raise ValueError(f"extra_body: {names} {verb} set by the engine; use the model's own keys instead")
        return self

    def _fits_its_own_server(self) -> None:
        """The engine knows the address, and the server is its own: it asks for no key and takes no batches."""
        given = {
            "base_url": self.base_url is not None,
            "headers": bool(self.headers),
            "api_key_env": self.api_key_env is not None,
            "mode: batch": self.mode == "batch",
        }
        for name, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"{name} cannot be given together with serve: the engine starts the server and knows its address"
                )

    def _fits_an_encoder(self) -> None:
        # By value, because a spec that is sent to a worker has every default set.
        others = {name: info.default for name, info in type(self).model_fields.items() if name not in _OF_ENCODERS}
        if given := [name for name, default in others.items() if getattr(self, name) != default]:
            names = ", ".join(given)
            raise ValueError(f"{names}: not for an encoder ({self.provider}), which accepts only model and batch_size")
        if self.model.startswith((STEP_PREFIX, "registry:")):
            raise ValueError(f"steps train chat models, not encoders; {self.provider} needs a folder or a Hugging Face id")
