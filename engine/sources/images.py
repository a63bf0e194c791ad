"""Images that the rows of a source name: their files are read with the rows, and each becomes an object of the registry.

The row gets a reference by content, `image:sha256:<digest>`. A changed file makes another row, a moved or renamed one the same
row. Only files in the folder of the rows, or in `image_folder`, are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.operator.images import (
    KIND_BYTES,
    MOST_BYTES,
    ImageError,
    check_size,
    data_of_url,
    image_kind,
    image_reference,
    is_url,
    referenced_image,
    shown,
)
from engine.sources.arrow_rows import one_by_one
from engine.sources.files.locations import SourceFile, find_files
from engine.sources.files.readers import read_file
from engine.sources.row import Row
from engine.spec.pipeline_spec import DatasetSpec
from registry import ObjectStore

Files = list[dict[str, str | None]]
"""For each file of rows, the image files that it names with their SHA-256; None for one that cannot be read."""


def folder_of_images(spec: DatasetSpec, base_dir: Path, file: SourceFile | None) -> Path | None:
    """The folder of the images that the rows of a file name; None if it has none on this machine."""
    if spec.image_folder is not None:
        named = Path(spec.image_folder).expanduser()
        return next((each for each in (named, base_dir / named) if each.is_dir()), named)
    return Path(file.path).parent if file and file.system is None else None


def files_of_images(spec: DatasetSpec, base_dir: Path) -> Files:
    """The image files that the rows of a source name now, as the source's key holds them."""
    left = spec.limit
    found: Files = []
    for file in find_files(spec.path or "", base_dir):
        folder = folder_of_images(spec, base_dir, file)
        named: dict[str, str | None] = {}
        for row in one_by_one(read_file(file, columns_of_images(spec))):
            if left is not None:
                if left <= 0:
                    break
                left -= 1
            for name in _names_in(row.fields or {}, spec):
                if name not in named:
                    named[name] = _digest(folder, name)
        found.append(named)
    return found


def columns_of_images(spec: DatasetSpec) -> frozenset[str]:
    """The columns of a source that become its fields with images."""
    renamed = {column for column, target in spec.rename.items() if target in spec.images}
    return frozenset(renamed.union(spec.images))


@dataclass
class ImageReader:
    """Reads images into the object store.

    Args:
        spec: the spec of the dataset.
        store: gets the images; None to check only that they exist.
        sizes: the sizes of the objects, by SHA-256.
    """

    spec: DatasetSpec
    store: ObjectStore | None
    sizes: dict[str, int] = field(default_factory=dict)

    def rows(self, rows: Iterable[Row], folder: Path | None) -> Iterator[Row]:
        """The rows with references in place of images; one whose image cannot be used has an error."""
        for row in rows:
            if row.fields is None:
                yield row
                continue
            fields = dict(row.fields)
            try:
                for column in _columns_in(fields, self.spec):
                    fields[column] = _each(fields[column], partial(self._taken, column, folder))
            except ImageError as why:
                yield replace(row, fields=None, error=str(why))
            else:
                yield replace(row, fields=fields)

    def _taken(self, column: str, folder: Path | None, image: Any) -> Any:
        if isinstance(image, Mapping):
            image = _of_struct(image)
        if isinstance(image, bytes):
            return self._put(image, f"in {column}")
        if not isinstance(image, str):
            return image  # not an image; its wrong type is reported with those of other fields
        image = image.strip()
        if not image or is_url(image):
            return image or None
        if image.startswith("data:"):
            return self._put(data_of_url(image), shown(image[:60]))
        if referenced_image(image):
            raise ImageError(
                f"{column}: {shown(image)} refers to an image of a registry; give the file, as `engine export` writes it"
            )
        return self._put(read_image(folder, image, KIND_BYTES if self.store is None else None), shown(image))

    def _put(self, content: bytes, name: str) -> str:
        check_size(len(content), name)
        image_kind(content, name)
        digest = sha256(content).hexdigest()
        if self.store is not None and digest not in self.sizes:
            self.sizes[digest] = self.store.put_bytes(content).bytes
        return image_reference(digest)


def as_reference(value: Any) -> Any:
    """What a field with images holds once they are read, for its type: a text or texts."""
    return _each(value, lambda image: "" if isinstance(image, str | bytes | Mapping) else image)


def read_image(folder: Path | None, name: str, most: int | None = None) -> bytes:
    """An image file.

    Args:
        folder: the folder that must contain the file.
        name: its path, absolute or in that folder.
        most: the number of bytes of it that are needed; None: all.

    Raises:
        ImageError: it is not in the folder, cannot be read, or has too many bytes.
    """
    if "://" in name:
        raise ImageError(f"image {shown(name)}: give a file, an http(s) URL or a data URL")
    if folder is None:
        raise ImageError(f"image {shown(name)}: these rows are not in a folder on this machine; name one with `image_folder`")
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ImageError(
                f"image {shown(name)} is outside {folder.resolve()}; move it there, or name a folder that has all images "
                "with `image_folder`"
            )
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"image {shown(name)} is not a file")
        check_size(about.st_size, shown(name))
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1 if most is None else most)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        if isinstance(error, ImageError):
            raise
        missing = isinstance(error, FileNotFoundError)
        where = f" (in {folder.resolve()})" if missing and not os.path.isabs(name) else ""
        why = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise ImageError(f"image {shown(name)}: {why}{where}") from error
    check_size(len(content), shown(name))
    return content


def _digest(folder: Path | None, name: str) -> str | None:
    try:
        return sha256(read_image(folder, name)).hexdigest()
    except ImageError:
        return None  # whose row is reported when it is read


def _names_in(fields: Mapping[str, Any], spec: DatasetSpec) -> Iterator[str]:
    """The files that a row names."""
    for column in _columns_in(fields, spec):
        value = fields[column]
        for image in value if isinstance(value, list | tuple) else (value,):
            name = _of_struct(image) if isinstance(image, Mapping) else image
            if isinstance(name, str) and (name := name.strip()) and not is_url(name) and not name.startswith("data:"):
                yield name


def _columns_in(fields: Mapping[str, Any], spec: DatasetSpec) -> list[str]:
    return [column for column in fields if spec.rename.get(column, column) in spec.images]


def _of_struct(image: Mapping[str, Any]) -> Any:
    """The bytes or the path of an image in the form of Hugging Face datasets, `{bytes, path}`; anything else as it is."""
    return (image["bytes"] or image["path"]) if image.keys() == {"bytes", "path"} else image


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(each) for each in value] if isinstance(value, list | tuple) else change(value)
