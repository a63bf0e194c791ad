"""Attacks on the cache of model folders: none of them changes a model."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.llm import model_cache, weights
from engine.llm.model_cache import SUMS, cached, folder_of
from engine.llm.weights import ModelWeights, identify, materialise
from registry import Manifest, Model, Registry, StoredFile
from registry.records.content import content_id
from tests.engine.export.test_export import commit

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "tokenizer/vocab.txt": b"a b c"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate cache, in a process that has checked nothing yet."""
    monkeypatch.setenv("ENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_cache, "_checked", set())
    return tmp_path / "cache" / "models"


def later_process() -> None:
    """Forget which folders were checked, as in another process."""
    model_cache._checked.clear()


def model(registry: Registry, files: dict[str, bytes], identity: str = "registry:claimed") -> ModelWeights:
    stored = {name: registry.store.put_bytes(data) for name, data in files.items()}
    listed = [StoredFile(name=name, sha256=each.sha256, bytes=each.bytes) for name, each in stored.items()]
    row = Model(base_model="base", format="full", files=listed)
    return ModelWeights(source="registry", location="demo/sft@1", identity=identity, model=row)


def version(registry: Registry, name: str, row: Model) -> Manifest:
    table = Model.to_table([row])
    return commit(registry, name, [[row]], content_id=content_id(table.schema, [table]))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def same_size_and_time(folder: Path) -> None:
    before = (folder / "model.safetensors").stat()
    flip(folder)
    os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))


def half_written(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def missing_file(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.txt").unlink()


def one_more_file(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 9}')


def a_link_to_other_weights(folder: Path) -> None:
    other = folder.parent.parent / "other.safetensors"
    other.write_bytes(b"other")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(other)


def a_link_to_the_same_bytes(folder: Path) -> None:
    other = folder.parent.parent / "same.safetensors"
    (folder / "model.safetensors").rename(other)
    (folder / "model.safetensors").symlink_to(other)


def a_linked_folder_inside(folder: Path) -> None:
    (folder / "tokenizer").rename(folder.parent.parent / "tokenizer")
    (folder / "tokenizer").symlink_to(folder.parent.parent / "tokenizer")


def the_folder_is_a_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def the_folder_is_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


ATTACKS = [
    flip,
    same_size_and_time,
    half_written,
    missing_file,
    one_more_file,
    a_link_to_other_weights,
    a_link_to_the_same_bytes,
    a_linked_folder_inside,
    the_folder_is_a_link,
    the_folder_is_a_file,
    a_pipe,
    a_folder_in_place_of_a_file,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_folder_that_was_tampered_with_is_built_again(attack: Callable[[Path], None], registry: Registry) -> None:
    made = model(registry, FILES)
    folder = materialise(made, registry.store)
    attack(folder)
    outside = contents(folder.parent.parent)
    later_process()
    assert materialise(made, registry.store) == folder
    assert contents(folder) == FILES
    assert not folder.is_symlink()
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    # What links led to is as it was.
    kept = {name: data for name, data in outside.items() if not name.startswith("models/")}
    assert kept.items() <= contents(folder.parent.parent).items()
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_folder_is_checked_once_per_process_and_built_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = model_cache.wrong
    monkeypatch.setattr(model_cache, "wrong", lambda *given: calls.append("checked") or real(*given))
    monkeypatch.setattr(weights, "_copy_files", _counted(calls, weights._copy_files))
    made = model(registry, FILES)
    for _ in range(3):
        materialise(made, registry.store)
    assert calls.count("built") == 1
    before = calls.count("checked")
    later_process()
    materialise(made, registry.store)
    materialise(made, registry.store)
    assert (calls.count("built"), calls.count("checked")) == (1, before + 1)


def _counted(calls: list[str], function: Callable[..., None]) -> Callable[..., None]:
    def build(*given: object) -> None:
        calls.append("built")
        function(*given)

    return build


def test_another_registry_that_claims_the_same_content_id_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    honest = model(registry, FILES)
    other = Registry(tmp_path / "other")
    forged = model(other, FILES | {"model.safetensors": b"poison"})
    assert honest.identity == forged.identity
    poisoned = materialise(forged, other.store)
    folder = materialise(honest, registry.store)
    assert folder != poisoned
    assert contents(folder) == FILES


def test_files_of_a_killed_process_are_removed_and_not_used(own_cache: Path, registry: Registry) -> None:
    made = model(registry, FILES)
    folder = folder_of({file.name: file.sha256 for file in made.model.files})  # type: ignore[union-attr]
    left = own_cache / f".{folder.name}.abc"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert contents(materialise(made, registry.store)) == FILES
    assert not left.exists()


def test_damage_in_cache_and_registry_names_the_file(registry: Registry) -> None:
    made = model(registry, FILES)
    folder = materialise(made, registry.store)
    flip(folder)
    stored = registry.store.path(hashlib.sha256(FILES["model.safetensors"]).hexdigest())
    stored.chmod(0o600)
    stored.write_bytes(b"x" * len(FILES["model.safetensors"]))
    later_process()
    with pytest.raises(EngineError, match=r"demo/sft@1 cannot be used: model\.safetensors: .*damaged"):
        materialise(made, registry.store)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "", ".", "a\\b", "a//b", "./a", "a/"])
def test_names_that_point_outside_the_folder_are_rejected(name: str, registry: Registry, tmp_path: Path) -> None:
    before = contents(tmp_path)
    made = model(registry, {name: b"evil"})
    with pytest.raises(EngineError, match="points outside its folder"):
        materialise(made, registry.store)
    assert [path for path in contents(tmp_path) if path.endswith("evil")] == [path for path in before if path.endswith("evil")]


def test_a_file_named_twice_is_refused(registry: Registry) -> None:
    made = model(registry, FILES)
    assert made.model is not None
    twice = made.model.model_copy(update={"files": [*made.model.files, made.model.files[0]]})
    with pytest.raises(EngineError, match="names a file twice"):
        materialise(made.model_copy(update={"model": twice}), registry.store)


def test_a_converted_folder_is_bound_to_what_was_converted(own_cache: Path) -> None:
    built: list[Path] = []

    def convert(building: Path) -> None:
        built.append(building)
        (building / "model.safetensors").write_bytes(FILES["model.safetensors"])

    folder = own_cache / "embedded-1"
    cached(folder, convert)
    later_process()
    cached(folder, convert)
    assert len(built) == 1
    for attack in (flip, half_written, one_more_file, a_link_to_the_same_bytes, the_folder_is_a_link):
        later_process()
        attack(folder)
        cached(folder, convert)
        assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    for text in ("{}", "[]", "no json", '{"model.safetensors": 3}'):
        later_process()
        (folder / SUMS).write_text(text)
        cached(folder, convert)
        assert (folder / SUMS).read_text() != text
    assert len(built) == 10


def test_a_cache_that_cannot_be_written_says_what_to_do(own_cache: Path, registry: Registry) -> None:
    made = model(registry, FILES)

    def no_room(building: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(EngineError, match=r"No space left.*Free space or repair .*models, or set ENGINE_CACHE"):
        cached(own_cache / "full", no_room)
    assert contents(materialise(made, registry.store)) == FILES


def test_a_users_folder_that_changed_since_the_check_is_refused(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    found = identify(str(tmp_path / "mine"), None)
    assert materialise(found, registry.store) == tmp_path / "mine"
    other = found.model_copy(update={"identity": "folder:0"})
    with pytest.raises(EngineError, match="not those that the run started with"):
        materialise(other, registry.store)


def test_adapters_on_adapters_are_rejected(registry: Registry) -> None:
    version(registry, "demo/self", Model(base_model="registry:demo/self@1", format="adapter"))
    with registry.session() as session, pytest.raises(EngineError, match="an adapter on the adapter demo/self@1"):
        identify("registry:demo/self@1", session)


def test_a_version_that_claims_the_content_id_of_another_is_refused(registry: Registry) -> None:
    honest = version(registry, "demo/honest", Model(base_model="base", format="full", files=[]))
    commit(registry, "demo/forged", [[Model(base_model="evil", format="full", files=[])]], content_id=honest.content_id)
    with registry.session() as session:
        assert identify("registry:demo/honest@1", session).identity == f"registry:{honest.content_id}"
        with pytest.raises(EngineError, match="demo/forged@1 does not match its content id"):
            identify("registry:demo/forged@1", session)
