"""OpenAI's chat completions as JSON: from requests to a body, from a response to completions or a failure by class."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from engine.llm.abilities import Abilities
from engine.llm.base import Completion, EndpointError, ModelError, PassingError, Request, RequestError, TokenLogprob
from engine.llm.structured import in_words
from engine.spec import ModelSpec

MOST_AT_ONCE = 64
"""Answers asked for in one request: the most that common servers take."""

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair."""
_PASSING = {408, 409, 425, 429}
_ENDPOINT = {401, 402, 403, 404}
_DOWN = {502, 503, *range(520, 524)}
"""Said by a gateway whose server does not answer, or by a server that starts or stops."""
_NOT_BILLED = {409, 425, 429, 503, 529}
"""Passing failures of requests that no model has worked on."""
_WORDS = 500
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NO_MODEL = re.compile(
    r"\bmodel\b.{0,80}(does not exist|doesn't exist|not exist|not found|not available|not supported)", re.IGNORECASE | re.DOTALL
)


def body(spec: ModelSpec, requests: Sequence[Request], abilities: Abilities) -> dict[str, Any]:
    """The JSON that asks for answers to requests that differ in nothing but `sample`, in words the server knows."""
    first = requests[0]
    sampling = first.sampling
    messages = list(first.messages)
    asked: dict[str, Any] = {"model": spec.model, "messages": messages}
    longest = "max_completion_tokens" if abilities.max_completion_tokens else "max_tokens"
    asked |= {"temperature": sampling["temperature"], longest: sampling["max_tokens"]}
    if sampling["top_p"] != 1.0:
        asked["top_p"] = sampling["top_p"]
    if sampling["stop"]:
        asked["stop"] = list(sampling["stop"])
    if first.seed is not None:
        asked["seed"] = first.seed
    if len(requests) > 1:
        asked["n"] = len(requests)
    if "logprobs" in sampling:
        asked |= {"logprobs": True, "top_logprobs": sampling["logprobs"]}
    if first.schema is not None and abilities.response_format is False:
        asked["messages"] = in_words(messages, first.schema)
    elif first.schema is not None:
        schema = {"name": str(first.schema["title"]), "schema": first.schema, "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {**sampling.get("extra_body", {}), **asked}


def completions(answer: Any, requests: Sequence[Request], latency_ms: float) -> list[Completion]:
    """The answers in a response, at most one for each request.

    Raises:
        PassingError: the response is not a chat completion.
        RequestError: the model refused, or its answer is no text.
        EndpointError: log-probabilities were asked for, and there are none.
    """
    try:
        usage = answer.get("usage") or {}
        paid = Completion(
            text="",
            finish_reason="refusal",
            tokens_in=_count(usage.get("prompt_tokens")),
            tokens_out=_count(usage.get("completion_tokens")),
            latency_ms=round(latency_ms, 3),
        )
        choices = answer["choices"][: len(requests)]
        texts = [_text(choice, paid) for choice in choices]
        shares = _shares(_count(usage.get("completion_tokens")), texts)
        asked_logprobs = "logprobs" in requests[0].sampling
        return [
            Completion(
                text=text,
                finish_reason=choice.get("finish_reason") or "stop",
                tokens_in=0 if place else _count(usage.get("prompt_tokens")),
                tokens_out=shares[place],
                latency_ms=round(latency_ms, 3),
                logprobs=_logprobs(choice) if asked_logprobs else None,
            )
            for place, (choice, text) in enumerate(zip(choices, texts, strict=True))
        ] or _nothing()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise PassingError(f"the answer is not a chat completion ({type(error).__name__}: {error})") from error


def failure(status: int, text: str, headers: Mapping[str, str], spec: ModelSpec, secret: str) -> ModelError:
    """A response that is not 200, by class, in the server's words (and never with the key)."""
    code, words = _server_words(hide(text, secret))
    said = f"{spec.endpoint} answered {status}: {words}"
    if 300 <= status < 400:
        return EndpointError(f"{said} (it redirects to {headers.get('Location', 'another address')}; correct base_url)")
    if code in _NO_QUOTA or status == 402:
        return EndpointError(f"{said} (the account has no quota left)")
    if status == 404 or code == "model_not_found" or (status == 400 and _NO_MODEL.search(words)):
        form = "" if spec.endpoint.endswith("/v1") else ", which usually ends in /v1,"
        return EndpointError(f"{said} (check base_url{form} and the model name {spec.model!r})")
    if status in _ENDPOINT:
        key = f"check the key in {spec.api_key_env}" if spec.api_key_env else "set api_key_env"
        return EndpointError(f"{said} ({key if status == 401 else 'this key may not use this model'})")
    if status in _PASSING or status >= 500:
        wish, down, billed = _retry_after(headers.get("Retry-After")), status in _DOWN, status not in _NOT_BILLED
        return PassingError(said, wish, throttled=status == 429, down=down, billed=billed)
    return RequestError(said, refused=status in (400, 422))


def status_inside(answer: Mapping[str, Any]) -> int:
    """The status of an error that came with 200, as some proxies send them; 502 when it names none."""
    error = answer["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return int(str(code)) if str(code).isdigit() and 400 <= int(str(code)) < 600 else 502


def hide(text: str, secret: str) -> str:
    """Servers repeat wrong keys in their errors; ours never shows one."""
    return text.replace(secret, "***") if secret else text


def _nothing() -> list[Completion]:
    raise ValueError("it has no choices")


def _text(choice: Any, paid: Completion) -> str:
    message = choice["message"]
    if message.get("refusal"):
        raise RequestError(f"the model refused: {str(message['refusal'])[:_WORDS]}", paid)
    text = message.get("content") or ""
    if isinstance(text, list):  # of parts
        text = "".join(part.get("text") or "" for part in text if part.get("type") == "text")
    if not isinstance(text, str):
        raise TypeError("its content is no text")
    if not text.isascii() and _HALF.search(text):
        raise RequestError("the answer has half of a surrogate pair, which is no character", paid)
    return text


def _shares(tokens: int, texts: Sequence[str]) -> list[int]:
    """Servers count the tokens of all choices together; each is given its share by length, and the sum is kept."""
    ends = [0, *itertools.accumulate(len(text) + 1 for text in texts)]
    return [end * tokens // ends[-1] - start * tokens // ends[-1] for start, end in itertools.pairwise(ends)]


def _logprobs(choice: Any) -> tuple[TokenLogprob, ...]:
    content = (choice.get("logprobs") or {}).get("content")
    if content is None:
        raise EndpointError("the server gives no log-probabilities, and the step needs them")
    return tuple(
        TokenLogprob(
            token=each["token"],
            logprob=max(float(each["logprob"]), -1e9),
            top={top["token"]: max(float(top["logprob"]), -1e9) for top in each.get("top_logprobs") or () if _finite(top)},
        )
        for each in content
    )


def _finite(top: Any) -> bool:
    return not math.isnan(float(top["logprob"]))


def _count(value: Any) -> int:
    """A count of tokens; what is none does not cost the answer it comes with."""
    return value if isinstance(value, int) and value >= 0 else 0


def _server_words(text: str) -> tuple[str, str]:
    """The code and the message inside an error body, or (nothing, the body), shortened."""
    try:
        error = json.loads(text)
    except ValueError:
        return "", text.strip()[:_WORDS] or "(nothing)"
    code = ""
    while isinstance(error, dict):
        code = str(error.get("code") or error.get("type") or code)
        inner = error.get("error") or error.get("message") or error.get("detail")
        if not inner:
            break
        error = inner
    return code, str(error)[:_WORDS]


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
