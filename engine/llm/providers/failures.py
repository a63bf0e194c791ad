"""Failures of a server by class, in its own words: failures of every request, of one request, or of this attempt."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from engine.llm.providers.parameters import refused_parameter
from engine.llm.providers.response_body import GarbledError, excerpt, from_json
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError, UnknownModelError
from engine.llm.types.model_spec import ModelSpec

_TRANSIENT = {408, 409, 425, 429}
_ENDPOINT = {401, 402, 403, 404}
_DOWN = {502, 503, *range(520, 524)}
"""From a gateway whose server does not answer, or from a server that starts or stops."""
_NOT_BILLED = {409, 425, 429, 503, 529}
"""Transient failures of requests that no model has processed."""
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NO_MODEL = re.compile(
    r"\bmodels?\b.{0,80}(not exist|doesn't exist|not found|not a valid model)|is not a valid model"
    r"|(invalid|unknown|no such) model\b|no healthy deployments? for"
    r"|(could not|cannot|can't|unable to) (find|access) (the )?model\b",
    re.IGNORECASE | re.DOTALL,
)
_NOT_HERE = re.compile(r"\bmodels?\b.{0,80}(not available|not supported)", re.IGNORECASE | re.DOTALL)
_OF_REQUESTS = re.compile(
    r"response_format|json.?schema|logprob|temperature|top_p|max_\w*tokens|\bstop\b|\bseed\b|\brole\b|\btools?\b|\bimages?\b|param|\bn\b",
    re.IGNORECASE,
)
"""Words about the form of a request: the model's name is not the problem then."""
_NO_KEY = re.compile(
    r"((api|access|auth\w*|bearer|proxy)[ _-]?(key|token)|credentials|server token)\b.{0,60}"
    r"(not valid|invalid|incorrect|missing|not (passed|provided|found|set)|expired|revoked|passed in|required)"
    r"|(invalid|incorrect|missing|no|expired|wrong|bad) (api|access|auth\w*|bearer|proxy)([ _-]server)?[ _-]?"
    r"(key|token|credentials)\b"
    r"|no auth(entication)? credentials|no connected db",  # the last: LiteLLM, of any key but the master key
    re.IGNORECASE | re.DOTALL,
)
_OF_PARAMETERS = re.compile(r"response_format|json.?schema|logprobs|requested parameters|structured output", re.IGNORECASE)
_STATUSES = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "billing_error": 402,
    "request_too_large": 413,
    "timeout_error": 504,
}
"""For errors that come with 200 and without a status."""
_PROXY_KEY = "the proxy requires a user name and a password: write http://USER:PASSWORD@HOST:PORT in HTTPS_PROXY or HTTP_PROXY"
_MOST_WAIT = 86_400.0
"""The longest Retry-After in seconds that is taken seriously; longer ones are ignored."""


def failure(status: int, text: str, headers: Mapping[str, str], spec: ModelSpec) -> ModelError:
    """The error in a response, by class.

    Args:
        status: the HTTP status, or the status of an error that came with 200.
        text: the body.
    """
    code, param, words = _server_words(text)
    detail = f"{spec.endpoint} answered {status}: {words}"
    if 300 <= status < 400:
        to = excerpt(headers.get("Location", "another address"), 200)
        return EndpointError(f"{detail} (redirects to {to}; correct base_url)")
    if code in _NO_QUOTA or status == 402:
        return EndpointError(f"{detail} (the account has no quota left)")
    if status == 404 and _OF_PARAMETERS.search(words):  # a router found no provider that accepts the request in this form
        return RequestError(detail, refused=True)
    if status == 404 or code == "model_not_found" or _names_no_model(status, words):
        form = "" if spec.endpoint.partition("?")[0].endswith("/v1") else ", which usually ends in /v1,"
        kind = UnknownModelError if code == "model_not_found" or _NO_MODEL.search(words) else EndpointError
        return kind(f"{detail} (check base_url{form} and the model name {spec.model!r})")
    if status == 407:
        return EndpointError(f"{detail} ({_PROXY_KEY})")
    if status in _ENDPOINT or (status == 400 and _NO_KEY.search(words)):
        key = f"check the key in {spec.api_key_env}" if spec.api_key_env else "set api_key_env"
        hint = "check that the key may use this model, and that base_url is right" if status == 403 else key
        return EndpointError(f"{detail} ({hint})")
    if status in _TRANSIENT or status >= 500:
        return TransientError(
            detail,
            retry_after(headers),
            throttled=status == 429,
            refused=status >= 500,
            down=status in _DOWN,
            billed=status not in _NOT_BILLED,
        )
    refused = status in (400, 422)
    return RequestError(detail, refused=refused, parameter=refused_parameter(code, param, words) if refused else None)


def error_inside(answer: Any) -> int | None:
    """The status of an error that came with 200, as some servers and proxies send them; None if there is no error.

    It is 502 if the error names no status.
    """
    if not isinstance(answer, dict):
        return None
    error = answer.get("error")
    if not error and (answer.get("choices") or not (answer.get("object") == "error" or _has_words(answer))):
        return None
    return status_of(error if isinstance(error, dict) else answer)


def status_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error object names; 502 if it names none."""
    for name in ("code", "status", "status_code"):
        value = str(error.get(name))[:4]
        if value.isascii() and value.isdigit() and 400 <= int(value) < 600:
            return int(value)
    return next((_STATUSES[word] for name in ("code", "type") if (word := str(error.get(name)).lower()) in _STATUSES), 502)


def connection_failure(error: Exception, url: str, spec: ModelSpec, *, heard: bool = True) -> TransientError | EndpointError:
    """The error for a connection that failed before or during the response.

    Args:
        heard: whether the server has ever answered. If not, a host name that is not found is wrong; if so, it may return.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransientError(f"cannot connect to {url} within {spec.connect_timeout:g} s (connect_timeout)", unreachable=True)
    if isinstance(error, TimeoutError):
        return TransientError(f"{url}: no answer within {spec.timeout:g} s")
    if isinstance(error, aiohttp.InvalidURL):
        if str(error.url) != url:  # not quoted: it may have a password
            return EndpointError(
                f"{url}: the proxy in HTTPS_PROXY or HTTP_PROXY is not a URL like http://HOST:PORT; correct it"
            )
        return EndpointError(f"{url} is not a URL; correct base_url")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        refused = f"{url}: the proxy answered {error.status}: {excerpt(error.message, 200)}"
        if error.status == 407:
            return EndpointError(f"{refused} ({_PROXY_KEY})")
        return TransientError(refused, down=True) if error.status >= 500 else EndpointError(refused)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = excerpt(str(error.certificate_error), 200)
        return EndpointError(
            f"{url}: the server's certificate is not trusted ({why}); if an authority of your own issued it, name the file "
            "with the authority's certificate in SSL_CERT_FILE"
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        detail = f"{url}: cannot connect to the proxy at {error.host}:{error.port} ({excerpt(error.strerror or str(error))})"
        return TransientError(f"{detail}; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", unreachable=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        detail = f"{url}: {excerpt(str(error))}; correct base_url, or check the network"
        return TransientError(detail, unreachable=True) if heard else EndpointError(detail)
    if isinstance(error, aiohttp.ClientConnectorError):
        detail = (
            f"cannot connect to {url} ({excerpt(error.strerror or str(error))}); is the server running, and base_url right?"
        )
        return TransientError(detail, unreachable=True)
    if isinstance(error, GarbledError):
        return TransientError(f"{url}: {excerpt(str(error))}")
    if isinstance(error, aiohttp.ClientPayloadError) and "is not completed" in str(error):
        return TransientError(f"{url}: the connection closed before the end of the answer")
    down = isinstance(error, aiohttp.ClientConnectionError)
    return TransientError(f"{url}: {type(error).__name__}: {excerpt(str(error))}", down=down)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait, from a number, a date, or milliseconds; None if there is no usable value."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return _sensible(seconds)
    try:
        date = parsedate_to_datetime(headers["Retry-After"])
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
    return _sensible(seconds)


def _sensible(seconds: float) -> float | None:
    return max(0.0, seconds) if math.isfinite(seconds) and seconds <= _MOST_WAIT else None


def _names_no_model(status: int, words: str) -> bool:
    if status not in (400, 422, 500) or _OF_REQUESTS.search(words):
        return False
    return bool(_NO_MODEL.search(words) or (status != 500 and _NOT_HERE.search(words)))


def _has_words(answer: Mapping[str, Any]) -> bool:
    return "choices" not in answer and any(isinstance(answer.get(name), str) for name in ("message", "detail"))


def _server_words(text: str) -> tuple[str, str, str]:
    """The code, the parameter and the message inside an error body; the beginning of the body if it is not JSON."""
    nothing = ("", "", excerpt(text) or "(nothing)")
    try:
        error = from_json(text)
    except GarbledError:
        return nothing
    code = param = ""
    while isinstance(error, dict):
        code = str(error.get("code") or error.get("type") or code)[:100]
        param = str(error.get("param") or param)[:100]
        inner = error.get("error") or error.get("message") or error.get("detail")
        if not inner:
            break
        error = inner
    if isinstance(error, str):
        return code, param, excerpt(error) or "(nothing)"
    return (code, param, nothing[2])
