"""Values of rows are shown as they are, and are never markup, whatever they contain."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from engine.page.facts.datasets.rows import value_at
from engine.page.rendering.markdown import markdown
from engine.page.rendering.values import Style, is_chat, one_line, picture, show

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
PNG = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]><svg onload=alert(1)>",
    "&lt;b&gt;",
    "javascript:alert(1)",
]


def tags(html: str) -> set[str]:
    """The elements of HTML."""
    return set(re.findall(r"<([a-z0-9]+)", html))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "wrapped",
    [lambda t: t, lambda t: [t], lambda t: {t: t}, lambda t: [{"role": t, "content": t}], lambda t: [[{"a": {t: [t]}}]]],
)
def test_a_text_is_never_markup(text: str, wrapped: Any) -> None:
    for look in (Style(), Style(markdown=True)):
        html = show(wrapped(text), look, "field")
        assert tags(html) <= {"div", "span", "ol", "li", "dl", "dt", "dd", "bdi", "p", "pre", "code", "br"}
        assert not re.search(r"<[^>]*\son\w+=", html)
        assert "49" not in html
    assert one_line(text) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("red \x1b[31m", r"red \x1b[31m"),
        ("nul \x00 bell \x07", r"nul \x00 bell \x07"),
        ("evil \u202etxt.exe", r"evil \u202etxt.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("tag \U000e0041", r"tag \U000e0041"),
    ],
)
def test_characters_that_hide_or_reorder_are_shown_as_escapes(text: str, seen: str) -> None:
    for html in (
        show(text, Style(), "f"),
        show(text, Style(markdown=True), "f"),
        show([{"role": "user", "content": text}], Style(), "f"),
    ):
        assert seen in html
        assert text not in html
    assert one_line(text) == seen


def test_text_from_right_to_left_has_a_direction_of_its_own() -> None:
    assert 'dir="auto"' in show("שלום עולם", Style(), "f")
    assert "<bdi>" in show({"שם": 1}, Style(), "f")


def test_a_million_characters_are_cut_with_a_way_to_all_of_them() -> None:
    html = show({"a/b": "x" * 1_000_000}, Style(characters=4000, whole=lambda path: f"/whole?path={path}"), "field")
    assert len(html) < 5000
    assert 'href="/whole?path=field/a%2Fb"' in html
    assert "show all 1,000,000 characters" in html
    assert len(one_line("x" * 1_000_000, 160)) == 160
    assert len(one_line({"a": ["x" * 1_000_000] * 1000}, 160)) == 160


def test_a_path_leads_back_to_its_value() -> None:
    record = {"a/b": [{"c.d": "deep", "%": [{"key": "k", "value": 7}]}]}
    assert value_at(record, "a%2Fb/0/c.d") == "deep"
    assert value_at(record, "a%2Fb/0/%25/k") == 7
    for path in ("", "a", "a%2Fb/1", "a%2Fb/x", "a%2Fb/0/c.d/0/z", "a%2Fb/-9"):
        with pytest.raises(KeyError):
            value_at(record, path)


def test_null_empty_and_nested_values_can_be_told_apart() -> None:
    shown = [
        show(value, Style(), "f") for value in (None, "", "null", [], {}, [None], 0, False, float("nan"), b"", {"a": None})
    ]
    assert len(set(shown)) == len(shown)


def test_what_is_very_deep_becomes_json() -> None:
    value: Any = "end"
    for _ in range(200):
        value = [{"a": value}]
    html = show(value, Style(), "f")
    assert html.count("<ol") < 10
    assert len(one_line(value)) <= 160


def test_a_conversation_is_shown_turn_by_turn_with_reasoning_and_calls() -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PNG}}],
        },
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [{"function": {"name": "look", "arguments": '{"x": [1]}'}}],
        },
        {"role": "tool", "content": "a dot", "tool_call_id": "c1"},
        {"role": "assistant", "content": "A dot.", "tool_calls": None},
    ]
    assert is_chat(chat)
    html = show(chat, Style(), "messages")
    assert re.findall(r'class="turn (\w+)"', html) == ["system", "user", "assistant", "tool", "assistant"]
    assert "<summary>thinking</summary>" in html
    assert "<code>look</code>" in html
    assert f'src="{PNG}"' in html


@pytest.mark.parametrize(
    "value", [[], [{"role": "user"}], [{"role": 1, "content": "x"}], ["user"], {"role": "user", "content": "x"}, None]
)
def test_what_only_resembles_a_conversation_is_a_list(value: Any) -> None:
    assert not is_chat(value)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.png",
        "//example.com/a.png",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/png;base64,bm90IGEgcG5n",
        "data:image/jpeg;base64," + base64.b64encode(PIXEL).decode(),
        'data:image/png;base64,iVBORw0KGgo=" onload="alert(1)',
        "data:image/png,raw",
        "file:///etc/passwd",
        "data:image/png;base64," + base64.b64encode(PIXEL + b"x" * (5 << 20)).decode(),
    ],
)
def test_only_pictures_inside_the_row_of_a_known_type_are_shown(address: str) -> None:
    assert picture(address) is None
    for value in (address, {"type": "image_url", "image_url": {"url": address}}, {"type": "image", "image": address}):
        assert "<img" not in show(value, Style(), "f")


def test_pictures_in_a_row_are_shown() -> None:
    for value in (
        PNG,
        PIXEL,
        {"type": "input_image", "image_url": PNG},
        {"type": "image", "source": {"media_type": "image/png", "data": PNG[22:]}},
    ):
        assert "<img" in show(value, Style(), "f")


def test_markdown_lays_text_out_and_marks_formulas() -> None:
    html = markdown(
        "# Title\n\nAn **answer** with $a_1 * b_2$ and \\(c\\).\n\n\\[d * e * f\\]\n\n$$\ng\n$$\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\nIt costs $5 or $6."
    )
    assert "<strong>answer</strong>" in html
    assert re.findall(r'data-maths="(\w+)">([^<]*)<', html) == [
        ("inline", "a_1 * b_2"),
        ("inline", "c"),
        ("display", "d * e * f"),
        ("display", "g"),
    ]
    assert '<td class="n">2</td>' in html
    assert "It costs $5 or $6." in html


def test_markdown_asks_no_other_server_and_runs_nothing() -> None:
    html = markdown(
        "![pixel](http://evil.example/p.png) [click](javascript:alert(1)) [page](http://example.com) <b onclick=x>bold</b>\n\n"
        "<iframe src='http://evil.example'></iframe>\n\n![x](data:image/svg+xml;base64,AAAA)\n\n<http://auto.example>"
    )
    assert tags(html) <= {"p", "a", "span", "code", "br"}
    assert "javascript:" not in re.findall(r'href="([^"]*)"', html)
    assert all(address.startswith("http") for address in re.findall(r'href="([^"]*)"', html))
    assert html.count('rel="noreferrer noopener nofollow"') == html.count("<a ")


def test_a_text_that_is_slow_to_parse_is_bounded() -> None:
    for text in (
        "[" * 20_000,
        "*a " * 7_000,
        "> " * 9_000,
        "`" * 20_000,
        "$" * 20_000,
        "\\(" * 10_000,
        "|a" * 10_000 + "\n" + "|-" * 10_000,
    ):
        assert show(text, Style(characters=20_000, markdown=True), "f")
