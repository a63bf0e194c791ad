"""A registry: the object store, the catalog, receipts and the journal of model calls, in one folder or partly at a URL."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from registry.catalog.manifest import Manifest
from registry.errors import CorruptError, InvalidRequestError
from registry.query.views import view_in_place
from registry.records.record import Record
from registry.records.schema import ensure_readable
from registry.storage import plain_files
from registry.storage.files import Files, LocalFiles
from registry.storage.objects import ObjectStore
from registry.storage.valid_text import escaped, is_valid

if TYPE_CHECKING:
    from registry.catalog.catalog import Catalog
    from registry.query.look_ups import LookUps
    from registry.query.session import Session
    from registry.reviews.store import ReviewStore

R = TypeVar("R", bound=Record)

_NEWEST = 3
"""Versions of a name that are looked up together: enough for a step that is rerun with the same few settings."""

_END = re.compile(r"(?<=[^:/])/+$")


class Registry:
    """The parts of a registry, by name.

    Objects, manifests and reviews may be at an fsspec URL. Everything else (catalog, lock, run journals, receipts, the journal
    of model calls, copies of objects) is then on this machine, in `.engine-remote/<words of the URL>-<8 hex digits>` in the
    working directory, or in a folder of that name in ENGINE_REGISTRY_LOCAL. If that folder is lost, all versions are found
    again; the runs, the latest versions and the answers in the journal are lost. Only one such folder at a time may write to
    a URL.

    Args:
        root: the folder, or a URL (`s3://bucket/prefix`), or the `location` of another Registry. The folder is created
            when something is first written.

    Attributes:
        root: the folder on this machine.
        url: the URL of objects and manifests; None when they are in the folder.
    """

    def __init__(self, root: Path | str) -> None:
        url, _, folder = str(root).partition("#") if "://" in str(root) else ("", "", str(root))
        self.url = _END.sub("", url) or None
        self.root = Path(folder or _folder_for(self.url or "")).absolute()

    @property
    def location(self) -> str:
        """The argument that opens the same registry in another process, whatever its working directory."""
        return f"{self.url}#{self.root}" if self.url else str(self.root)

    @property
    def where(self) -> str:
        """The registry, for messages."""
        return self.url or str(self.root)

    @cached_property
    def store(self) -> ObjectStore:
        """Immutable files by content."""
        return ObjectStore(self._files("objects"), cache=self.root / "objects")

    @cached_property
    def manifests(self) -> Files:
        """The manifests of versions, `<version_id>.json`."""
        return self._files("manifests")

    @cached_property
    def catalog(self) -> Catalog:
        """Versions, runs and lineage. Raises InvalidRequestError if the path is one that DuckDB does not take."""
        if not is_valid(str(self.root)):
            raise InvalidRequestError(
                f"a registry cannot be in {escaped(str(self.root))}: the path is not UTF-8. Use another folder"
            )
        from registry.catalog.catalog import Catalog  # it imports DuckDB; workers and most of `engine check` do without

        return Catalog(self.root, self.store, self.manifests)

    @cached_property
    def reviews(self) -> ReviewStore:
        """The decisions of people about rows, and the queues of rows that await them."""
        from registry.reviews.store import ReviewStore  # workers do without it

        return ReviewStore(self._files("reviews"))

    @property
    def receipts(self) -> Path:
        """The folder with the receipts of finished partitions."""
        return plain_files.folder(self.root / "receipts")

    @property
    def journal(self) -> Path:
        """The folder with the journal of model answers."""
        return plain_files.only_plain(self.root / "journal")

    @property
    def exists(self) -> bool:
        """Whether anything was ever written here."""
        return plain_files.kind(self.root / "registry.duckdb") is not None or self.manifests.exists()

    @contextmanager
    def session(self, memory: str | None = None) -> Iterator[Session]:
        """A consistent view for SQL and lookups, closed at the end of the block; `memory` as for Session."""
        from registry.query.session import Session  # look-ups do without it

        session = Session(self.catalog, self.store, self.reviews, memory)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def look_ups(self) -> Iterator[LookUps]:
        """Look-ups, and a session for what takes more."""
        from registry.query.look_ups import LookUps

        with ExitStack() as opened:
            session = cache(lambda: opened.enter_context(self.session()))
            yield LookUps(self._look_up, session)

    def listing(self, view: str) -> list[dict[str, Any]]:
        """All rows of one of the views `datasets`, `versions` and `runs`, as dicts by column; none if nothing was ever written.

        Unlike a session, it copies nothing and opens no further database, so it takes a tenth of the time.
        """
        if not self.exists:
            return []
        return [row for (row,) in self.catalog.look_up(f"select listed from ({view_in_place(view)}) as listed")]

    def records(self, target: str, record: type[R]) -> Iterator[R]:
        """Rows of a version (`NAME@V`, or `NAME` for the latest) as `record`, read object by object.

        Raises:
            QueryError: there is no such version.
            IncompatibleError: its rows cannot be read as `record`; the message lists the fields and the reasons.
        """
        with self.session() as session:
            manifest = session.manifest(*session.resolve(target))
        ensure_readable(record, manifest.fields, f"{manifest.ref} ({manifest.type})")
        return (row for data in manifest.data for row in record.from_table(self.store.read_table(data.sha256)))

    def find_step(self, step_key: str) -> list[Manifest]:
        """The committed versions of a step key. They are not removed while any run that is live now lasts.

        A version with a damaged manifest is left out: it is made again.
        """
        return self.kept(self._ids("step_key = ?", [step_key]))

    def newest_by_step_key(self, names: Collection[str]) -> dict[str, list[str]]:
        """The ids of the newest versions of names, by step key: one look-up instead of one for each step.

        Other processes commit and remove versions, so `kept` has to say which ones still exist.
        """
        if not self.exists:
            return {}
        query = (
            "select step_key, version_id from versions where name in (select unnest(?)) "
            f"qualify row_number() over (partition by name order by version desc) <= {_NEWEST} order by name, version"
        )
        found: dict[str, list[str]] = {}
        for step_key, version_id in self.catalog.look_up(query, [list(names)]):
            found.setdefault(step_key, []).append(version_id)
        return found

    def kept(self, version_ids: Sequence[str]) -> list[Manifest]:
        """The versions that exist of those with these ids. They are not removed while any run that is live now lasts.

        A version with a damaged manifest is left out.
        """
        found = []
        for version_id in version_ids:
            with suppress(CorruptError, FileNotFoundError):
                found.append(self.catalog.touch(version_id))
        return found

    def manifest(self, name: str, version: int) -> Manifest:
        """A committed version; raises KeyError when there is none."""
        found = self._ids("name = ? and version = ?", [name, version])
        if not found:
            raise KeyError(f"{name}@{version}")
        return self.catalog.files.manifest_of(name, version, found)

    def newest(self, name: str) -> Manifest | None:
        """The newest version of a name; None when there is none."""
        found = self._ids("name = ?", [name])
        return self.catalog.manifest(found[-1]) if found else None

    def params_of_latest(self, pipeline: str) -> dict[str, Any] | None:
        """The parameters of the last run that moved `latest` of a pipeline's outputs; None when no run did."""
        if not self.exists:
            return None
        query = (
            "select runs.params from refs join runs using (run_id) "
            "where runs.pipeline = ? order by refs.updated_at desc limit 1"
        )
        found = self.catalog.look_up(query, [pipeline])
        return json.loads(found[0][0]) if found else None

    def intact(self, manifest: Manifest) -> bool:
        """Whether all objects of a version exist with the size they were written with."""
        return self.catalog.intact(manifest)

    def _look_up(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self.catalog.look_up(query, values)  # the first one loads DuckDB

    def _ids(self, condition: str, values: list[Any]) -> list[str]:
        if not self.exists:
            return []
        query = f"select version_id from versions where {condition} order by name, version"
        return [version_id for (version_id,) in self.catalog.look_up(query, values)]

    def _files(self, folder: str) -> Files:
        if self.url is None:
            return LocalFiles(self.root / folder)
        from registry.storage.remote_files import files_at

        return files_at(self.url, folder)


def _folder_for(url: str) -> Path:
    words = re.sub(r"[^A-Za-z0-9]+", "-", url.partition("://")[2]).strip("-")[:40]
    name = f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return Path(os.environ.get("ENGINE_REGISTRY_LOCAL") or ".engine-remote", name)
