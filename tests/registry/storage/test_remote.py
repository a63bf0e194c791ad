"""Objects and manifests at a URL: the same guarantees as in a folder, and the local copies can be lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from registry import CorruptError, ObjectStore, Registry
from registry.errors import UnreachableError
from registry.storage.files import Files, LocalFiles
from registry.storage.remote_files import files_at
from tests.conftest import Cli
from tests.engine.run_pipelines import run_text, texts, words
from tests.registry.catalog.test_catalog import commit, draft
from tests.s3_server import s3_files


@pytest.fixture
def url(s3: str, workdir: Path) -> str:
    """A new URL in the bucket."""
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> ObjectStore:
    """An object store in the bucket."""
    return ObjectStore(files_at(url, "objects"), cache=tmp_path / "copies")


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty folder of each kind."""
    if request.param == "folder":
        return LocalFiles(tmp_path / "x")
    if request.param == "s3":
        return files_at(request.getfixturevalue("url"), "x")
    return files_at({"file": f"file://{tmp_path}/a b", "memory": f"memory://{uuid.uuid4().hex}"}[request.param], "x")


def test_files_are_read_listed_replaced_and_removed(files: Files, tmp_path: Path) -> None:
    assert not files.exists()
    assert list(files.listing()) == []
    files.write("ab/one", b"1")
    (tmp_path / "source").write_bytes(b"2" * 100_000)
    files.write_file("two.json", tmp_path / "source")
    files.write("empty", b"")
    files.write("ab/one", b"one")
    assert files.exists()
    assert files.read("ab/one") == b"one"
    assert files.read_many(["ab/one", "empty"]) == {"ab/one": b"one", "empty": b""}
    assert files.read_many([]) == {}
    files.read_file("two.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"2" * 100_000
    assert {(name, size) for name, size, _ in files.listing()} == {("ab/one", 3), ("two.json", 100_000), ("empty", 0)}
    files.remove("two.json")
    files.remove("two.json")
    assert files.size("two.json") is None
    assert files.size("ab/one") == 3


def test_a_missing_file_is_not_found(files: Files, tmp_path: Path) -> None:
    files.write("there", b"1")
    for read in (files.read, lambda name: files.read_many(["there", name]), lambda name: files.read_file(name, tmp_path / "x")):
        with pytest.raises(FileNotFoundError):
            read("absent")


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "", ".", "a//b", "./a", "a/", "a\0b"])
def test_no_name_points_out_of_the_folder(files: Files, name: str) -> None:
    for use in (files.read, files.size, files.remove, files.touch, lambda name: files.write(name, b"")):
        with pytest.raises(ValueError, match="not a file name"):
            use(name)


def test_writing_a_file_again_resets_its_age(files: Files) -> None:
    files.write("x", b"1")
    [before] = files.listing()
    if not files.touch("x"):
        files.write("x", b"1")
    [after] = files.listing()
    assert after.modified >= before.modified > 1_600_000_000
    assert files.touch("absent") is False


def test_versions_are_found_without_the_local_folder(url: str) -> None:
    registry = Registry(url)
    made = [commit(registry, draft(registry, "p/words", list(text), text))[0] for text in ("ab", "cd")]
    assert registry.root.parent == Path(".engine-remote").absolute()
    found = _in_a_fresh_process(url, Path("elsewhere"))
    ids = [manifest.version_id for manifest in made]
    assert found == {"versions": [["p/words", 1], ["p/words", 2]], "rows": ["a", "b"], "ids": ids}


def test_a_damaged_object_returns_no_rows_until_it_is_stored_again(url: str, store: ObjectStore, tmp_path: Path) -> None:
    table = pa.table({"n": range(100)})
    sha256 = store.put_table(table).sha256
    good = store.read_bytes(sha256)
    s3_files().pipe_file(_place(url, sha256), good[:20] + bytes([good[20] ^ 1]) + good[21:])
    elsewhere = ObjectStore(files_at(url, "objects"), cache=tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match=f"{sha256} in {url}/objects is damaged"):
        elsewhere.read_table(sha256)
    assert [path for path in elsewhere.root.rglob("*") if path.is_file()] == []
    store.put_bytes(good)
    assert elsewhere.read_table(sha256).equals(table)


def test_a_damaged_local_copy_is_fetched_again(store: ObjectStore) -> None:
    sha256 = store.put_bytes(b"precious").sha256
    store.path(sha256).write_bytes(b"precioux")
    assert store.read_bytes(sha256) == b"precious"
    assert store.path(sha256).read_bytes() == b"precious"


def test_a_good_copy_does_not_hide_a_damaged_or_missing_object(url: str, store: ObjectStore) -> None:
    sha256 = store.put_bytes(b"precious").sha256
    store.verify(sha256)
    s3_files().pipe_file(_place(url, sha256), b"precioux")
    with pytest.raises(CorruptError, match="is damaged"):
        store.verify(sha256)
    s3_files().rm_file(_place(url, sha256))
    with pytest.raises(CorruptError, match="is missing"):
        store.verify(sha256)
    assert not store.has(sha256, 8)


def test_removing_an_object_removes_its_copy(store: ObjectStore) -> None:
    sha256 = store.put_bytes(b"precious").sha256
    [listed] = store.listing()
    assert (listed.sha256, listed.bytes) == (sha256, 8)
    store.remove(listed.name)
    with pytest.raises(CorruptError, match="is missing"):
        store.read_bytes(sha256)


def test_a_location_means_the_same_registry_in_any_working_directory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(url + "/")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monkeypatch.setenv("ENGINE_REGISTRY_LOCAL", "another")
    assert (Registry(registry.location).url, Registry(registry.location).root) == (url, registry.root)
    assert Registry(url).root == Path("another", registry.root.name).absolute()


@pytest.mark.usefixtures("ray_session")
def test_a_pipeline_runs_on_a_registry_at_a_url(url: str, engine: Cli) -> None:
    words("a", "b", "c")
    result = run_text(
        """
        name: demo
        datasets: {words: {type: Word, path: words.jsonl}}
        steps: {loud: {op: shout, in: words}}
        """,
        Registry(url),
    )
    assert result.state == "succeeded"
    assert texts(Registry(url), "demo/loud") == ["A!", "B!", "C!"]
    assert s3_files().exists(f"{url}/manifests")
    elsewhere = {"ENGINE_REGISTRY_LOCAL": "elsewhere"}
    answer = engine("--registry", url, "sql", 'select text from "demo/loud@1"', "--format", "csv", env=elsewhere)
    assert answer.stdout.splitlines() == ["text", "A!", "B!", "C!"], answer.stderr


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("gs://bucket/x", "needs a package that is not installed.*pip install gcsfs"),
        ("nonsense://bucket/x", "Protocol not known: nonsense.*Use a folder, or a URL"),
        ("s3://", "names no bucket or folder"),
        ("s3:///", "names no bucket or folder"),
        ("s3://key:hidden@bucket/x", "contains a password"),
    ],
)
def test_an_impossible_location_is_explained(workdir: Path, place: str, says: str) -> None:
    registry = Registry(place)
    for use in (lambda: registry.exists, lambda: registry.store, lambda: registry.catalog):
        with pytest.raises(UnreachableError, match=says) as caught:
            use()
        assert "hidden" not in str(caught.value)
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("bucket", "env", "says"),
    [
        ("absent-bucket", {}, "The specified bucket does not exist. What to do: create the bucket"),
        ("bucket", {"AWS_CONFIG_FILE": "none"}, "Unable to locate credentials. What to do: set credentials that have access"),
    ],
)
def test_a_server_that_refuses_is_explained(s3: str, engine: Cli, bucket: str, env: dict[str, str], says: str) -> None:
    words("a")
    Path("p.yaml").write_text("{name: demo, datasets: {w: {type: Word, path: words.jsonl}}, steps: {s: {op: shout, in: w}}}")
    answer = engine("--registry", f"s3://{bucket}/x", "run", "p.yaml", env=env)
    assert answer.returncode == 1
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "bug" not in answer.stderr


def _place(url: str, sha256: str) -> str:
    return f"{url}/objects/{sha256[:2]}/{sha256}"


def _in_a_fresh_process(url: str, folder: Path) -> object:
    code = (
        "import json, sys; from registry import Registry; r = Registry(sys.argv[1])\n"
        "with r.session() as s:\n"
        "    versions = s.ask('select name, version from versions order by all').rows\n"
        "    rows = [word for (word,) in s.ask('select word from \"p/words@1\" order by row').rows]\n"
        "ids = [r.manifest('p/words', v).version_id for v in (1, 2)]\n"
        "print(json.dumps({'versions': versions, 'rows': rows, 'ids': ids}))"
    )
    env = {**os.environ, "ENGINE_REGISTRY_LOCAL": str(folder)}
    done = subprocess.run([sys.executable, "-c", code, url], env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)
