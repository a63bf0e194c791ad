"""A server that breaks every rule: the name of the requested model selects what it does wrong. It uses raw sockets, so that it can break HTTP, too.

Each mode says what a client should make of it: an answer, a rejected row, or the end of the step.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from tests.serving import InThread

KEY = "sk-Fake/9xQ+7wRt_Zp2=Lk4mNv8"
"""The key of its clients; it has characters that can be spelt in several ways."""

TEXT = "The answer is 7."
"""The answer of modes that answer."""

DEEP = 100_000


@dataclass(frozen=True)
class Ask:
    """A request: the number of earlier requests in its mode, its key, and its body."""

    seen: int
    key: str
    body: dict[str, Any]


Respond = Callable[[Ask], bytes]


@dataclass(frozen=True)
class Mode:
    """What the server does, and the expected outcome.

    Attributes:
        respond: makes the bytes of a response. If they are not a whole response, the connection is closed.
        outcome: answer, reject, or stop (of the step).
        words: a part of the error, or all of the answer.
        asked: the expected number of requests, with one retry; None: any.
    """

    respond: Respond
    outcome: Literal["answer", "reject", "stop"]
    words: str = ""
    asked: int | None = None
    needs: dict[str, Any] = field(default_factory=dict)


def completion(text: Any = TEXT, finish: Any = "stop", usage: Any = None, **choice: Any) -> dict[str, Any]:
    """A chat completion."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5} if usage is None else usage
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish, **choice}], "usage": usage}


def http(body: Any, status: int = 200, kind: str = "application/json", reason: str = "Reason", **headers: str) -> bytes:
    """A whole HTTP response. A body that is neither bytes nor text is sent as JSON."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    data = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def always(body: Any, **more: Any) -> Respond:
    """The same response to every request."""
    made = http(body, **more)
    return lambda ask: made


def raw(data: bytes) -> Respond:
    """These bytes, whether they are HTTP or not."""
    return lambda ask: data


def once(bad: bytes) -> Respond:
    """A bad response first, then a good one."""
    good = http(completion())
    return lambda ask: good if ask.seen else bad


def echo(spell: Callable[[str], str], status: int = 401) -> Respond:
    """An error that repeats the key in some spelling."""
    return lambda ask: http(
        '{"error": {"message": "Incorrect API key provided: KEY. See us."}}'.replace("KEY", spell(ask.key)), status
    )


def error(message: str, status: int, **more: Any) -> Respond:
    """An error as OpenAI words it."""
    return always({"error": {"message": message, **more}}, status=status)


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def _logprobs(value: str, token: str = '"7"', top: str = "[]") -> Respond:
    given = completion(logprobs={"content": "CONTENT"})
    content = f'[{{"token": {token}, "logprob": {value}, "top_logprobs": {top}}}]'
    return always(json.dumps(given).replace('"CONTENT"', content))


def _usage(usage: str) -> Mode:
    return Mode(always(json.dumps(completion(usage="USAGE")).replace('"USAGE"', usage)), "answer", TEXT)


def _cut(data: bytes, headers: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + headers + b"\r\n\r\n" + data


OK = json.dumps(completion()).encode()
HALF = '{"error": {"message": "bad \\ud800 word"}}'
GARBLED = "reject"
WITH_LOGPROBS = {"logprobs": 2}

MODES: dict[str, Mode] = {
    # -- answers that are whole, in the words of several servers
    "plain": Mode(always(completion()), "answer", TEXT, 1),
    "finish-eos": Mode(always(completion(finish="eos_token")), "answer", TEXT, 1),
    "finish-stop-in-capitals": Mode(always(completion(finish="STOP")), "answer", TEXT, 1),
    "finish-end-turn": Mode(always(completion(finish="end_turn")), "answer", TEXT, 1),
    "finish-null": Mode(always(completion(finish=None)), "answer", TEXT, 1),
    "finish-left-out": Mode(always({"choices": [{"message": {"content": TEXT}}]}), "answer", TEXT, 1),
    "content-in-parts": Mode(always(completion([{"type": "text", "text": TEXT}])), "answer", TEXT, 1),
    "nul-in-the-answer": Mode(always(completion("a\0b")), "answer", "a\0b", 1),
    "escapes-in-the-answer": Mode(always(completion("\x1b[2J\x1b]0;title\x07")), "answer", "\x1b[2J\x1b]0;title\x07", 1),
    "byte-order-mark": Mode(always(b"\xef\xbb\xbf" + OK), "answer", TEXT, 1),
    "utf-16": Mode(always(OK.decode().encode("utf-16")), "answer", TEXT, 1),
    "latin-1-declared": Mode(
        always(
            '{"choices":[{"message":{"content":"café"},"finish_reason":"stop"}]}'.encode("latin-1"),
            kind="application/json; charset=latin-1",
        ),
        "answer",
        "café",
        1,
    ),
    "charset-rot13": Mode(always(OK, kind="application/json; charset=rot13"), "answer", TEXT, 1),
    "charset-hex": Mode(always(OK, kind="application/json; charset=hex"), "answer", TEXT, 1),
    "charset-unknown": Mode(always(OK, kind="application/json; charset=klingon"), "answer", TEXT, 1),
    "html-type": Mode(always(OK, kind="text/html"), "answer", TEXT, 1),
    "gzip": Mode(always(gzip.compress(OK), Content_Encoding="gzip"), "answer", TEXT, 1),
    "integer-of-10000-digits": Mode(always(b'{"x": ' + b"9" * 10_000 + b", " + OK[1:]), "answer", TEXT, 1),
    "keys-twice": Mode(always('{"choices": [], ' + OK.decode()[1:]), "answer", TEXT, 1),
    "blank-lines-first": Mode(always(b"\n" * 50 + OK), "answer", TEXT, 1),
    "hundred-continues": Mode(raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + http(completion())), "answer", TEXT, 1),
    "more-choices-than-asked": Mode(always({"choices": completion()["choices"] * 500, "usage": {}}), "answer", TEXT, 1),
    # -- usage that cannot be
    "usage-2-to-the-62": _usage('{"prompt_tokens": 4611686018427387904, "completion_tokens": 5}'),
    "usage-2-to-the-64": _usage('{"prompt_tokens": 18446744073709551615, "completion_tokens": 18446744073709551615}'),
    "usage-of-300-digits": _usage('{"prompt_tokens": %s, "completion_tokens": 5}' % ("9" * 300)),
    "usage-negative": _usage('{"prompt_tokens": -1000000000, "completion_tokens": -5}'),
    "usage-half-negative": _usage('{"prompt_tokens": 10, "completion_tokens": -5}'),
    "usage-text": _usage('{"prompt_tokens": "10", "completion_tokens": "5"}'),
    "usage-boolean": _usage('{"prompt_tokens": true, "completion_tokens": true}'),
    "usage-float": _usage('{"prompt_tokens": 10.5, "completion_tokens": 1e300}'),
    "usage-nan": _usage('{"prompt_tokens": NaN, "completion_tokens": -Infinity}'),
    "usage-list": _usage("[1, 2]"),
    "usage-null": _usage("null"),
    "usage-nested": _usage('{"prompt_tokens": {"a": 1}, "completion_tokens": [5]}'),
    # -- answers that are not whole
    "cut-off": Mode(always(completion(finish="length")), "answer", TEXT, 1),
    "cut-off-by-the-provider-of-a-router": Mode(always(completion(native_finish_reason="MAX_TOKENS")), "answer", TEXT, 1),
    "whole-by-both": Mode(always(completion(native_finish_reason="end_turn", content_filter_results={})), "answer", TEXT, 1),
    "filtered-by-the-provider-of-a-router": Mode(always(completion(native_finish_reason="SAFETY")), "reject", "SAFETY"),
    "filtered-beside-stop": Mode(always(completion(content_filter_results={"hate": {"filtered": True}})), "reject", "hate"),
    "cut-off-MAX_TOKENS": Mode(always(completion(finish="MAX_TOKENS")), "answer", TEXT, 1),
    "cut-off-model_length": Mode(always(completion(finish="model_length")), "answer", TEXT, 1),
    "cut-off-without-a-word": Mode(
        always(completion(finish=None, usage={"prompt_tokens": 1, "completion_tokens": 64})), "answer", TEXT, 1
    ),
    "filtered": Mode(always(completion(finish="content_filter")), "reject", "content filter stopped the answer", 1),
    "filtered-SAFETY": Mode(always(completion(finish="FinishReason.SAFETY")), "reject", "content filter stopped the answer", 1),
    "filtered-sensitive": Mode(always(completion(finish="sensitive")), "reject", "content filter stopped the answer", 1),
    "broke-off": Mode(
        always(completion(finish="error", error={"code": 502, "message": "upstream died"})), "reject", "502: upstream died", 2
    ),
    "broke-off-once": Mode(once(http(completion(finish="error"))), "answer", TEXT, 2),
    "broke-off-in-words": Mode(always(completion(error="upstream died")), "reject", "upstream died", 2),
    "broke-off-for-moderation": Mode(
        always(completion(error={"code": 403, "message": "flagged"})), "reject", "403: flagged", 1
    ),
    "out-of-resources": Mode(always(completion(finish="insufficient_system_resource")), "reject", "failed while answering", 2),
    "unknown-reason": Mode(always(completion(finish="gave_up")), "reject", "unknown reason", 1),
    "reason-is-a-number": Mode(always(completion(finish=5)), "reject", "unknown reason", 1),
    "reason-is-a-list": Mode(always(completion(finish=["stop"])), "reject", "unknown reason", 1),
    "reason-of-100-KB": Mode(always(completion(finish="k" * 100_000)), "reject", "unknown reason", 1),
    "reason-with-half-a-pair": Mode(
        always('{"choices":[{"message":{"content":"7"},"finish_reason":"x\\ud800"}]}'), "reject", "unknown reason", 1
    ),
    "tool-call": Mode(always(completion(None, finish="tool_calls")), "reject", "called a tool", 1),
    "refused": Mode(
        always({"choices": [{"message": {"content": None, "refusal": "I would rather not"}}]}),
        "reject",
        "I would rather not",
        1,
    ),
    "refused-with-half-a-pair": Mode(
        always('{"choices":[{"message":{"content":null,"refusal":"no \\ud800"}}]}'), "reject", "the model refused: no", 1
    ),
    "half-a-pair": Mode(
        always('{"choices":[{"message":{"content":"\\ud800 7"},"finish_reason":"stop"}]}'),
        "reject",
        "unpaired surrogate",
        1,
    ),
    "empty": Mode(always(completion("")), "reject", "empty answer", 1),
    # -- log-probabilities
    "logprobs": Mode(
        _logprobs("-0.5", top='[{"token": "7", "logprob": -0.5}, {"token": "8", "logprob": -Infinity}]'),
        "answer",
        TEXT,
        1,
        WITH_LOGPROBS,
    ),
    "logprob-NaN": Mode(_logprobs("NaN"), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-1e999": Mode(_logprobs("1e999"), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-above-0": Mode(_logprobs("12345.5"), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-text": Mode(_logprobs('"-0.5"'), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-true": Mode(_logprobs("true"), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-of-400-digits": Mode(_logprobs("-" + "9" * 400), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-of-a-number": Mode(_logprobs("-0.5", token="7"), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS),
    "logprob-of-half-a-pair": Mode(
        _logprobs("-0.5", token='"x\\ud800"'), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS
    ),
    "logprobs-a-dict": Mode(
        always(completion(logprobs={"content": {"a": 1}})), "reject", "log-probabilities cannot be read", 1, WITH_LOGPROBS
    ),
    "no-logprobs": Mode(always(completion(logprobs=[])), "stop", "returns no log-probabilities", 1, WITH_LOGPROBS),
    # -- bodies that are garbled
    "deep": Mode(always("[" * DEEP), "reject", "nested too deeply", 2),
    "deep-once": Mode(once(http("[" * DEEP)), "answer", TEXT, 2),
    "deep-beside-an-answer": Mode(
        always('{"x":' + "[" * 5000 + "]" * 5000 + "," + OK.decode()[1:]), "reject", "nested too deeply", 2
    ),
    "deep-400": Mode(always("[" * DEEP, status=400), "reject", "400: [[[", 1),
    "deep-401": Mode(always('{"a":' * DEEP, status=401), "stop", "401", 1),
    "deep-500": Mode(always("[" * DEEP, status=500), "reject", "500: [[[", 2),
    "deep-error-inside": Mode(always('{"error": ' + "[" * 300 + "]" * 300 + "}"), "reject", "502: ", 2),
    "html-at-200": Mode(
        always("<html><title>502 Bad Gateway</title></html>", kind="text/html"), "reject", "502 Bad Gateway", 2
    ),
    "streams": Mode(
        always('data: {"choices": [{"delta": {"content": "7"}}]}\n\ndata: [DONE]\n\n', kind="text/event-stream"),
        "reject",
        "the server streams",
        2,
    ),
    "error-object-at-200": Mode(
        always({"object": "error", "message": "This model's maximum context length is 10", "code": 400}),
        "reject",
        "400: This model's maximum context length",
        1,
    ),
    "message-at-200": Mode(always({"message": "the backend is asleep"}), "reject", "the backend is asleep", 2),
    "text-error-at-200": Mode(always({"error": "boom inside"}), "reject", "boom inside", 2),
    "error-beside-an-answer": Mode(
        always({**completion(), "error": {"message": "half of it is lost"}}), "reject", "half of it is lost", 2
    ),
    "error-code-in-words-at-200": Mode(
        always({"error": {"message": "bad key", "code": "invalid_api_key"}}), "stop", "401: bad key", 1
    ),
    "list": Mode(always([1, 2]), "reject", "[1, 2]", 2),
    "null": Mode(always("null"), "reject", "null", 2),
    "no-body": Mode(always(""), "reject", "(nothing)", 2),
    "no-choices": Mode(always({"choices": []}), "reject", "no choices", 2),
    "choices-a-text": Mode(always({"choices": "none"}), "reject", "no choices", 2),
    "choices-of-numbers": Mode(always({"choices": [1, 2, 3]}), "reject", "not a chat completion", 2),
    "message-a-list": Mode(always({"choices": [{"message": ["no"]}]}), "reject", "not a chat completion", 2),
    "content-a-number": Mode(always(completion(7)), "reject", "not a chat completion", 2),
    "content-parts-of-numbers": Mode(always(completion([1, 2])), "reject", "not a chat completion", 2),
    "not-utf-8": Mode(
        always(b'{"choices":[{"message":{"content":"\xff\xfe"},"finish_reason":"stop"}]}'), "reject", "not UTF-8", 2
    ),
    "a-bomb": Mode(always(gzip.compress(b" " * (40 << 20)), Content_Encoding="gzip"), "reject", "MiB (after decompression)", 2),
    "too-long": Mode(always(completion("A" * (17 << 20))), "reject", "MiB (after decompression)", 2),
    "broken-gzip": Mode(always(b"\x1f\x8b" + b"x" * 50, Content_Encoding="gzip"), "reject", "no answer after 2 attempts", 2),
    "deflate-that-is-not": Mode(
        always(zlib.compress(OK)[:-8], Content_Encoding="br"), "reject", "no answer after 2 attempts", 2
    ),
    # -- HTTP that is broken
    "noise": Mode(raw(b"\x00\x01\x02 hello\r\n\r\n"), "reject", "no answer after 2 attempts"),
    "closed-at-once": Mode(raw(b""), "reject", "no answer after 2 attempts"),
    "too-short-a-length": Mode(raw(_cut(OK, b"Content-Length: 10")), "reject", "no answer after 2 attempts", 2),
    "too-long-a-length": Mode(raw(_cut(OK, b"Content-Length: 100000")), "reject", "no answer after 2 attempts", 2),
    "negative-length": Mode(raw(_cut(OK, b"Content-Length: -5")), "reject", "no answer after 2 attempts"),
    "headers-only": Mode(raw(_cut(b"", b"Content-Length: 50")), "reject", "no answer after 2 attempts", 2),
    "endless-header": Mode(
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n{}"), "reject", "no answer after 2 attempts"
    ),
    "broken-chunks": Mode(
        raw(_cut(b"zz\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")), "reject", "no answer after 2 attempts"
    ),
    "silence": Mode(lambda ask: b"WAIT", "reject", "no answer within", 2),
    # -- statuses and what comes with them
    "half-a-pair-400": Mode(always(HALF, status=400), "reject", "bad � word", 1),
    "half-a-pair-401": Mode(always(HALF, status=401), "stop", "bad � word", 1),
    "half-a-pair-500": Mode(always(HALF, status=500), "reject", "bad � word", 2),
    "nul-500": Mode(always('{"error": {"message": "bad \\u0000 word"}}', status=500), "reject", r"bad \x00 word", 2),
    "terminal-codes-400": Mode(
        error("\x1b[2J\x1b]0;title\x07 fake\r\nerror: line", 400), "reject", r"\x1b[2J\x1b]0;title\x07 fake error: line", 1
    ),
    "charset-rot13-400": Mode(
        always({"error": {"message": "too long"}}, status=400, kind="application/json; charset=rot13"),
        "reject",
        "400: too long",
        1,
    ),
    "error-is-a-list": Mode(always([["no"]], status=400), "reject", '400: [["no"]]', 1),
    "error-code-is-a-dict": Mode(error("no", 400, code={"a": []}, type=["x"]), "reject", "400: no", 1),
    "status-600": Mode(error("odd", 600), "reject", "600: odd", 2),
    "status-204": Mode(raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "reject", "204"),
    "retry-after-overflow": Mode(
        once(http({}, 503, Retry_After="Wed, 21 Oct 2015 07:28:00 +99999999999999999999")), "answer", TEXT, 2
    ),
    "retry-after-negative": Mode(once(http({}, 503, Retry_After="-5")), "answer", TEXT, 2),
    "retry-after-nan": Mode(once(http({}, 429, Retry_After="nan")), "answer", TEXT, 2),
    "retry-after-1e300": Mode(once(http({}, 503, Retry_After="1e300")), "answer", TEXT, 2),
    "retry-after-year-1": Mode(once(http({}, 503, Retry_After="Mon, 01 Jan 0001 00:00:00 -0000")), "answer", TEXT, 2),
    "retry-after-year-9999": Mode(once(http({}, 503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")), "answer", TEXT, 2),
    "retry-after-words": Mode(once(http({}, 503, Retry_After="soon, please")), "answer", TEXT, 2),
    "retry-after-superscript": Mode(once(http({}, 503, Retry_After="²")), "answer", TEXT, 2),
    "retry-after-in-milliseconds": Mode(once(http({}, 429, Retry_After_Ms="10")), "answer", TEXT, 2),
    # -- what concerns every request
    "model-openrouter": Mode(
        error("hostile/x is not a valid model ID", 400, code=400), "stop", "check base_url and the model name", 1
    ),
    "model-litellm": Mode(
        error(
            "/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models for your key.",
            400,
        ),
        "stop",
        "check base_url and the model name",
        1,
    ),
    "model-mistral": Mode(
        always({"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, status=400),
        "stop",
        "check base_url and the model name",
        1,
    ),
    "model-transformers": Mode(
        error("x is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'", 500),
        "stop",
        "check base_url and the model name",
        1,
    ),
    "key-gemini": Mode(
        always(
            [
                {
                    "error": {
                        "code": 400,
                        "message": "API key not valid. Please pass a valid API key.",
                        "status": "INVALID_ARGUMENT",
                    }
                }
            ],
            status=400,
        ),
        "stop",
        "check the key in",
        1,
    ),
    "key-litellm": Mode(error("Authentication Error, No api key passed in.", 400), "stop", "check the key in", 1),
    "nobody-takes-it": Mode(
        error("No endpoints found that can handle the requested parameters.", 404), "reject", "404: No endpoints", 1
    ),
    "key-litellm-without-a-database": Mode(error("No connected db.", 400), "stop", "check the key in", 1),
    "temperature": Mode(
        error(
            "Unsupported value: 'temperature' does not support 0.7 with this model.",
            400,
            param="temperature",
            code="unsupported_value",
        ),
        "stop",
        "even where it is not sent",
        2,
    ),
    # -- keys that are repeated
    "echo": Mode(echo(str), "stop", "Incorrect API key provided: ***"),
    "echo-escaped-slash": Mode(echo(lambda key: key.replace("/", "\\/")), "stop", "***"),
    "echo-escaped-plus": Mode(echo(lambda key: key.replace("+", "\\u002B").replace("/", "\\u002F")), "stop", "***"),
    "echo-all-escaped": Mode(echo(_escaped), "stop", "***"),
    "echo-escaped-twice": Mode(echo(lambda key: _escaped(key).replace("\\", "\\\\")), "stop", "***"),
    "echo-url": Mode(echo(lambda key: quote(key, safe="")), "stop", "***"),
    "echo-url-twice": Mode(echo(lambda key: quote(quote(key, safe=""), safe="")), "stop", "***"),
    "echo-html": Mode(echo(lambda key: html.escape(key).replace("/", "&#47;").replace("+", "&plus;")), "stop", "***"),
    "echo-base64": Mode(echo(lambda key: base64.b64encode(key.encode()).decode()), "stop", "***"),
    "echo-basic-auth": Mode(echo(lambda key: base64.b64encode(f"user:{key}".encode()).decode()), "stop", "***"),
    "echo-hex": Mode(echo(lambda key: key.encode().hex()), "stop", "***"),
    "echo-capitals": Mode(echo(str.upper), "stop", "***"),
    "echo-beginning": Mode(echo(lambda key: key[:12] + "..."), "stop", "***"),
    "echo-end": Mode(echo(lambda key: "..." + key[-10:]), "stop", "***"),
    "echo-spaced": Mode(echo(lambda key: key[:10] + " " + key[10:]), "stop", "***"),
    "echo-400": Mode(echo(lambda key: key.replace("/", "\\/"), 400), "stop", "***"),
    "echo-500": Mode(echo(str, 500), "reject", "***", 2),
    "echo-at-200": Mode(lambda ask: http({"error": {"code": 401, "message": f"bad key {ask.key}"}}), "stop", "***"),
    "echo-html-page": Mode(lambda ask: http(f"<html>{ask.key}</html>"), "reject", "***"),
    "echo-in-the-reason": Mode(lambda ask: http("", 401, reason=f"bad {ask.key}"), "stop", "401"),
    "echo-in-a-header": Mode(
        lambda ask: _cut(b"{}", b"Bad Header " + ask.key.encode() + b": x"), "reject", "no answer after 2 attempts"
    ),
    "echo-in-a-redirect": Mode(
        lambda ask: http("", 302, Location=f"http://x/?k={quote(ask.key, safe='')}"), "stop", "redirects to"
    ),
    "echo-in-a-refusal": Mode(
        lambda ask: http({"choices": [{"message": {"refusal": f"no, {ask.key}"}}]}), "reject", "the model refused: no, ***"
    ),
    "echo-in-a-finish-reason": Mode(lambda ask: http(completion(finish=ask.key)), "reject", "unknown reason"),
    "echo-in-an-answer": Mode(
        lambda ask: http(completion(f"Your key is {ask.key}")), "reject", "the answer contains the API key"
    ),
    "echo-in-an-answer-base64": Mode(
        lambda ask: http(completion(base64.b64encode(ask.key.encode()).decode())), "reject", "the answer contains the API key"
    ),
}


class HostileServer(InThread):
    """`with HostileServer() as server:` serves `server.base_url`; `server.asked` counts requests by mode."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []

    async def main(self, ready: threading.Event) -> None:
        """See InThread."""
        self._held: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 26)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._held):
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._held.add(task)
        try:
            while await self._answered(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._held.discard(task)
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; whether the connection may be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
        name = body["model"]
        ask = Ask(self.asked[name], headers.get("authorization", "").removeprefix("Bearer "), body)
        self.asked[name] += 1
        self.bodies.append(body)
        response = MODES[name].respond(ask)
        if response == b"WAIT":
            await self._stop.wait()
        writer.write(response)
        await writer.drain()
        start, _, rest = response.rpartition(b"\r\n\r\n") if b"Content-Length" in response else (b"", b"", b"")
        return f"Content-Length: {len(rest)}".encode() in start.split(b"\r\n")
