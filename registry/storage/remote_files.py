"""Files at an fsspec URL, such as `s3://bucket/prefix`. Credentials come from the environment and are never stored."""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.errors import UnreachableError
from registry.storage.files import FileEntry, Files, LocalFiles, plain_name

_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""The names that file systems use for the time when a file was written."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_KEYS = {
    "s3": "s3:// reads AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and AWS_ENDPOINT_URL for servers "
    "other than Amazon's"
}


def files_at(url: str, folder: str) -> Files:
    """The folder `folder` below a URL; raises UnreachableError for a URL that cannot contain files."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    parts = urlsplit(url)
    if parts.password is not None:
        raise UnreachableError(
            f"the URL of the registry at {parts.hostname} contains a password, and URLs are stored and shown: "
            "remove it, and pass it through the environment"
        )
    try:
        # Listings are not cached, so that files of other machines are seen.
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _PACKAGES.get(parts.scheme)
        hint = f"install it: pip install {package}" if package else "install it"
        raise UnreachableError(f"the registry {url} needs a package that is not installed ({error}); {hint}") from error
    except ValueError as error:
        raise UnreachableError(
            f"the registry {url} is not valid: {error}. Use a folder, or a URL like s3://bucket/x"
        ) from error
    if not root.strip("/") and parts.scheme != "memory":
        raise UnreachableError(f"the registry {url} names no bucket or folder; use a URL like s3://bucket/x")
    place = f"{root.rstrip('/')}/{folder}"
    if isinstance(system, LocalFileSystem):
        return LocalFiles(Path(place))
    return RemoteFiles(system, place, f"{url.rstrip('/')}/{folder}")


class RemoteFiles(Files):
    """Files in an object store. Each is written with one request, so it is either complete or missing.

    Args:
        system: the fsspec file system.
        root: the folder in it.
        url: the folder, for messages.
    """

    def __init__(self, system: Any, root: str, url: str) -> None:
        self._system = system
        self._root = root
        self._url = url

    @property
    def where(self) -> str:
        return self._url

    def exists(self) -> bool:
        with self._explained("read"):
            return bool(self._system.exists(self._root))

    def read(self, name: str) -> bytes:
        place = self._place(name)
        with self._explained("read"):
            return bytes(self._system.cat_file(place))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        places = {self._place(name): name for name in names}
        with self._explained("read"):
            found = self._system.cat(list(places)) if places else {}
        return {places[place]: bytes(data) for place, data in found.items()}

    def read_file(self, name: str, target: Path) -> None:
        place = self._place(name)
        with self._explained("read"):
            self._system.get_file(place, str(target))

    def write(self, name: str, data: bytes) -> None:
        place = self._place(name)
        with self._explained("write"):
            self._system.pipe_file(place, data)

    def write_file(self, name: str, source: Path) -> None:
        place = self._place(name)
        with self._explained("write"):
            self._system.put_file(str(source), place)

    def size(self, name: str) -> int | None:
        place = self._place(name)
        try:
            with self._explained("read"):
                return int(self._system.info(place)["size"])
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> bool:
        plain_name(name)
        return False  # object stores have no `touch`; the file has to be written again

    def listing(self, strict: bool = True) -> Iterator[FileEntry]:
        try:
            with self._explained("read"):
                found = self._system.find(self._root, detail=True)
        except FileNotFoundError:
            return
        for place, about in found.items():
            yield FileEntry(place.removeprefix(self._root).lstrip("/"), int(about["size"]), _modified(about))

    def remove(self, name: str) -> None:
        place = self._place(name)
        with suppress(FileNotFoundError), self._explained("remove"):
            self._system.rm_file(place)

    def _place(self, name: str) -> str:
        return f"{self._root}/{plain_name(name)}"

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn errors of file systems into ours, with advice. A missing file stays a FileNotFoundError."""
        try:
            yield
        except Exception as error:
            absent = isinstance(error, FileNotFoundError)
            if (absent and doing != "write") or getattr(error, "errno", None) == errno.ENOSPC:  # ENOSPC is about this machine
                raise
            scheme = self._url.partition(":")[0]
            hint = "check the address, and that this machine can reach it"
            if absent:
                hint = "create the bucket first, or use another URL"
            elif isinstance(error, PermissionError) or "credential" in str(error).lower():
                hint = "set credentials that have access, in the environment: " + _KEYS.get(
                    scheme, "see the documentation of its package"
                )
            reason = str(error).rstrip(".") or type(error).__name__
            raise UnreachableError(f"cannot {doing} {self._url}: {reason}. What to do: {hint}") from error


def _modified(about: Mapping[str, Any]) -> float:
    """When a file was written, from the information of its file system."""
    for name in _MODIFIED:
        moment = about.get(name)
        if isinstance(moment, dt.datetime):
            return moment.timestamp()
        if isinstance(moment, int | float):
            return float(moment)
    raise UnreachableError(f"the file system does not report when {about.get('name')} was written, so its age is unknown")
