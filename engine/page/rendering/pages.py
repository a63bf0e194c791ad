"""Renders a template of this package. Every value is escaped, and a missing variable is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.page.links import Links
from engine.page.rendering.filters import FILTERS, shown
from engine.page.rendering.values import one_line
from engine.page.static_files import static_files
from registry.counted import counted


@dataclass(frozen=True)
class Frame:
    """The frame around every page.

    Args:
        links: makes the addresses.
        registry: the registry, as the user named it.
        form_token: the token in forms; empty if there are none.
        is_copy: whether the page is a file, without forms and without pages beyond those of its bundle.
        policy: what the page may load, if there is no server whose headers say so.
        path: the page that is shown, to be marked in the menu.
    """

    links: Links
    registry: str
    form_token: str = ""
    is_copy: bool = False
    policy: str = ""
    path: str = ""


def render(template: str, frame: Frame, **values: Any) -> str:
    """A page as HTML."""
    return _environment().get_template(template).render(frame=frame, links=frame.links, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= FILTERS
    environment.filters |= {"counted": counted, "data": _data, "line": one_line, "cut": _cut}
    environment.globals["asset"] = _asset
    return environment


def _asset(links: Links, file: str) -> str:
    return links.static(file, static_files()[file].sha256)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}… ({counted(len(text) - characters, 'more character')})"


def _data(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`, which ends at the first `</script`: no `<` is in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704  (escaped)
