"""A request to a model, and the messages it consists of."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from engine.llm.types.tools import Tools
from registry.storage.checked_json import json_digest


@dataclass(frozen=True)
class Request:
    """A request for one answer of a model. Every field but `most` is part of the key.

    Attributes:
        endpoint: base URL, or the name of an in-process provider.
        model: model name; for an in-process model, the identity of its weights.
        messages: ({"role": ..., "content": ...}, ...); the content is a text, or a list of parts: {"type": "text", "text": ...}
            and {"type": "image_url", "image_url": {"url": ...}}. Where tools are used, a message also has `tool_calls`, or
            `tool_call_id` if its role is `tool`. `thinking_blocks` are for the API that they came from.
        sampling: temperature, top_p, max_tokens, stop, seed; `logprobs` (how many alternatives), if requested.
        sample: 0 for the first answer to this prompt, 1 for the second, ...
        schema: a JSON Schema that the answer should follow. The provider decides how to ask for it (`response_format`, or
            in the prompt), and the key does not depend on that: keys stay valid when a server gains or loses support.
        tools: the tools that the model may call, as `as_tools` makes them.
        most: the number of tokens that the answer may have, in place of the sampling's `max_tokens`; see AnswerLength.
    """

    endpoint: str
    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: dict[str, Any]
    sample: int = 0
    schema: dict[str, Any] | None = None
    most: int | None = None
    tools: Tools = ()

    @cached_property
    def key(self) -> str:
        """SHA-256 of the request's canonical JSON: its key in the journal, and the `call_id` in SQL."""
        document = {
            "endpoint": self.endpoint,
            "model": self.model,
            "messages": list(self.messages),
            "sampling": self.sampling,
            "sample": self.sample,
        }
        document |= {"schema": self.schema} if self.schema is not None else {}
        return json_digest(document | ({"tools": list(self.tools)} if self.tools else {}))

    @property
    def max_tokens(self) -> int:
        """How many tokens the answer may have."""
        return int(self.sampling["max_tokens"]) if self.most is None else self.most

    @property
    def seed(self) -> int | None:
        """The seed to send. Samples of one prompt must differ, so each has another."""
        seed = self.sampling["seed"]
        return None if seed is None else seed + self.sample


def as_messages(prompt: str | Iterable[Mapping[str, Any] | BaseModel]) -> tuple[dict[str, Any], ...]:
    """Messages from a text (one user message) or from records or dicts with role and content.

    Raises:
        ValueError: a content has a part that is neither a text nor an image, or a tool call is invalid.
    """
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    messages = [
        message.model_dump(exclude_none=True) if isinstance(message, BaseModel) else dict(message) for message in prompt
    ]
    return tuple(
        {"role": str(message["role"]), "content": _content(message.get("content")), **_beyond_text(message)}
        for message in messages
    )


def beyond_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a message other than its role and its content."""
    return {name: value for name, value in message.items() if name not in ("role", "content")}


def _beyond_text(message: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: str(message[name]) for name in ("name", "tool_call_id") if message.get(name)}
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_tool_call(call) for call in calls]
    if blocks := message.get("thinking_blocks"):
        found["thinking_blocks"] = [dict(block) for block in blocks]
    return found


def _tool_call(given: Any) -> dict[str, Any]:
    match given:
        case {"function": {"name": str(name), "arguments": str(arguments)}}:
            function = {"name": name, "arguments": arguments}
            return {"id": str(given.get("id") or ""), "type": "function", "function": function}
    raise ValueError(f"{given!r:.100} is not a tool call: {{id, type: function, function: {{name, arguments}}}}")


def _content(given: Any) -> str | list[dict[str, Any]]:
    """A message's content: a text, or parts. Anything else than a list is a text, as it always was, so keys stay the same."""
    if given is None:  # of a turn that only calls tools
        return ""
    return [_part(part) for part in given] if isinstance(given, list | tuple) else str(given)


def _part(given: Any) -> dict[str, Any]:
    match given:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
    raise ValueError(f"{given!r:.100} is neither a text nor an image part of a message")


def texts_of(content: str | Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts in a message's content."""
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def images_in(content: str | Sequence[Mapping[str, Any]]) -> list[str]:
    """The addresses of the images in a message's content: http(s) or data URLs."""
    return [] if isinstance(content, str) else [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def without_data(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for people to read: the content of a data URL is replaced by its SHA-256, as the registry names it."""
    return [{**message, "content": _shown(message["content"])} for message in messages]


def _shown(content: str | Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {**part, "image_url": {"url": _short(part["image_url"]["url"])}} if part["type"] == "image_url" else {**part}
        for part in content
    ]


def _short(url: str) -> str:
    head, found, data = url.partition(",")
    if not found or not head.startswith("data:"):
        return url
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        content = data.encode()
    return f"{head},sha256:{hashlib.sha256(content).hexdigest()}"
