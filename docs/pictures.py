"""`python -m docs.pictures` (`make pictures`) takes the pictures of docs/howto/page.md and writes them to docs/pictures.

PersonaMath's graph is run twice in this process, on a scripted server that works word problems, at first with 12 problems and
then with 24, and the page over that registry is opened in chromium. Fonts differ from machine to machine, and so do the
pictures: nothing checks that they are current. Look at them before you commit them.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from zlib import crc32

from rich.console import Console

from benchmarks import scripted_personamath
from engine.cli.progress import PlainProgress
from engine.execution.in_process import InProcess
from engine.pipeline.check import check
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.page.conftest import ARGUMENTS, CHROMIUM, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).with_name("pictures")

MOST_BYTES = 100_000
COLOURS = 96

_WIDTH = 1200


@dataclass(frozen=True)
class Picture:
    """A picture.

    Args:
        path: of the page.
        height: of the window; what is below is not in the picture.
        prepare: what is done with the page before.
    """

    path: str
    height: int
    prepare: Callable[[Page], Any] = lambda page: None


def main() -> int:
    """Take the pictures; returns the exit code."""
    if not CHROMIUM:
        print("no chromium is installed: apt-get install chromium", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with registry() as made, served(made.root) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": _WIDTH, "height": 800}, color_scheme="light")
        page.goto(address)
        for name, picture in pictures(made).items():
            page.set_viewport_size({"width": _WIDTH, "height": picture.height})
            page.goto(address.partition("?")[0] + picture.path)
            for figure in page.locator("figure[data-graph], figure[data-chart]").all():
                figure.locator(".drawing svg").first.wait_for()
            picture.prepare(page)
            content = smaller(page.screenshot())
            assert len(content) <= MOST_BYTES, f"{name}.png has {len(content):,} bytes; make its window lower"
            (FOLDER / f"{name}.png").write_bytes(content)
            print(f"docs/pictures/{name}.png  {len(content):,} bytes")
        browser.close()
    return 0


def pictures(made: Registry) -> Mapping[str, Picture]:
    """The pictures by name."""
    with made.session() as session:
        [(newest,)] = session.ask("select run_id from runs order by started_at desc limit 1").rows
        [(row,)] = session.ask('select min(row) from "personamath/rows" where stage = 2').rows
    return {
        "run": Picture(f"runs/{newest}", 860),
        "rows": Picture("versions/personamath/augment1.solved", 640),
        "charts": Picture("versions/personamath/rows?view=charts", 700),
        "row": Picture(f"rows/{row}/personamath/rows@2", 900),
        "costs": Picture("costs", 640),
    }


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry with two runs of the pipeline."""
    with tempfile.TemporaryDirectory() as name, ChatServer(latency=0.02) as server:
        folder = Path(name)
        made = Registry(folder / ".engine")
        server.reply = _replying
        price = {"input": 0.15, "output": 0.60}
        model = {"provider": "openai", "model": "gpt-4o-mini", "base_url": server.base_url, "price": price, "max_tokens": 1024}
        (folder / "personamath.yaml").write_text(json.dumps(scripted_personamath.pipeline({**model, "api_key_env": "KEY"})))
        with patch.dict(os.environ, {"KEY": "not-a-real-key"}):
            for rows in (12, 24):
                scripted_personamath.write_data(folder, rows)
                pipeline = check(folder / "personamath.yaml", ["k1=3", "k2=2"], keys=True)
                observer = PlainProgress(Console(quiet=True))
                done = run(pipeline, made, observer, select=set(), force=set(), cluster=InProcess(registry=made))
                assert done.state == "succeeded", done.error
        yield made


def smaller(content: bytes) -> bytes:
    """A picture with few colours, which is enough for text on plain ground."""
    from PIL import Image

    few = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return written.getvalue()


def _replying(body: dict[str, Any]) -> dict[str, Any]:
    """An answer with about as many tokens as its texts have, of which a fifth is reasoning."""
    text = scripted_personamath.answer(body)
    thought = 8 + crc32(text.encode()) % 40
    message = {"role": "assistant", "content": text, "reasoning": "The numbers first, then what is asked for."}
    usage = {
        "prompt_tokens": len(str(body["messages"])) // 4,
        "completion_tokens": len(text) // 4 + thought,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
    return {"choices": [{"message": message, "finish_reason": "stop"}] * body.get("n", 1), "usage": usage}


if __name__ == "__main__":
    sys.exit(main())
