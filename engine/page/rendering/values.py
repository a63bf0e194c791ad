"""Values of rows as HTML: texts, numbers, lists, structs, conversations, pictures, to any depth. All of it is escaped.

Markup comes only from the constants of this file; values are inserted by `Markup.format`, which escapes them.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from engine.page.rendering.filters import moment, number, size
from engine.page.rendering.markdown import markdown
from engine.plain_values import json_line
from engine.printable import harmless
from registry.counted import counted

_DEEPEST = 8
"""How deep lists and structs are drawn; what is deeper is JSON."""

_MARKDOWN = 20_000
"""Characters of a text that are laid out as Markdown; longer ones are text."""

_PICTURE_BYTES = 4 << 20

_SIGNATURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
"""The pictures that are shown, and how their files begin. SVG is none of them: it is a document."""


@dataclass(frozen=True)
class Style:
    """How values are shown.

    Args:
        characters: of a text, at most.
        items: of a list, at most.
        markdown: whether texts are laid out as Markdown.
        pictures: the data URLs of pictures that Markdown may show, by file name.
        whole: the address of a page with the whole value, from its path in the row; None: there is none.
    """

    characters: int = 4000
    items: int = 50
    markdown: bool = False
    pictures: Mapping[str, str] = field(default_factory=dict)
    whole: Callable[[str], str] | None = None


def show(value: Any, style: Style, path: str = "", depth: int = 0) -> Markup:
    """A value as HTML.

    Args:
        path: where it is in its row, `messages/0/content`, each part percent-encoded.
    """
    if value is None:
        return Markup('<span class="null">null</span>')
    if isinstance(value, bool):
        return Markup('<span class="num">{}</span>').format("true" if value else "false")
    if isinstance(value, int | float):
        return Markup('<span class="num">{}</span>').format(str(value) if isinstance(value, int) else number(value))
    if isinstance(value, dt.datetime):
        return moment(value)
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, str):
        return _text(value, style, path)
    if depth >= _DEEPEST:
        return _text(json_line(value), replace(style, markdown=False), path)
    if isinstance(value, Mapping):
        return _struct(value, style, path, depth)
    if isinstance(value, list | tuple):
        return _list(value, style, path, depth)
    return _text(str(value), replace(style, markdown=False), path)


def one_line(value: Any, characters: int = 160) -> str:
    """A value as the start of its text, for tables: a conversation by its turns, everything else as JSON."""
    if value is None:
        return ""
    if is_chat(value):
        value = " ⏎ ".join(f"{turn['role']}: {_flat(turn.get('content'))[: characters + 1]}" for turn in value[:8])
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, dt.datetime | dt.date | dt.time):
        text = value.isoformat(sep=" ") if isinstance(value, dt.datetime) else value.isoformat()
    else:
        text = counted(value, "byte") if isinstance(value, bytes) else json_line(_cut_deep(value, characters))
    text = harmless(" ".join(text[: characters * 2].split()))
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def is_chat(value: Any) -> bool:
    """Whether a value is a conversation: a list of turns that have a role, and a content or calls of tools."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and ("content" in turn or "tool_calls" in turn)
            for turn in value
        )
    )


def picture(text: str) -> str | None:
    """A `data:` address of a picture of a known type, as it may be shown; None for everything else."""
    head, _, data = text.partition(";base64,")
    kind = head.removeprefix("data:")
    if not head.startswith("data:") or kind not in _SIGNATURES or len(data) > _PICTURE_BYTES * 4 // 3 + 4:
        return None
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    return text if content.startswith(_SIGNATURES[kind]) else None


def _text(text: str, style: Style, path: str) -> Markup:
    if text.startswith("data:image/") and (shown := picture(text)):
        return Markup('<img class="picture" src="{}" alt="picture in {}" loading="lazy" decoding="async">').format(shown, path)
    if not text:
        return Markup('<span class="null">empty text</span>')
    cut = text[: style.characters]
    if style.markdown and len(cut) <= _MARKDOWN:
        body = Markup('<div class="text markdown" dir="auto">{}</div>').format(markdown(cut, style.pictures))
    else:
        body = Markup('<div class="text" dir="auto">{}</div>').format(harmless(cut))
    return body + _rest(len(text) - len(cut), len(text), "characters", style, path)


def _rest(left: int, total: int, what: str, style: Style, path: str) -> Markup:
    """The text about the part that is not shown."""
    if left <= 0:
        return Markup("")
    if style.whole is None:
        return Markup('<span class="more">… {} more {}</span>').format(number(left), what)
    return Markup('<a class="more" href="{}">… show all {} {}</a>').format(style.whole(path), number(total), what)


def _bytes(value: bytes) -> Markup:
    for kind, signature in _SIGNATURES.items():
        if value.startswith(signature) and len(value) <= _PICTURE_BYTES:
            address = f"data:{kind};base64,{base64.b64encode(value).decode()}"
            return Markup('<img class="picture" src="{}" alt="picture, {}" loading="lazy" decoding="async">').format(
                address, size(len(value))
            )
    start = value[:32].hex(" ")
    return Markup('<code>{}{}</code> <span class="more">{}</span>').format(
        start, " …" if len(value) > 32 else "", size(len(value))
    )


def _struct(value: Mapping[Any, Any], style: Style, path: str, depth: int) -> Markup:
    if shown := _part(value, style, path):
        return shown
    lines = Markup("").join(
        Markup("<dt><bdi>{}</bdi></dt><dd>{}</dd>").format(
            harmless(str(name)), show(item, style, _below(path, name), depth + 1)
        )
        for name, item in value.items()
    )
    return Markup('<dl class="struct">{}</dl>').format(lines) if value else Markup('<span class="null">{{}}</span>').format()


def _part(value: Mapping[Any, Any], style: Style, path: str) -> Markup | None:
    """A part of a message: a text or a picture, in the shapes of the common servers."""
    kind = value.get("type")
    if kind == "text" and isinstance(value.get("text"), str):
        return _text(value["text"], style, _below(path, "text"))
    if kind in ("image_url", "input_image", "image"):
        address = value.get("image_url") or value.get("image") or value.get("url")
        if isinstance(address, Mapping):
            address = address.get("url")
        source = value.get("source")
        if isinstance(source, Mapping) and isinstance(source.get("data"), str):
            address = f"data:{source.get('media_type')};base64,{source['data']}"
        if isinstance(address, str):
            if shown := picture(address):
                return Markup('<img class="picture" src="{}" alt="picture" loading="lazy" decoding="async">').format(shown)
            # Never fetched: its server would learn who looks at which row.
            return Markup('<span class="picture">picture, not shown: <code>{}</code></span>').format(harmless(address[:200]))
    return None


def _list(value: Sequence[Any], style: Style, path: str, depth: int) -> Markup:
    if not value:
        return Markup('<span class="null">[]</span>')
    if is_chat(value):
        return chat(value, style, path)
    if all(isinstance(item, Mapping) and item.keys() == {"key", "value"} for item in value):
        return _struct({item["key"]: item["value"] for item in value}, style, path, depth)
    shown = value[: style.items]
    items = Markup("").join(
        Markup("<li>{}</li>").format(show(item, style, _below(path, place), depth + 1)) for place, item in enumerate(shown)
    )
    short = all(item is None or isinstance(item, int | float) or (isinstance(item, str) and len(item) <= 40) for item in shown)
    kind = "items short" if short else "items"
    return Markup('<ol class="{}" start="0">{}</ol>{}').format(
        kind, items, _rest(len(value) - len(shown), len(value), "items", style, path)
    )


def chat(turns: Sequence[Mapping[str, Any]], style: Style, path: str = "") -> Markup:
    """A conversation, turn by turn."""
    shown = turns[: style.items]
    lines = Markup("").join(_turn(turn, style, _below(path, place)) for place, turn in enumerate(shown))
    return Markup('<ol class="chat">{}</ol>{}').format(lines, _rest(len(turns) - len(shown), len(turns), "turns", style, path))


def _turn(turn: Mapping[str, Any], style: Style, path: str) -> Markup:
    role = turn["role"]
    known = role if role in ("system", "user", "assistant", "tool") else "other"
    name = Markup(' <bdi class="soft">{}</bdi>').format(harmless(str(turn["name"]))) if turn.get("name") else Markup("")
    content = turn.get("content")
    body = Markup("")
    for reasoning in ("thinking", "reasoning", "reasoning_content"):
        if turn.get(reasoning):
            inner = show(turn[reasoning], style, _below(path, reasoning))
            body += Markup('<details class="thinking"><summary>{}</summary>{}</details>').format(reasoning, inner)
    if isinstance(content, list):
        body += Markup("").join(
            show(part, style, _below(_below(path, "content"), place), 2) for place, part in enumerate(content)
        )
    elif content not in (None, "") or not turn.get("tool_calls"):
        body += show(content, style, _below(path, "content"), 2)
    calls = turn.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else []):
        body += _call(call, style, _below(_below(path, "tool_calls"), place))
    if turn.get("tool_call_id"):
        name += Markup(' <code class="soft">{}</code>').format(harmless(str(turn["tool_call_id"])))
    return Markup('<li class="turn {}"><div class="role">{}{}</div><div class="said">{}</div></li>').format(
        known, harmless(role), name, body
    )


def _call(call: Any, style: Style, path: str) -> Markup:
    inner = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        return show(call, style, path, 3)
    given = inner.get("arguments")
    text = _indented(given)[: style.characters]
    return Markup('<div class="call"><code>{}</code><pre dir="auto">{}</pre></div>').format(
        harmless(inner["name"]), harmless(text)
    )


def _indented(arguments: Any) -> str:
    """Arguments of a call, which are JSON in a text, on several lines."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return str(arguments)
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _below(path: str, name: Any) -> str:
    part = quote(str(name), safe="")
    return f"{path}/{part}" if path else part


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else json_line(_cut_deep(content, 200))


def _cut_deep(value: Any, characters: int, depth: int = 0) -> Any:
    """The part of a value that a line has room for, so that a long value is not written out only to be cut."""
    if isinstance(value, str):
        return value[:characters]
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {str(name): _cut_deep(item, characters, depth + 1) for name, item in list(value.items())[:40]}
    if isinstance(value, list | tuple):
        return [_cut_deep(item, characters, depth + 1) for item in value[:40]]
    return value
