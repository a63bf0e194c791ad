"""Exports a version: its rows as files for other tools, or a model's folder, with a card.

Everything is verified against its SHA-256 while it is read. A new folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from engine.errors import EngineError, PipelineError, Problem
from engine.export import card, formatted, images, labelling_tasks, writers
from engine.export.model_folder import complete, refuse_merging
from engine.reviewing.files import LABEL_STUDIO
from registry import Artifact, CorruptError, Manifest, Model, Registry, Report
from registry.storage import plain_files

FORMATS = ("hf", "jsonl", "parquet", LABEL_STUDIO)
"""What every version can be exported as; the rows of some types have other formats, too."""

_OF_FILES = (Model.registry_kind, Report.registry_kind)
"""Kinds whose versions are folders of files."""

STATE = "state.json"

MARK = ".export.json"
"""Lists the files that an export wrote. The dot keeps Hugging Face from reading it as data."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `files` are names below `folder` with their sizes in bytes."""

    manifest: Manifest
    format: str
    folder: Path
    files: dict[str, int]


def export(
    registry: Registry, target: str, format: str, folder: Path, *, overwrite: bool = False, merge: bool = False
) -> Exported:
    """Write a version into a folder.

    Args:
        registry: the registry with the version.
        target: `NAME@V`, or `NAME` for the latest version.
        format: `jsonl`, `parquet`, or `hf`: a dataset for both `datasets.load_from_disk` and `load_dataset`, or the files of a
            model or a report; `label-studio`: tasks for people to label; or a format of the rows' type, such as `openai`.
        folder: an empty or new folder.
        overwrite: replace what an earlier export wrote; other files stay.
        merge: merge an adapter into full weights.

    Raises:
        QueryError: there is no such version.
        PipelineError: the folder cannot be used, or the rows cannot be written in this format.
        CorruptError: stored data is damaged; nothing was written.
    """
    with registry.session() as session:
        manifest = session.manifest(*session.resolve(target))
    if merge and not (format == "hf" and manifest.kind == Model.registry_kind):
        raise refuse_merging(f"{manifest.ref} is a {manifest.kind}" if format == "hf" else "it needs --to hf")
    row_format = None if format in FORMATS else formatted.format_to_write(manifest, format, FORMATS)
    before = _earlier_files(folder, overwrite)
    with _staged(folder) as staging:
        loading = None
        if format == "hf" and manifest.kind in _OF_FILES:
            _write_files(registry, manifest, staging)
            data = None
            if manifest.kind == Model.registry_kind:
                model = next(registry.records(str(manifest.ref), Model))
                if merge and model.format != "adapter":
                    raise refuse_merging(f"{manifest.ref} has full weights")
                loading = complete(registry, manifest, model, staging, merge=merge)
        elif format == LABEL_STUDIO:
            data = labelling_tasks.write(registry, manifest, staging)
        elif row_format:
            data = formatted.write(registry, manifest, row_format, staging)
        else:
            data = _write_rows(registry, manifest, format, staging)
        if format == "hf" and manifest.kind == Report.registry_kind:
            report = next(registry.records(str(manifest.ref), Report))
            text = f"# {report.title}\n\n{report.text}\n"
        else:
            text = card.card(registry, manifest, data, loading)
        (staging / "README.md").write_text(text, encoding="utf-8")
        files = {path.relative_to(staging).as_posix(): path.stat().st_size for path in _files(staging)}
        mark = {"version": str(manifest.ref), "content_id": manifest.content_id, "format": format, "files": sorted(files)}
        (staging / MARK).write_text(json.dumps(mark, indent=1) + "\n")
        _publish(staging, folder, before)
    return Exported(manifest, format, folder, dict(sorted(files.items())))


# -- what is written --------------------------------------------------------------------------------------------------


def _write_rows(registry: Registry, manifest: Manifest, format: str, folder: Path) -> card.Data:
    with pq.ParquetFile(registry.store.open(manifest.data[0].sha256)) as first:
        schema = first.schema_arrow
    tables = images.with_files((registry.store.read_table(data.sha256) for data in manifest.data), registry.store, folder)
    if format == "jsonl":
        file = folder / f"{manifest.name.replace('/', '-')}.jsonl"
        writers.write_jsonl(file, tables)
        return card.Data(schema, file.name, file.stat().st_size, "jsonl")
    if format == "parquet":
        files = writers.write_parquet(folder / "data", schema, tables)
        pattern = f"data/{writers.SPLIT}-*.parquet"
    else:
        files = writers.write_arrow(folder / writers.SPLIT, schema, tables)
        _write_state(folder, manifest, files)
        if not manifest.rows:
            # `load_dataset` cannot open a dataset without rows. With this file it says: "use load_from_disk instead".
            shutil.copyfile(folder / writers.SPLIT / STATE, folder / STATE)
        pattern = f"{writers.SPLIT}/*.arrow"
    return card.Data(schema, pattern, sum(file.stat().st_size for file in files), format)


def _write_state(folder: Path, manifest: Manifest, files: list[Path]) -> None:
    """Write what `load_from_disk` needs in addition to the Arrow files.

    It is in the split's folder, because `load_dataset` refuses a folder with a `state.json` at its top.
    """
    state: dict[str, Any] = {
        "_data_files": [{"filename": file.name} for file in files],
        "_fingerprint": manifest.content_id[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": writers.SPLIT,
    }
    info = {"description": f"{manifest.ref}, content {manifest.content_id}", "features": None}
    for name, document in ((STATE, state), ("dataset_info.json", info)):
        (folder / writers.SPLIT / name).write_text(json.dumps(document, indent=1) + "\n")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [writers.SPLIT]}) + "\n")


def _write_files(registry: Registry, manifest: Manifest, folder: Path) -> None:
    artifacts = [row for data in manifest.data for row in Artifact.from_table(registry.store.read_table(data.sha256))]
    if len(artifacts) != 1:
        message = (
            f"{manifest.ref} has {len(artifacts)} {manifest.kind}s, so it cannot be one folder; export its rows with --to jsonl"
        )
        raise EngineError(message)
    for file in artifacts[0].files:
        try:
            target = _inside(folder, file.name)
        except ValueError as error:
            raise EngineError(f"{manifest.ref} cannot be exported: {error}") from error
        target.parent.mkdir(parents=True, exist_ok=True)
        with registry.store.open(file.sha256) as stored, target.open("wb") as out:
            shutil.copyfileobj(stored, out, 1 << 20)


# -- where ------------------------------------------------------------------------------------------------------------


def _earlier_files(folder: Path, overwrite: bool) -> list[str]:
    """The files of an earlier export in the folder; raises PipelineError if the folder must not be written to."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise PipelineError([Problem(f"{folder} is a file", hint="choose a folder")])
    if not any(folder.iterdir()):
        return []
    try:
        mark = json.loads(plain_files.read(folder / MARK))
        written, files = mark["version"], list(mark["files"])
        for name in files:
            _no_links(folder, name)
            _inside(folder, name)
    except (
        FileNotFoundError,
        CorruptError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # missing, or changed by someone
        hint = "choose an empty or new folder"
        raise PipelineError([Problem(f"{folder} is not empty, and its contents are not from an export", hint=hint)]) from None
    if not overwrite:
        raise PipelineError([Problem(f"{folder} contains an export of {written}", hint="use --overwrite to replace it")])
    return files


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write in, on the same file system."""
    parent = folder if folder.exists() else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = parent / f".export-{uuid.uuid4().hex[:8]}.tmp"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, folder: Path, before: list[str]) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    files = [path.relative_to(staging).as_posix() for path in _files(staging)]
    for name in sorted({*files, *before}):
        _no_links(folder, name)
    for name in set(files) - {*before, MARK}:
        if plain_files.kind(folder / name):
            raise PipelineError([Problem(f"{folder / name} is in the way and is not from an export", hint="move it away")])
    for name in set(before) - set(files):
        (folder / name).unlink(missing_ok=True)
        for parent in (folder / name).parents[: name.count("/")]:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    # The mark comes first: if this is interrupted, it names all files as from an export.
    for name in sorted(files, key=lambda name: name != MARK):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)


def _no_links(folder: Path, name: str) -> None:
    """Raise PipelineError if a file, or a folder on the way to it, is a link: its target is not from an export."""
    parts = Path(name).parts
    for stop in range(1, len(parts) + 1):
        path = folder.joinpath(*parts[:stop])
        if (found := plain_files.kind(path)) not in (None, "a folder", "a file"):
            raise PipelineError([Problem(f"{path} is {found}, which is not from an export", hint="move it away")])


def _inside(folder: Path, name: str) -> Path:
    """A file below a folder; raises ValueError if its name leads outside."""
    target = (folder / name).resolve()
    if target == folder.resolve() or not target.is_relative_to(folder.resolve()):
        raise ValueError(f"the file name {name!r} leads outside its folder")
    return target


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
