"""Ten servers with OpenAI's chat completions, each of which behaves like a real one: what it refuses and how, what it ignores, where
it puts reasoning and usage, its paths and its additional fields.

A manner, the behaviour of one server, is data. Manners follow what the services document or send, as of 2026. `MannerServer` serves
them.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.serving import Served

Body = Mapping[str, Any]

Answer = Callable[[str, dict[str, Any], int], "dict[str, Any] | str"]
"""From (last message, JSON Schema of the answer or {}, how often this prompt was asked before) to the answer."""

THOUGHT = "The user asks. I think about it."
_TOKENS_IN, _TOKENS_OUT, _TOKENS_THOUGHT, _TOKENS_CACHED = 100, 5, 7, 64
_IN_WORDS = "It must follow this JSON Schema:\n"


@dataclass(frozen=True)
class Refusal:
    """A kind of request that a server refuses.

    Args:
        name: the parameter.
        document: the body of the error.
        when: whether a request is refused; by default, each one that has the parameter.
    """

    name: str
    status: int
    document: Any
    when: Callable[[Body], bool] | None = None

    def concerns(self, body: Body) -> bool:
        """Whether the server refuses a request."""
        return self.name in body if self.when is None else self.when(body)


@dataclass(frozen=True)
class Manner:
    """How a server behaves.

    Args:
        model: its name for its model.
        base: the path before `/chat/completions`.
        query: the query that the URL must have.
        key_header: the header that must contain the key.
        refuses: the requests that it refuses.
        ignores_n: whether it returns one answer, however many are requested.
        has_logprobs: whether it returns log-probabilities.
        has_schemas: whether answers follow `response_format`.
        message: makes the message of a choice from a text.
        usage: makes the usage from the numbers of prompt, answer, reasoning and cached tokens.
        choice, more: additional fields of a choice, and of the response.
        shows_thought, counts_thought, counts_cached: whether clients can see the reasoning, its tokens, and cached tokens.
    """

    model: str
    base: str = "/v1"
    query: Mapping[str, str] = field(default_factory=dict)
    key_header: str = "Authorization"
    refuses: tuple[Refusal, ...] = ()
    ignores_n: bool = False
    has_logprobs: bool = True
    has_schemas: bool = True
    message: Callable[[str], dict[str, Any]] = lambda text: {"role": "assistant", "content": text}
    usage: Callable[[int, int, int, int], dict[str, Any]] = lambda given, said, thought, cached: {
        "prompt_tokens": given,
        "completion_tokens": said + thought,
        "total_tokens": given + said + thought,
    }
    choice: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    shows_thought: bool = True
    counts_thought: bool = True
    counts_cached: bool = True


@dataclass
class MannerServer(Served):
    """A server with a manner: `with MannerServer(manner, answer) as server:`.

    `requests` are the answered requests; `refused` counts the others by (model, parameter).
    """

    manner: Manner
    answer: Answer
    requests: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    _seen: Counter[str] = field(default_factory=Counter)
    _drawn: itertools.count[int] = field(default_factory=lambda: itertools.count(1_000_000_007, 7919))

    @property
    def base_url(self) -> str:
        """The address for a model's base_url."""
        query = "&".join(f"{name}={value}" for name, value in self.manner.query.items())
        return f"http://127.0.0.1:{self.port}{self.manner.base}{'?' if query else ''}{query}"

    def model(self, key: str) -> dict[str, Any]:
        """The keys of a pipeline's model that name this server; `key` is the variable with the key."""
        named: dict[str, Any] = {"provider": "openai", "base_url": self.base_url}
        if self.manner.key_header == "Authorization":
            return named | {"api_key_env": key}
        return named | {"headers": {self.manner.key_header: f"${{env.{key}}}"}}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post(f"{self.manner.base}/chat/completions", self._chat)
        return app

    async def _chat(self, request: web.Request) -> web.Response:
        manner, body = self.manner, await request.json()
        if dict(request.query) != dict(manner.query) or manner.key_header not in request.headers:
            return web.json_response({"error": {"message": "Resource not found", "code": "404"}}, status=404)
        for refusal in manner.refuses:
            if refusal.concerns(body):
                self.refused[body["model"], refusal.name] += 1
                return web.json_response(refusal.document, status=refusal.status)
        self.requests.append(body)
        count = 1 if manner.ignores_n else body.get("n", 1)
        choices = [self._choice(body, place) for place in range(count)]
        usage = manner.usage(_TOKENS_IN, _TOKENS_OUT * count, _TOKENS_THOUGHT * count, _TOKENS_CACHED)
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000, "model": body["model"]}
        # OpenRouter keeps the connection alive with line breaks before the document.
        return web.Response(
            text="\n \n" + json.dumps({**whole, "choices": choices, "usage": usage, **manner.more}),
            content_type="application/json",
        )

    def _choice(self, body: Body, index: int) -> dict[str, Any]:
        content = body["messages"][-1]["content"]
        prompt, _, schema = content.rpartition(_IN_WORDS) if _IN_WORDS in content else (content, "", "{}")
        wanted: dict[str, Any] = json.loads(schema)
        if "response_format" in body and self.manner.has_schemas:
            wanted = body["response_format"]["json_schema"]["schema"]
        number = self._seen[prompt]
        self._seen[prompt] += 1
        made = _of_probes(prompt, next(self._drawn)) or self.answer(prompt, wanted, number)
        text = made if isinstance(made, str) else json.dumps(made)
        choice = {"index": index, "message": self.manner.message(text), "finish_reason": "stop", **self.manner.choice}
        if body.get("logprobs") and self.manner.has_logprobs:
            top = [{"token": word, "logprob": lower, "bytes": None} for word, lower in ((text, -0.1), ("other", -2.5))]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: body.get("top_logprobs", 0)]}]}
        return choice


def _of_probes(prompt: str, drawn: int) -> str | dict[str, Any] | None:
    """Answers to the engine's probes."""
    if "random number" in prompt:
        return str(drawn)
    return {"city": "Paris"} if "capital of France?" in prompt else "An otter." if prompt == "Name an animal." else None


def _several(body: Body) -> bool:
    return bool(body.get("n", 1) > 1)


def _greedy(body: Body) -> bool:
    return body.get("temperature") == 0


def _not_default(name: str, default: float) -> Callable[[Body], bool]:
    return lambda body: name in body and body[name] != default


def _loose_schema(body: Body) -> bool:
    """Whether a schema is not in the strict form: an object that does not require all of its properties, or allows others."""

    def loose(part: Any) -> bool:
        if isinstance(part, list):
            return any(map(loose, part))
        if not isinstance(part, dict):
            return False
        if part.get("type") == "object":
            named = {*part.get("properties", {})}
            if part.get("additionalProperties") is not False or {*part.get("required", ())} != named:
                return True
        return any(map(loose, part.values()))

    held = body.get("response_format", {}).get("json_schema", {})
    return bool(held.get("strict")) and loose(held.get("schema", {}))


def _openai(message: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def _unsupported(name: str, further: str = "") -> Refusal:
    words = f"Unsupported parameter: '{name}' is not supported with this model.{further}"
    return Refusal(name, 400, _openai(words, name, "unsupported_parameter"))


def _google(message: str) -> list[dict[str, Any]]:
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": message}]}]
    return [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details}}]


def _unknown_to_google(name: str) -> Refusal:
    return Refusal(name, 400, _google(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'))


def _extra_to_mistral(name: str) -> Refusal:
    found = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
    more = {"type": "invalid_request_error", "param": None, "code": None}
    return Refusal(name, 422, {"object": "error", "message": {"detail": [found]}, **more})


def _with_details(given: int, said: int, thought: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": given,
        "completion_tokens": said + thought,
        "total_tokens": given + said + thought,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0, "accepted_prediction_tokens": 0},
    }


def _counted_in_total_only(given: int, said: int, thought: int, cached: int) -> dict[str, Any]:
    return {"prompt_tokens": given, "completion_tokens": said, "total_tokens": given + said + thought}


def _reasoned(name: str, **more: Any) -> Callable[[str], dict[str, Any]]:
    return lambda text: {"role": "assistant", "content": text, name: THOUGHT, **more}


def _in_parts(text: str) -> dict[str, Any]:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}], "closed": True}
    return {"role": "assistant", "tool_calls": None, "content": [thinking, {"type": "text", "text": text}]}


_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}

MANNERS: dict[str, Manner] = {
    # OpenAI's reasoning models: only the default sampling parameters, other names, strict schemas, and reasoning that is not
    # returned.
    "gpt-5": Manner(
        "gpt-5-mini",
        refuses=(
            _unsupported("max_tokens", " Use 'max_completion_tokens' instead."),
            Refusal(
                "temperature",
                400,
                _openai(
                    "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
                    "supported.",
                    "temperature",
                    "unsupported_value",
                ),
                _not_default("temperature", 1),
            ),
            _unsupported("top_p"),
            _unsupported("stop"),
            _unsupported("logprobs"),
            Refusal(
                "n",
                400,
                _openai(
                    "Invalid 'n': integer above maximum value. Expected a value <= 8, but got 20 instead.",
                    "n",
                    "integer_above_max_value",
                ),
                lambda body: body.get("n", 1) > 8,
            ),
            Refusal(
                "response_format",
                400,
                _openai(
                    "Invalid schema for response_format 'x': In context=(), 'additionalProperties' is required to be supplied and "
                    "to be false.",
                    "response_format",
                    None,
                ),
                _loose_schema,
            ),
        ),
        message=lambda text: {"role": "assistant", "content": text, "refusal": None, "annotations": []},
        usage=_with_details,
        more={"service_tier": "default", "system_fingerprint": None},
        shows_thought=False,
    ),
    # One answer per request, and JSON mode instead of schemas.
    "deepseek": Manner(
        "deepseek-reasoner",
        base="",
        refuses=(
            Refusal(
                "response_format",
                400,
                _openai("This response_format type is unavailable now", None, "invalid_request_error"),
            ),
            Refusal(
                "n",
                400,
                _openai("Invalid n value (currently only n = 1 is supported)", None, "invalid_request_error"),
                _several,
            ),
            Refusal(
                "logprobs",
                400,
                _openai("deepseek-reasoner does not support the parameter `logprobs`", None, "invalid_request_error"),
            ),
        ),
        message=_reasoned("reasoning_content"),
        usage=lambda given, said, thought, cached: {
            **_with_details(given, said, thought, cached),
            "prompt_cache_hit_tokens": cached,
            "prompt_cache_miss_tokens": given - cached,
        },
        choice={"logprobs": None},
        more={"system_fingerprint": "fp_eaab8d114b_prod0820_fp8_kvcache"},
    ),
    # Supports everything except several answers at temperature 0.
    "vllm": Manner(
        "Qwen/Qwen3-8B",
        refuses=(
            Refusal(
                "n",
                400,
                {
                    "error": {
                        "message": "n must be 1 when using greedy sampling, got 3.",
                        "type": "BadRequestError",
                        "param": None,
                        "code": 400,
                    }
                },
                lambda body: _several(body) and _greedy(body),
            ),
        ),
        message=_reasoned("reasoning", refusal=None, annotations=None, audio=None, function_call=None, tool_calls=[]),
        usage=lambda given, said, thought, cached: {
            "prompt_tokens": given,
            "total_tokens": given + said + thought,
            "completion_tokens": said + thought,
            "prompt_tokens_details": None,
        },
        choice={"logprobs": None, "stop_reason": None, "token_ids": None},
        more={"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "kv_transfer_params": None},
        counts_cached=False,
        counts_thought=False,
    ),
    "sglang": Manner(
        "Qwen/Qwen3-8B",
        message=_reasoned("reasoning_content", tool_calls=None),
        usage=lambda given, said, thought, cached: {
            "prompt_tokens": given,
            "total_tokens": given + said + thought,
            "completion_tokens": said + thought,
            "prompt_tokens_details": {"cached_tokens": cached},
            "reasoning_tokens": thought,
        },
        choice={"logprobs": None, "matched_stop": 151645},
        more={"metadata": {"weight_version": "default"}},
    ),
    # It ignores parameters that it does not know: n and log-probabilities.
    "ollama": Manner(
        "qwen3:8b",
        ignores_n=True,
        has_logprobs=False,
        message=_reasoned("reasoning"),
        more={"system_fingerprint": "fp_ollama"},
        counts_cached=False,
        counts_thought=False,
    ),
    # Older versions fail with 500 if several answers are requested.
    "llama.cpp": Manner(
        "qwen3-8b-q4_k_m.gguf",
        refuses=(
            Refusal(
                "n",
                500,
                {"error": {"code": 500, "message": "Only one completion choice is allowed", "type": "server_error"}},
                _several,
            ),
        ),
        message=_reasoned("reasoning_content"),
        usage=lambda given, said, thought, cached: {
            "completion_tokens": said + thought,
            "prompt_tokens": given,
            "total_tokens": given + said + thought,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        more={"system_fingerprint": "b7200-3ae59dec", "timings": {"cache_n": 64, "prompt_n": 36, "predicted_n": 12}},
        counts_thought=False,
    ),
    # A router that drops parameters that the provider does not have, unless it is told to drop none, as here.
    "openrouter": Manner(
        "openai/gpt-oss-120b",
        base="/api/v1",
        refuses=(
            Refusal(
                "response_format",
                404,
                {"error": {"message": "No endpoints found that can handle the requested parameters.", "code": 404}},
            ),
            Refusal(
                "logprobs",
                404,
                {"error": {"message": "No endpoints found that can handle the requested parameters.", "code": 404}},
            ),
        ),
        ignores_n=True,
        message=_reasoned("reasoning", refusal=None, reasoning_details=[{"type": "reasoning.text", "text": THOUGHT}]),
        usage=lambda given, said, thought, cached: {
            **_with_details(given, said, thought, cached),
            "cost": 0.00003,
            "is_byok": False,
            "cost_details": {"upstream_inference_cost": None},
        },
        choice={"logprobs": None, "native_finish_reason": "stop"},
        more={"provider": "DeepInfra"},
    ),
    # A deployment under its own path, an API version without schemas, and the key in its own header.
    "azure": Manner(
        "gpt-4o",
        base="/openai/deployments/gpt-4o",
        query={"api-version": "2024-06-01"},
        key_header="api-key",
        refuses=(
            Refusal(
                "response_format",
                400,
                {
                    "error": {
                        "message": "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and "
                        "later",
                        "code": "BadRequest",
                    }
                },
            ),
        ),
        usage=lambda given, said, thought, cached: {
            "prompt_tokens": given,
            "completion_tokens": said,
            "total_tokens": given + said,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        choice={"content_filter_results": _SAFE, "logprobs": None},
        more={
            "system_fingerprint": "fp_67802d9a6d",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}],
        },
        shows_thought=False,
        counts_thought=False,
    ),
    # No seed, no log-probabilities, one answer. Reasoning is billed, and counted only in the total.
    "gemini": Manner(
        "gemini-2.5-flash",
        base="/v1beta/openai",
        refuses=(
            _unknown_to_google("seed"),
            _unknown_to_google("logprobs"),
            Refusal("n", 400, _google("Multiple candidates is not enabled for this model"), _several),
        ),
        usage=_counted_in_total_only,
        shows_thought=False,
        counts_cached=False,
    ),
    # Pydantic refuses unknown parameters. Reasoning is a part of the content.
    "mistral": Manner(
        "magistral-medium-latest",
        refuses=(
            _extra_to_mistral("seed"),
            _extra_to_mistral("max_completion_tokens"),
            _extra_to_mistral("logprobs"),
            Refusal(
                "top_p",
                400,
                {
                    "object": "error",
                    "message": "top_p must be 1 when using greedy sampling.",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                },
                lambda body: _greedy(body) and body.get("top_p", 1) != 1,
            ),
        ),
        message=_in_parts,
        counts_cached=False,
        counts_thought=False,
    ),
}
