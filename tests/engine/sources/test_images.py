"""Images that rows name are read with the rows, kept as objects, and part of a row's content."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.export.versions import export
from engine.pipeline.check import check
from engine.sources.exclusions import Entry, add_to_list
from engine.upkeep.fsck import fsck
from engine.upkeep.gc import collect
from registry import Registry
from registry.errors import MissingError
from registry.records.content import id_of
from tests.chat_server import ChatServer
from tests.engine.previewing.test_preview import preview_text
from tests.engine.run_pipelines import ask, outcomes, run_text

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

PNG = b"\x89PNG\r\n\x1a\n"


def write(*pictures: Any, file: str = "data/rows.jsonl") -> None:
    """Rows 0, 1, ... with these pictures."""
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("".join(json.dumps({"n": n, "picture": each}) + "\n" for n, each in enumerate(pictures)))


def image(name: str, content: bytes) -> str:
    """Write an image below `data`; returns the reference to it."""
    Path("data", name).parent.mkdir(parents=True, exist_ok=True)
    Path("data", name).write_bytes(PNG + content)
    return reference(content)


def reference(content: bytes) -> str:
    return "image:sha256:" + hashlib.sha256(PNG + content).hexdigest()


def pipeline(server: ChatServer, more: str = "", top: str = "", images: str = "[picture]") -> str:
    return f"""
        name: demo
        {top}
        models: {{model: {server.model()}}}
        datasets:
          rows: {{path: data/rows.jsonl, images: {images}, {more}}}
        steps:
          seen: {{op: generate, in: rows, max_reject_ratio: 1, with: {{prompt: "What is {{{{ n }}}}?", images: picture}}}}
    """


def calls(server: ChatServer) -> int:
    """The number of requests since the last call, without the probe's."""
    found = sum("What is" in str(each["messages"]) for each in server.requests)
    server.requests.clear()
    return found


def problems(text: str) -> list[str]:
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return [f"{each.message} {each.hint}" for each in caught.value.problems]


def test_a_row_refers_to_the_content_of_its_image(registry: Registry, chat_server: ChatServer) -> None:
    cat, dog = image("cat.png", b"cat"), image("dog.png", b"dog")
    write("cat.png", "dog.png")
    text = pipeline(chat_server)
    assert run_text(text, registry).state == "succeeded"
    assert calls(chat_server) == 2
    assert ask(registry, 'select picture from "demo/rows" order by row') == [(cat,), (dog,)]
    [(prompt,)] = ask(registry, "select prompt from llm_calls where row = 0")
    assert cat.removeprefix("image:") in prompt, "the digest in a prompt is the one in the row"

    assert outcomes(run_text(text, registry))["seen"] == "hit"

    image("cat.png", b"another cat")
    assert outcomes(run_text(text, registry))["seen"] == "ran"
    assert calls(chat_server) == 1, "a changed image is asked about again, the other one is not"
    assert ask(registry, 'select picture from "demo/rows" order by row')[0] == (reference(b"another cat"),)

    Path("data/cat.png").rename("data/moved.png")
    write("moved.png", "dog.png")
    assert outcomes(run_text(text, registry))["seen"] == "hit", "a moved image makes the same row"
    assert calls(chat_server) == 0


def test_an_image_that_appears_later_is_read(registry: Registry, chat_server: ChatServer) -> None:
    image("cat.png", b"cat")
    write("cat.png", "dog.png")
    text = pipeline(chat_server, "on_error: skip")
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, "select reason from rejects where name = 'demo/rows'") == [
        (f"data/rows.jsonl:2: image 'dog.png': there is no such file (in {Path('data').resolve()})",)
    ]
    image("dog.png", b"dog")
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, 'select count(*) from "demo/rows"') == [(2,)]


def test_an_invalid_image_is_an_error_of_its_row(chat_server: ChatServer) -> None:
    image("cat.png", b"cat")
    image("big.png", bytes(20_000_000))
    Path("data/b.txt").write_text("no image")
    Path("secret.png").write_bytes(PNG)
    Path("data/link.png").symlink_to(Path("secret.png").resolve())
    folder = Path("data").resolve()
    outside = f"is outside {folder}; move it there, or name a folder that has all images with `image_folder`"
    given = {
        "none.png": f"image 'none.png': there is no such file (in {folder})",
        "b.txt": "image 'b.txt' is not a PNG, JPEG, GIF or WebP file",
        "big.png": "image 'big.png' has 20,000,008 bytes; the limit is 20,000,000",
        "ftp://x": "image 'ftp://x': give a file, an http(s) URL or a data URL",
        ".": "image '.' is not a file",
        "data:text/plain,x": "image 'data:text/plain,x': a data URL is data:image/png;base64,... (also jpeg, gif, webp)",
        "../secret.png": f"image '../secret.png' {outside}",
        "link.png": f"image 'link.png' {outside}",
        str(Path("secret.png").resolve()): f"image '{Path('secret.png').resolve()}' {outside}",
        reference(
            b"cat"
        ): f"picture: '{reference(b'cat')}' refers to an image of a registry; give the file, as `engine export` writes it",
    }
    write("cat.png", *given)
    found = " ".join(problems(pipeline(chat_server)))
    for place, (name, why) in enumerate(given.items(), 2):
        assert f"data/rows.jsonl:{place}: not a Rows: {why}" in found, name


def test_missing_images_are_counted_and_the_first_are_shown(chat_server: ChatServer) -> None:
    write("cat.png", *(f"photo {letter}.png" for letter in "abcdefghij"), "it's.txt")
    image("cat.png", b"cat")
    Path("data/it's.txt").write_text("no image")
    missing = f"there is no such file (in {Path('data').resolve()}) "
    more = "(7 more rows have an error like this, the last is data/rows.jsonl:11)"
    *first, last = problems(pipeline(chat_server))
    assert first == [
        f"data/rows.jsonl:2: not a Rows: image 'photo a.png': {missing}",
        f"data/rows.jsonl:3: not a Rows: image 'photo b.png': {missing}",
        f"data/rows.jsonl:4 {more}: not a Rows: image 'photo c.png': {missing}",
    ]
    assert last.startswith('data/rows.jsonl:12: not a Rows: image "it\'s.txt" is not a PNG, JPEG, GIF or WebP file')
    assert last.endswith("name the folder of the images with `image_folder`, or continue without these rows: `on_error: skip`")


def test_images_have_a_folder_of_their_own(registry: Registry, chat_server: ChatServer) -> None:
    cat = image("pictures/cat.png", b"cat")
    write("cat.png", str(Path("data/pictures/cat.png").resolve()), None)
    assert run_text(pipeline(chat_server, "image_folder: data/pictures"), registry).state == "succeeded"
    assert ask(registry, 'select picture from "demo/rows" order by row') == [(cat,), (cat,), (None,)]
    [problem] = problems(pipeline(chat_server, "image_folder: nowhere"))
    assert problem.startswith("there is no folder nowhere relative paths are looked up in")


def test_bytes_become_references_and_urls_stay(registry: Registry, chat_server: ChatServer) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path("data").mkdir()
    image("a.png", b"a")
    pictures: list[list[Any]] = [
        [{"bytes": PNG + b"1", "path": "1.png"}, {"bytes": None, "path": "https://x/1"}],
        [{"bytes": None, "path": "a.png"}],
    ]
    pq.write_table(pa.table({"n": [1, 2], "picture": pictures}), "data/rows.parquet")
    text = pipeline(chat_server).replace("rows.jsonl", "rows.parquet")
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, 'select picture from "demo/rows" order by row') == [
        ([reference(b"1"), "https://x/1"],),
        ([reference(b"a")],),
    ]
    assert calls(chat_server) == 2


def test_fields_with_images_are_texts(chat_server: ChatServer) -> None:
    write("https://x/1")
    found = problems(pipeline(chat_server, images="[n, pictur]").replace("images: picture}", "images: n}"))
    assert any("Rows has no field 'pictur' did you mean 'picture'?" in each for each in found)
    found = problems(pipeline(chat_server, "type: Row", "types: {Row: {n: int, picture: int}}"))
    assert "images: field 'picture' of Row is int a row refers to its images" in found[0]
    [problem] = problems(pipeline(chat_server, images="[]", more="image_folder: data"))
    assert "'image_folder' is for images" in problem


def test_an_export_has_the_images(registry: Registry, chat_server: ChatServer, tmp_path: Path) -> None:
    cat = image("cat.png", b"cat")
    write("cat.png", "https://x/1", None)
    assert run_text(pipeline(chat_server), registry).state == "succeeded"
    for form in ("jsonl", "parquet", "hf"):
        done = export(registry, "demo/seen", form, tmp_path / form)
        name = f"images/{cat.removeprefix('image:sha256:')}.png"
        assert (tmp_path / form / name).read_bytes() == PNG + b"cat"
        assert name in done.files
    [line, *_] = (tmp_path / "jsonl/demo-seen.jsonl").read_text().splitlines()
    assert json.loads(line)["picture"] == name

    Path("data/rows.jsonl").unlink()
    again = pipeline(chat_server).replace("data/rows.jsonl", str(tmp_path / "jsonl/demo-seen.jsonl"))
    calls(chat_server)
    assert (
        run_text(
            again.replace("name: demo", "name: again").replace("images: picture}", "images: picture, into: more}"), registry
        ).state
        == "succeeded"
    )
    assert ask(registry, 'select picture from "again/rows" order by row')[0] == (cat,)
    assert calls(chat_server) == 0, "the same image, and the same question"


def test_images_are_kept_and_taken_down_with_their_rows(registry: Registry, chat_server: ChatServer) -> None:
    cat, dog = image("cat.png", b"cat"), image("dog.png", b"dog")
    write("cat.png", "dog.png")
    assert run_text(pipeline(chat_server), registry).state == "succeeded"
    collect(registry, dt.timedelta(0))
    assert not fsck(registry, deep=True).errors
    for each in (cat, dog):
        registry.store.verify(each.removeprefix("image:sha256:"))

    add_to_list(Path("gone.jsonl"), [Entry(dataset="demo/rows", row_id=id_of({"n": 0, "picture": cat}))])
    assert run_text(pipeline(chat_server, top="exclude: gone.jsonl"), registry).state == "succeeded"
    assert ask(registry, 'select picture from "demo/seen"') == [(dog,)]
    collect(registry, dt.timedelta(0))
    assert not fsck(registry, deep=True).errors
    with pytest.raises(MissingError):
        registry.store.verify(cat.removeprefix("image:sha256:"))


def test_a_lost_image_is_found_and_read_again(registry: Registry, chat_server: ChatServer) -> None:
    cat = image("cat.png", b"cat").removeprefix("image:sha256:")
    write("cat.png")
    assert run_text(pipeline(chat_server), registry).state == "succeeded"
    registry.store.path(cat).unlink()
    assert any("demo/rows@1" in str(each) for each in fsck(registry).errors)
    assert run_text(pipeline(chat_server), registry).state == "succeeded"
    assert not fsck(registry).errors


def test_a_preview_sends_the_images_that_the_run_sends(registry: Registry, chat_server: ChatServer) -> None:
    for number in range(6):
        image(f"{number}.png", str(number).encode())
    write(*(f"{number}.png" for number in range(6)))
    text = pipeline(chat_server)
    made = preview_text(text, registry, rows=2)
    assert [(each.rows_in, each.rejected) for each in made.steps] == [(2, 0)]
    assert calls(chat_server) == 2
    assert run_text(text, registry).state == "succeeded"
    assert calls(chat_server) == 4
