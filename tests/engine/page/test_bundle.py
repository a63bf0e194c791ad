"""Pages as a folder: self-contained, below its size limit, the same each time, and without anything about this machine."""

from __future__ import annotations

import json
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import PipelineError
from engine.page.bundle.file_links import ADDRESSES, file_of
from engine.page.bundle.writing import Bundle, write_bundle
from registry import Registry
from tests.engine.page.crafted import HOSTILE, commit, make_hostile

LIMIT = 50_000_000
PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


class Marks(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pages(folder: Path) -> dict[str, Marks]:
    return {name: Marks(content.decode()) for name, content in files(folder).items() if name.endswith(".html")}


def leads_to(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def check_closed(folder: Path) -> None:
    """Every address of every page is a file of the folder, or a place on the page."""
    there = files(folder)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    for name, page in pages(folder).items():
        assert {tag for tag, _ in page.tags}.isdisjoint({"form", "input", "textarea", "iframe", "base", "object"}), name
        for tag, attributes in page.tags:
            assert not [each for each in attributes if each.startswith("on") or each == "style"], (name, tag)
            found = [
                attributes[each] for each in ("href", "src", "action", "srcset", "data-live", "data") if each in attributes
            ]
            for target in found:
                inside = target.startswith(("#", "data:image/")) or leads_to(name, target) in there
                assert inside, (name, tag, target)
    for name, content in there.items():
        if name.endswith(".html"):
            for target in re.findall(r'"href":"([^"]*)"', content.decode()):
                assert target == "" or target.startswith("#") or leads_to(name, target) in there, (name, target)


def bundle(registry: Registry, target: str | None, name: str = "bundle", limit: int = LIMIT, most: int | None = None) -> Bundle:
    return write_bundle(registry, target, Path(name), limit=limit, most=most)


def text_of(folder: Path) -> str:
    return "\n".join(content.decode() for name, content in files(folder).items() if name.endswith((".html", ".json")))


def long_rows(registry: Registry, count: int) -> None:
    """Rows of about 2 kB, whose order by `number` is not that of the version."""
    run = registry.catalog.begin_run("demo", {"params": {}})
    commit(registry, run, "rows", [{"number": (7 * n) % count, "text": f"row {n} " * 300} for n in range(count)])
    registry.catalog.end_run(run, "succeeded", refs={"demo/rows": 1})


def test_a_run_is_copied_with_all_that_it_read_and_made(registry: Registry, trained: str) -> None:
    done = bundle(registry, trained)
    check_closed(done.folder)
    assert done.bytes == sum(map(len, files(done.folder).values()))
    assert done.files == len(files(done.folder))
    assert done.rows["demo/judged@1"] == (21, 21)
    start = (done.folder / "index.html").read_text()
    assert "Run of" in start
    assert done.note in start
    row = file_of(ADDRESSES.row("demo/judged", 1, 4), "")
    found = pages(done.folder)
    assert "Answer 4. Because." in found[row].text
    assert "First I think." in found[row].text  # the teacher's reasoning
    model = file_of(ADDRESSES.version("demo/sft", 1), "")
    assert model in {leads_to(row, attributes.get("href", "")) for tag, attributes in found[row].tags if tag == "a"}
    assert "Resolved settings" in found[model].text
    assert {"static/vendor/plot.min.js", "static/vendor/plot.LICENSE.txt"} <= files(done.folder).keys()


def test_a_version_is_copied_alone_and_links_to_others_are_text(registry: Registry, trained: str) -> None:
    done = bundle(registry, "demo/judged")
    check_closed(done.folder)
    assert done.rows == {"demo/judged@1": (21, 21)}
    page = (done.folder / file_of(ADDRESSES.row("demo/judged", 1, 4), "")).read_text()
    assert "<a>row 1 of <bdi>demo/seeds@1</bdi></a>" in page
    assert "Question 1?" in page
    assert "demo/sft@1" in page


def test_tables_are_there_in_the_order_of_each_column_page_by_page(registry: Registry) -> None:
    long_rows(registry, 120)
    done = bundle(registry, "demo/rows")
    start = ADDRESSES.version("demo/rows", 1)
    name = file_of(ADDRESSES.version("demo/rows", 1, sort="number", desc="1"), start)
    numbers = [int(each) for each in re.findall(r'<td class="n" dir="auto">(\d+)</td>', (done.folder / name).read_text())]
    assert numbers == list(range(119, 69, -1))
    assert file_of(ADDRESSES.version("demo/rows", 1, sort="text"), start) in files(done.folder)
    second = (done.folder / file_of(ADDRESSES.version("demo/rows", 1, sort="number", page=3), start)).read_text()
    assert ">119</td>" in second
    assert "page 3 of 3" in " ".join(second.split())
    check_closed(done.folder)


@pytest.mark.parametrize("limit", [1_000_000, 1_300_000, 1_800_000])
def test_the_limit_holds_and_every_page_states_it(registry: Registry, limit: int) -> None:
    long_rows(registry, 120)
    done = bundle(registry, "demo/rows", limit=limit)
    assert sum(map(len, files(done.folder).values())) <= limit
    check_closed(done.folder)
    taken, total = done.rows["demo/rows@1"]
    assert 0 <= taken < total == 120
    note = f"{120 - taken} are left out to keep the copy under {limit / 1e6:.3g} MB"
    for name, page in pages(done.folder).items():
        assert note in page.text, name
        assert page.tags[0][0] == "html"
        assert (done.folder / name).read_text().endswith("</html>")
    kept = {name for name in files(done.folder) if name.startswith("rows/")}
    assert kept == {file_of(ADDRESSES.row("demo/rows", 1, row), "") for row in range(taken)}
    shown = re.findall(r'<th scope="row" class="n">(?:<a[^>]*>)?(\d+)', (done.folder / "index.html").read_text())
    assert shown == [str(row) for row in range(min(taken, 50))]
    assert json.loads((done.folder / "bundle.json").read_text())["rows"] == {"demo/rows@1": [taken, 120]}


def test_progress_is_reported(registry: Registry) -> None:
    long_rows(registry, 60)
    said: list[tuple[int, int]] = []
    write_bundle(registry, "demo/rows", Path("bundle"), limit=LIMIT, most=55, advanced=lambda *now: said.append(now))
    assert said == [(50, 55), (55, 55)]


def test_more_room_takes_more_rows(registry: Registry) -> None:
    long_rows(registry, 120)
    taken = [bundle(registry, "demo/rows", limit=limit).rows["demo/rows@1"][0] for limit in (1_300_000, 1_800_000, LIMIT)]
    assert 0 < taken[0] < taken[1] < taken[2] == 120


def test_no_row_beyond_those_asked_for_is_in_it(registry: Registry) -> None:
    long_rows(registry, 120)
    done = bundle(registry, "demo/rows", most=60)
    assert done.rows["demo/rows@1"] == (60, 120)
    assert "60 are left out because at most 60 of each were requested" in done.note
    lists = [page.text for name, page in pages(done.folder).items() if not name.startswith("versions/demo-rows-1-charts")]
    assert any("row 59 row 59" in text for text in lists)
    assert not any("row 60 row 60" in text for text in lists)
    check_closed(done.folder)


def test_a_limit_without_room_for_the_pages_is_an_error_and_writes_nothing(registry: Registry, trained: str) -> None:
    with pytest.raises(PipelineError, match=r"--max-size 100 kB: the pages of run .* take .* MB without any row"):
        bundle(registry, None, limit=100_000)
    assert not Path("bundle").exists()
    assert not [path for path in Path().iterdir() if path.name.startswith(".bundle")]


def test_the_same_registry_gives_the_same_bytes(registry: Registry, trained: str) -> None:
    make_hostile(registry)
    second = files(bundle(registry, trained, "two", most=2).folder)
    bundle(registry, "demo/judged", "one", most=2)  # another one replaces it
    assert files(bundle(registry, trained, "one", most=2).folder) == second


def test_hostile_names_and_rows_are_text(registry: Registry) -> None:
    run = make_hostile(registry)
    done = bundle(registry, run)
    check_closed(done.folder)
    for name, page in pages(done.folder).items():
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert all(each.get("type") == "application/json" or "static/" in each["src"] for each in scripts), name
        assert not [tag for tag, _ in page.tags if tag in ("u", "i", "s", "img")], name
    assert HOSTILE.encode() not in b"".join(files(done.folder).values())
    assert all(re.fullmatch(r"[a-z0-9][a-zA-Z0-9/.-]{0,100}", name) for name in files(done.folder))
    values = [page.text for name, page in pages(done.folder).items() if name.startswith("values/")]
    assert any("x" * 1_000_000 in text for text in values)


def test_pictures_are_those_that_live_pages_show_and_links_of_rows_lead_nowhere(registry: Registry) -> None:
    run = registry.catalog.begin_run("demo", {"params": {}})
    text = "[a link](http://127.0.0.1:1/x) ![a picture](http://127.0.0.1:1/y.png) [a file](../../../etc/passwd)"
    commit(registry, run, "rows", [{"picture": PICTURE, "vector": "data:image/svg+xml;base64,PHN2Zz4=", "text": text}])
    registry.catalog.end_run(run, "succeeded")
    done = bundle(registry, "demo/rows@1")
    check_closed(done.folder)
    row = pages(done.folder)[file_of(ADDRESSES.row("demo/rows", 1, 0), "")]
    assert [attributes["src"] for tag, attributes in row.tags if tag == "img"] == [PICTURE]
    laid_out = pages(done.folder)[file_of(ADDRESSES.version("demo/rows", 1, look="markdown"), "")]
    assert "a link" in laid_out.text


def test_a_bundle_reveals_nothing_about_this_machine(registry: Registry) -> None:
    run = registry.catalog.begin_run("demo", {"params": {}, "file": "demo.yaml"})
    commit(registry, run, "rows", [{"text": "a"}])
    (registry.catalog.runs.folder / f"{run}.log").write_text(f"reading {registry.root}\n")
    registry.catalog.end_run(run, "failed", f"object 12 is missing from {registry.root}/objects; see {Path.cwd()}/x.py:3")
    done = bundle(registry, run)
    written = text_of(done.folder)
    for place in (registry.root, Path.cwd(), Path.cwd().resolve()):
        assert str(place) not in written
    assert "object 12 is missing from …/objects; see …/x.py:3" in pages(done.folder)["index.html"].text
    assert "form_token" not in written
    assert "token=" not in written
    assert "Content-Security-Policy" in written


def test_a_run_that_has_not_ended_is_not_copied(registry: Registry) -> None:
    run = registry.catalog.begin_run("demo", {"params": {}})
    with pytest.raises(PipelineError, match="is still running"):
        bundle(registry, run)
    assert not Path("bundle").exists()


def test_only_a_bundle_is_replaced(registry: Registry, trained: str) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    with pytest.raises(PipelineError, match="it is not empty, and it is not a bundle"):
        bundle(registry, None, "mine")
    bundle(registry, "demo/seeds", "out")
    Path("out/letter.txt").write_text("dear")
    with pytest.raises(PipelineError, match=r"it has 'letter\.txt', which is not from a bundle"):
        bundle(registry, None, "out")
    assert Path("out/letter.txt").read_text() == Path("mine/letter.txt").read_text() == "dear"
    Path("out/letter.txt").unlink()
    Path("way").symlink_to("out")
    with pytest.raises(PipelineError, match="this is a link"):
        bundle(registry, None, "way")
    with pytest.raises(PipelineError, match="this is in the registry"):
        write_bundle(registry, None, registry.root / "objects" / "x", limit=LIMIT)
    Path("empty").mkdir()
    assert bundle(registry, "demo/seeds", "empty").rows == {"demo/seeds@1": (8, 8)}


def test_links_in_a_bundle_are_not_followed_when_it_is_replaced(registry: Registry, trained: str) -> None:
    bundle(registry, "demo/seeds", "out")
    Path("kept").mkdir()
    Path("kept/letter.txt").write_text("dear")
    Path("out/rows/away").symlink_to(Path("kept").resolve())
    done = bundle(registry, "demo/seeds", "out")
    check_closed(done.folder)
    assert Path("kept/letter.txt").read_text() == "dear"


def test_an_error_while_it_is_written_leaves_the_earlier_bundle(
    registry: Registry, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(bundle(registry, "demo/seeds", "out").folder)

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("engine.page.bundle.writing.finished", broken)
    with pytest.raises(OSError, match="the disk is full"):
        bundle(registry, "demo/judged", "out")
    assert files(Path("out")) == before
    assert [path.name for path in Path().iterdir() if path.name.startswith(".out")] == []


def test_names_of_files_are_safe_and_different() -> None:
    names = [
        "a",
        "A",
        "a/",
        "a/b",
        "a-b",
        "a b",
        "con",
        "aux",
        "..",
        ".",
        "x" * 300,
        "x" * 301,
        "ü",
        "u\u0308",
        "数据",
        "\u202e",
        "~a",
        "a%2Fb",
    ]
    made = [
        file_of(address, "")
        for name in names
        for address in (ADDRESSES.version(name, 1), ADDRESSES.version(name, 1, sort="A"), ADDRESSES.version(name, 1, sort="a"))
    ]
    assert len({each.lower() for each in made}) == len(made)
    for each in made:
        assert re.fullmatch(r"versions/[a-z0-9][a-z0-9-]*\.html", each)
        assert len(each) < 100


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["--registry", ".engine", "ui", *words])
    return done.exit_code, done.output + str(done.exception or "")


def test_the_command_prints_what_it_wrote(registry: Registry, trained: str) -> None:
    code, said = invoke("--bundle", "out", "demo/judged", "--rows", "3", "--max-size", "2.5MB")
    assert code == 0, said
    assert "out/index.html: " in said
    assert "with 3 of its 21 rows" in said
    assert "demo/judged@1  3 of 21 rows" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "3"], "--rows is for --bundle DIR"),
        (["demo/judged"], "RUN_ID or NAME is for --bundle DIR"),
        (["--bundle", "out", "--port", "80"], "--port is for the page"),
        (["--bundle", "out", "--max-size", "much"], "this is not a size"),
        (["--bundle", "out", "demo/judge"], "Did you mean 'demo/judged'?"),
        (["--bundle", "out", "demo/judged@9"], "has no version 9"),
    ],
)
def test_mistakes_are_explained(registry: Registry, trained: str, words: list[str], says: str) -> None:
    code, said = invoke(*words)
    assert code != 0
    assert says in said
    assert not Path("out").exists()


def test_an_empty_registry_has_nothing_to_copy(registry: Registry) -> None:
    run = registry.catalog.begin_run("demo", {"params": {}})
    registry.catalog.end_run(run, "failed", "no step")
    done = bundle(registry, run)
    assert done.rows == {}
    assert done.note == f"A copy of run {run} of demo."
    check_closed(done.folder)
