"""The pipeline file as frozen pydantic models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from engine.spec.credentials import secret_in_url, secrets_in

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Names of pipelines, datasets, steps and roles: lower case, because SQL does not tell cases apart."""

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

MOST_IN_BATCH = 50_000
"""Requests in one batch of OpenAI's Batch API."""

_OURS = {"model", "messages", "n", "stream", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed"}
_OURS |= {"response_format", "logprobs", "top_logprobs"}
"""What requests say of their own accord, and `extra_body` must not."""

STEP = "step:"

_OF_ENCODERS = {"provider", "model", "batch_size"}
"""Keys of a model that mean something for an encoder, which has no prompts, answers, server or price."""

_ENV = re.compile(r"\$\{env\.[A-Za-z_][A-Za-z0-9_]*\}")


class Spec(BaseModel):
    """A part of the file: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Limits(Spec):
    """How hard an endpoint may be driven. Never part of a cache key.

    Args:
        concurrency: requests in flight, over all workers; fewer for as long as the server answers 429.
        requests_per_minute: started requests a minute.
        tokens_per_minute: prompt and completion tokens a minute.
        patience: seconds that the endpoint may be down before the step gives up; 150 by default. An endpoint that has
            never answered gets `retries` further tries, unless this is set.
    """

    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Price(Spec):
    """US dollars for a million tokens."""

    input: Annotated[float, Field(ge=0)] = 0.0
    output: Annotated[float, Field(ge=0)] = 0.0


class ModelSpec(Spec):
    """A model that operators call or train.

    Args:
        provider: `openai` (any compatible server) or `transformers` (in this process); `sentence-transformers` (in this
            process) makes vectors of texts and takes `model` and `batch_size` only.
        model: the server's model name; for `transformers` a Hugging Face id, a folder, `smollm2-135m-instruct`
            (embedded), `registry:NAME@VERSION`, or `step:NAME` for the model that a step of this pipeline makes; for
            `sentence-transformers` a Hugging Face id, a folder or `all-minilm-l6-v2` (embedded).
        base_url: the server, up to and including `/v1`.
        api_key_env: the name of the environment variable that holds the key.
        system: a system message before every prompt that has none of its own; part of every cache key.
        temperature, top_p, max_tokens, stop, seed: sampling; part of every cache key.
        extra_body: further parameters that the server knows (`top_k`, `reasoning_effort`, `chat_template_kwargs`), sent as
            they are; part of every cache key.
        limits, price, timeout, retries, batch_size, mode: how to call; never part of a cache key. `timeout` is seconds
            for one request; `retries` counts further tries after a passing failure. `batch_size` is for models in this
            process: answers generated, or texts encoded, together. `mode: batch` uses OpenAI's Batch API: half the price,
            within a day.
        budget_usd, max_calls: a run stops before it spends more, or sends more requests (tries count).
    """

    provider: Literal["openai", "transformers", "sentence-transformers"]
    model: Annotated[str, Field(min_length=1)]
    base_url: str | None = None
    api_key_env: EnvName | None = None
    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    stop: tuple[str, ...] = ()
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    extra_body: dict[str, Any] = {}
    limits: Limits = Limits()
    price: Price = Price()
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    max_calls: Annotated[int, Field(ge=1)] | None = None
    mode: Literal["chat", "batch"] = "chat"
    timeout: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    batch_size: Annotated[int, Field(ge=1)] = 64

    @property
    def made_by(self) -> str | None:
        """The step of this pipeline that makes the model: what follows `step:`."""
        return self.model.removeprefix(STEP) if self.model.startswith(STEP) else None

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder, which makes vectors of texts; the others chat."""
        return self.provider == "sentence-transformers"

    @property
    def endpoint(self) -> str:
        """Where requests go; for an in-process model, its provider."""
        if self.provider == "openai":
            return (self.base_url or "https://api.openai.com/v1").rstrip("/")
        return self.provider

    @property
    def capped(self) -> bool:
        """Whether a run may spend only so much on it."""
        return self.max_calls is not None or self.budget_usd is not None

    @property
    def most_in_flight(self) -> int:
        """Requests that may be under way: a batch takes as many as there are, a model in a worker two of its batches."""
        if self.provider != "openai":
            return 2 * self.batch_size
        return MOST_IN_BATCH if self.mode == "batch" else self.limits.concurrency

    def sampling(self) -> dict[str, Any]:
        """Every parameter that shapes an answer; of an encoder none."""
        if self.encodes:
            return {}
        plain = self.model_dump(mode="json", include={"temperature", "top_p", "max_tokens", "stop", "seed"})
        return plain | ({"extra_body": self.extra_body} if self.extra_body else {})

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Price of so many tokens in US dollars."""
        full = (tokens_in * self.price.input + tokens_out * self.price.output) / 1e6
        return full / 2 if self.mode == "batch" else full

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_base_url(cls, url: str | None) -> str | None:
        if url and (secret := secret_in_url(url)):
            raise ValueError(f"it has {secret} in it; put the key into an environment variable and name that: api_key_env")
        return url

    @field_validator("extra_body")
    @classmethod
    def _no_secret_in_extra_body(cls, body: dict[str, Any]) -> dict[str, Any]:
        if places := list(secrets_in(body, "extra_body")):
            shown = ", ".join(places)
            raise ValueError(f"{shown} is a secret; put the key into an environment variable and name that: api_key_env")
        return body

    @model_validator(mode="after")
    def _fits_the_provider(self) -> ModelSpec:
        if self.encodes:
            self._fits_an_encoder()
        if self.made_by is not None and self.provider == "openai":
            raise ValueError(f"{self.model} is made by a step, and such models run in this process: provider: transformers")
        if self.provider != "openai":
            for name, given in (("mode: batch", self.mode == "batch"), ("extra_body", bool(self.extra_body))):
                if given:
                    raise ValueError(f"{name} is for provider: openai")
        if self.budget_usd is not None and not (self.price.input or self.price.output):
            raise ValueError("budget_usd needs a price: {input: ..., output: ...}; or limit the run with max_calls")
        if ours := sorted(self.extra_body.keys() & _OURS):
            raise ValueError(f"extra_body: {', '.join(ours)} is the engine's business; there are keys of the model for it")
        return self

    def _fits_an_encoder(self) -> None:
        # By value: a spec that travels to a worker comes with every default.
        others = {name: info.default for name, info in type(self).model_fields.items() if name not in _OF_ENCODERS}
        if given := [name for name, default in others.items() if getattr(self, name) != default]:
            raise ValueError(f"{', '.join(given)}: not for an encoder ({self.provider}), which takes model and batch_size")
        if self.model.startswith((STEP, "registry:")):
            raise ValueError(f"steps make models that chat, no encoders; {self.provider} takes a folder or a Hugging Face id")


class DatasetSpec(Spec):
    """An external input, typed at the door. Exactly one of path, hf, generator, registry says where it is.

    Args:
        type: the record type of its rows.
        path: a file, a glob or an fsspec URL; jsonl, json, csv, tsv or parquet (also .gz, .bz2, .xz, .zst). `${env.NAME}`
            in it is an environment variable, for passwords and tokens.
        hf: a Hugging Face Hub id; `split` names the split.
        generator: `<generator>/<task>`; its settings stand under `with`.
        registry: `NAME@VERSION` of another pipeline's output; NAME alone is the latest.
        rename: {column in the source: field of the record}.
        defaults: {field of the record: value} for rows that have none.
        limit: the first so many rows.
        on_error: `stop` at rows that do not fit the type, or `skip` them into the rejects.
        allow_empty: whether it is right that there may be no rows.
    """

    type: str
    path: str | None = None
    hf: str | None = None
    split: str = "train"
    generator: str | None = None
    registry: str | None = None
    rename: dict[str, str] = {}
    defaults: dict[str, str | int | float | bool] = {}
    limit: Annotated[int, Field(ge=1)] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    allow_empty: bool = False
    with_: Annotated[dict[str, Any], Field(alias="with")] = {}

    @field_validator("path")
    @classmethod
    def _no_secret_in_path(cls, path: str | None) -> str | None:
        if path and (secret := secret_in_url(_ENV.sub("", path))):
            raise ValueError(f"it has {secret} in it; put it into an environment variable and write ${{env.NAME}} in its place")
        return path

    @model_validator(mode="after")
    def _one_source(self) -> DatasetSpec:
        given = [name for name in ("path", "hf", "generator", "registry") if getattr(self, name) is not None]
        if len(given) != 1:
            have = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of path, hf, generator, registry (there is {have})")
        if self.with_ and self.generator is None:
            raise ValueError("'with' is for a generator's settings; this dataset has none")
        return self


class Resources(Spec):
    """Ray's resources of one worker, and the number of workers. Never part of a cache key."""

    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=1)] | None = None


Inputs = Any  # str | list[str] | dict[str, str | list[str]]: one message instead of one a union member


def _inputs(value: Any) -> Inputs:
    def reference(item: Any) -> bool:
        return isinstance(item, str) or (isinstance(item, list) and bool(item) and all(isinstance(i, str) for i in item))

    if reference(value) or (isinstance(value, dict) and value and all(reference(item) for item in value.values())):
        return value
    raise ValueError("give a reference, a list of them, or a mapping from input names to those")


class StepSpec(Spec):
    """One operator applied to references.

    Args:
        op: the operator's name.
        in: a reference, a list of them (laid end to end), or a mapping from the operator's input names.
        with: the operator's parameters.
        models: which of the pipeline's models fills which role of the operator.
        max_reject_ratio: the step fails when a larger share of its rows was rejected.
    """

    op: str
    in_: Annotated[Inputs, BeforeValidator(_inputs), Field(alias="in")]
    with_: Annotated[dict[str, Any], Field(alias="with")] = {}
    models: dict[Name, Name] = {}
    resources: Resources = Resources()
    max_reject_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError("give a text, a number, true, false or null")
    return value


Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_scalar)]


class PipelineSpec(Spec):
    """A whole pipeline file; `exclude` is an exclusion list, as `engine impact --takedown` writes one."""

    name: Name
    params: dict[str, Scalar] = {}
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    exclude: str | None = None
    models: dict[Name, ModelSpec] = {}
    datasets: dict[Name, DatasetSpec] = {}
    steps: Annotated[dict[Name, StepSpec], Field(min_length=1, max_length=1000)]
