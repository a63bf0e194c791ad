"""`python -m docs.generate.pictures` (`make pictures`) takes the pictures of docs/howto/page.md.

The recipe best-of-n and PersonaMath are run in this process on a scripted server, and the page over their registry is opened in
chromium. Fonts differ from machine to machine, and so do the pictures: nothing checks that they are current. Look at them
before you commit them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from zlib import crc32

from rich.console import Console

from benchmarks import scripted_personamath
from docs.generate import pictured_answers
from engine.cli.progress import PlainProgress
from engine.execution.in_process import InProcess
from engine.pipeline.check import check
from engine.running.run import run
from registry import Registry
from tests.chat_server import ChatServer
from tests.e2e.test_recipes import RECIPES
from tests.engine.page.conftest import ARGUMENTS, CHROMIUM, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).parents[1] / "pictures"

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
    with registry() as made, served(".engine") as address, sync_playwright() as playwright:
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
        [(run_id,)] = session.ask("select run_id from runs where pipeline = 'best-of-n'").rows
        [(row,)] = session.ask('select min(row) from "best-of-n/judged" where score >= 8').rows
    return {
        "run": Picture(f"runs/{run_id}", 800),
        "rows": Picture("versions/best-of-n/judged@1?sort=score&desc=1", 720),
        "charts": Picture("versions/best-of-n/judged@1?view=charts", 980),
        "row": Picture(f"rows/{row}/best-of-n/judged@1", 1000),
        "costs": Picture("costs", 700),
    }


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry with a run of the recipe best-of-n and two of PersonaMath, in a folder that is also the working directory."""
    with tempfile.TemporaryDirectory() as name, chdir(name), ChatServer(latency=0.02) as server:
        made = Registry(Path(".engine"))
        with patch.dict(os.environ, {"OPENAI_API_KEY": "not-a-real-key"}):
            numbers: Counter[str] = Counter()

            def sampled(body: dict[str, Any]) -> str:
                prompt = str(body["messages"][-1]["content"])
                numbers[prompt] += 1
                return pictured_answers.answer(body, numbers[prompt])

            server.reply = partial(_replying, sampled)
            recipe = (RECIPES / "best-of-n.yaml").read_text()
            recipe = recipe.replace(", base_url: null", "").replace('"${params.base_url}"', json.dumps(server.base_url))
            Path("best-of-n.yaml").write_text(recipe)
            shutil.copytree(RECIPES / "data", "data")
            _run(made, Path("best-of-n.yaml"))
            server.reply = partial(_replying, scripted_personamath.answer)
            price = {"input": 0.15, "output": 0.60}
            model = {"provider": "openai", "model": "gpt-4o-mini", "base_url": server.base_url, "price": price}
            model |= {"max_tokens": 1024, "api_key_env": "OPENAI_API_KEY"}
            Path("personamath.yaml").write_text(json.dumps(scripted_personamath.pipeline(model)))
            for rows in (12, 24):
                scripted_personamath.write_data(Path(), rows)
                _run(made, Path("personamath.yaml"), "k1=3", "k2=2")
        yield made


def _run(made: Registry, file: Path, *settings: str) -> None:
    pipeline = check(file, [*settings], keys=True)
    observer = PlainProgress(Console(quiet=True))
    done = run(pipeline, made, observer, select=set(), force=set(), cluster=InProcess(registry=made))
    assert done.state == "succeeded", done.error


def smaller(content: bytes) -> bytes:
    """A picture with few colours, which is enough for text on plain ground."""
    from PIL import Image

    few = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return written.getvalue()


def _replying(answer: Callable[[dict[str, Any]], str], body: dict[str, Any]) -> dict[str, Any]:
    """Answers with about as many tokens as their texts have, and some reasoning."""
    texts = [answer(body) for _ in range(body.get("n", 1))]
    thought = [8 + crc32(text.encode()) % 40 for text in texts]
    usage = {
        "prompt_tokens": len(str(body["messages"])) // 4,
        "completion_tokens": sum(len(text) // 4 for text in texts) + sum(thought),
        "completion_tokens_details": {"reasoning_tokens": sum(thought)},
    }
    messages = [{"role": "assistant", "content": text, "reasoning": "First what is asked, then the facts."} for text in texts]
    return {"choices": [{"message": message, "finish_reason": "stop"} for message in messages], "usage": usage}


if __name__ == "__main__":
    sys.exit(main())
