"""Markdown and formulas of a row as HTML. Only Markdown in the row becomes markup.

HTML in it is shown as text, links send no referrer, and pictures are only named, except for files of a report, so that opening
a page never sends a request to another server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from markupsafe import Markup, escape

from engine.printable import harmless

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_FORMULAS = 400
"""Signs that begin or end formulas; a text with more has none. To look for the end of each takes quadratic time."""


def markdown(text: str, pictures: Mapping[str, str] = MappingProxyType({})) -> Markup:
    """A text as HTML.

    Args:
        pictures: the data URLs of pictures that the text may show, by file name.
    """
    formulas = sum(map(text.count, ("$", "\\(", "\\["))) <= _FORMULAS
    return Markup(_parser(formulas).render(harmless(text), {"pictures": pictures}))  # noqa: S704  (the parser escapes)


@cache
def _parser(formulas: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.texmath import texmath_plugin

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    if formulas:
        dollarmath_plugin(parser, allow_digits=False, double_inline=True)
        texmath_plugin(parser, delimiters="brackets")
    for rule in ("math_inline", "math_inline_double", "math_block", "math_block_label", "math_block_eqno"):
        parser.add_render_rule(rule, _formula)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link)
    parser.add_render_rule(
        "table_open", lambda *_: '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>\n'
    )
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    for rule in ("th_open", "td_open"):
        parser.add_render_rule(rule, _cell)
    return parser


def _formula(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    """A formula as it was written; maths.js sets it."""
    token = tokens[place]
    display = token.type != "math_inline"
    tag = "div" if token.block else "span"
    kind = "display" if display else "inline"
    return f'<{tag} class="maths" data-maths="{kind}">{escape(token.content.strip())}</{tag}>'


def _image(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    source = str(token.attrGet("src"))
    if url := env["pictures"].get(unquote(source)):
        return f'<img class="picture" src="{escape(url)}" alt="{escape(token.content)}" loading="lazy" decoding="async">'
    shown = token.content or "without a name"
    return f'<span class="picture">picture: {escape(shown)} <code>{escape(source[:200])}</code></span>'


def _link(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    tokens[place].attrs |= {"rel": "noreferrer noopener nofollow", "target": "_blank"}
    return str(renderer.renderToken(tokens, place, options, env))


def _cell(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    """A cell of a table, aligned by a class: the page allows no style in its markup."""
    aligned = tokens[place].attrs.pop("style", "")
    if aligned == "text-align:right":
        tokens[place].attrs["class"] = "n"
    return str(renderer.renderToken(tokens, place, options, env))
