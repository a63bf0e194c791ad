"""The files of record, from which the tables are made: manifests, run journals, pins, used version numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from registry.catalog.manifest import Manifest, Pin, UsedNumber, unfit
from registry.catalog.markers import Marks
from registry.catalog.rows import TableRows, mark_rows, table_rows
from registry.catalog.run_journal import RunLog
from registry.errors import CorruptError, MismatchError
from registry.storage import fault_points, ids
from registry.storage.checked_json import checked_json, parse_checked_json
from registry.storage.files import Files


class FilesOfRecord:
    """The files, and the rows of the tables that follow from them.

    Args:
        root: the registry's folder on this machine, with the run journals and marks.
        manifests: `<version_id>.json` each.
    """

    def __init__(self, root: Path, manifests: Files) -> None:
        self.runs = RunLog(root / "runs")
        self.pins = Marks(root / "pins", Pin, ("name", "version"))
        self.numbers = Marks(root / "numbers", UsedNumber, ("name",))
        self._manifests = manifests

    def manifest(self, version_id: str) -> Manifest:
        """A version's manifest; raises CorruptError when it is damaged, FileNotFoundError when there is none."""
        return self._parsed(version_id, self._manifests.read(_file(version_id)))

    def manifest_of(self, name: str, version: int, version_ids: Sequence[str]) -> Manifest:
        """The manifest of the version that the catalog has under a name and a number.

        Raises:
            MismatchError: the catalog has several such versions, or the manifest belongs to another version.
            CorruptError: the manifest is damaged.
        """
        if len(version_ids) != 1:
            raise MismatchError(f"the catalog has {len(version_ids)} versions {name}@{version}")
        manifest = self.manifest(version_ids[0])
        if (manifest.name, manifest.version) != (name, version):
            raise MismatchError(f"the catalog confuses {name}@{version} with {manifest.ref}")
        return manifest

    def find(self, version_id: str) -> Manifest | None:
        """A version's manifest; None when there is none. Raises CorruptError when it is damaged."""
        try:
            return self.manifest(version_id)
        except FileNotFoundError:
            return None

    def write(self, manifest: Manifest) -> None:
        """Write a version's manifest durably, replacing an old one."""
        self._manifests.write(_file(manifest.version_id), checked_json(manifest.model_dump(mode="json")))
        fault_points.point("manifest.written")

    def touch(self, version_id: str) -> None:
        """Give a version's manifest the current time; raises FileNotFoundError when there is none."""
        name = _file(version_id)
        if not self._manifests.touch(name):
            self._manifests.write(name, self._manifests.read(name))

    def remove(self, version_id: str) -> None:
        """Remove a version's manifest, if it exists."""
        self._manifests.remove(_file(version_id))
        fault_points.point("manifest.removed")

    def rows(self, without: Collection[str] = ()) -> TableRows:
        """All rows of all tables; raises CorruptError, which names the file, when one is damaged.

        Args:
            without: the ids of versions that are left out.
        """
        hidden = set(map(_file, without))
        names = [entry.name for entry in self._manifests.listing() if entry.name.endswith(".json") and entry.name not in hidden]
        manifests = [self._parsed(Path(name).stem, data) for name, data in self._manifests.read_many(names).items()]
        manifests.sort(key=lambda m: (m.created_at, m.name, m.version))
        return table_rows(manifests, map(self.runs.read, self.runs.run_ids()), self.marks())

    def marks(self) -> TableRows:
        """The rows of pins and numbers."""
        return mark_rows(self.pins.read(), self.numbers.read())

    def _parsed(self, version_id: str, data: bytes) -> Manifest:
        where = f"{self._manifests.where}/{_file(version_id)}"
        try:
            manifest = Manifest.model_validate(parse_checked_json(data, where))
        except ValidationError as error:
            raise CorruptError(f"{where} {unfit(error)}") from error
        if manifest.version_id != version_id:
            raise CorruptError(f"{where} is damaged: it is the manifest of version {manifest.version_id}")
        return manifest


def _file(version_id: str) -> str:
    return f"{ids.version_id(version_id)}.json"
