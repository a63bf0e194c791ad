"""How many runs on this machine use an endpoint at the same time, and so divide its limits.

Each holder of a share has a file of its own in a folder of the user, and keeps it locked. The operating system releases the
lock when the process ends, for whatever reason. So the locked files are the live holders, and nothing else has to be true.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from engine.credentials import redacted
from engine.llm.types.model_spec import ModelSpec

RECOUNT_SECONDS = 1.0
"""How long a count of the holders is valid."""

_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}")
"""Files of holders: what they share, and a random part. Other files in the folder are left alone."""

_ATTEMPTS = 10


def is_shared(spec: ModelSpec) -> bool:
    """Whether a model's limits are shared. Those of models in this process, of batches, and of a run's own servers are not."""
    return spec.remote and spec.mode == "chat" and spec.serve is None


def machine_share(spec: ModelSpec) -> MachineShare | None:
    """A share of the limits of a model's endpoint; None if they are not shared."""
    if not is_shared(spec):
        return None
    # With the host, because the folder may be on a network file system.
    shared = [socket.gethostname(), redacted(spec.endpoint), spec.model, spec.api_key_env]
    return MachineShare(hashlib.sha256(json.dumps(shared).encode()).hexdigest())


@functools.cache
def why_not_shared() -> str:
    """Why processes of this user cannot share limits, for the user; empty if they can. Tried once in each process."""
    share = MachineShare(hashlib.sha256(b"").hexdigest())
    share.holders()
    share.leave()
    return share.trouble


def user_folder() -> Path:
    """The folder for the holders' files: below the user's runtime folder, or else below the cache folder.

    Raises:
        OSError: the user has neither.
    """
    # The usual runtime folder is tried even without the variable, which cron, for example, does not set.
    for root in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"):
        if os.path.isabs(root) and _is_own_folder(os.path.realpath(root)) and os.access(root, os.W_OK | os.X_OK):
            return Path(root, "posttrain-engine", "limits")
    for root in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(root):
            return Path(root, "posttrain-engine", "limits")
    raise FileNotFoundError(errno.ENOENT, "the user has no home folder; set XDG_CACHE_HOME")


class MachineShare:
    """A share of an endpoint's limits. No method raises: if files cannot be locked, the limits are not divided.

    Args:
        key: SHA-256 in hex of what is shared.
        clock: seconds, monotonic.
        folder: returns the folder for the holders' files.
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.monotonic, folder: Callable[[], Path] = user_folder) -> None:
        self.trouble = ""
        self._key, self._clock, self._find_folder = key, clock, folder
        self._file: _HeldFile | None = None
        self._holders = 1
        self._valid_until = float("-inf")

    def holders(self) -> int:
        """The number of live holders, with this one, which becomes one if it was not. Counted once in RECOUNT_SECONDS."""
        now = self._clock()
        if now >= self._valid_until:
            self._valid_until = now + RECOUNT_SECONDS
            try:
                self._holders = self._count()
                self.trouble = ""
            except OSError as error:
                self.trouble = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
                # The last count is better than none, but others cannot count a holder that has no file.
                self._holders = self._holders if self._file else 1
        return self._holders

    def leave(self) -> None:
        """Give up the share, until `holders` is called again."""
        if self._file:
            self._file.close()
        self._file, self._holders, self._valid_until = None, 1, float("-inf")

    def _count(self) -> int:
        folder = self._find_folder()
        if self._file and not (self._file.path.parent == folder and self._file.exists()):
            self._file.close()  # the runtime folder comes and goes with the user's sessions
            self._file = None
        joins = self._file is None
        if self._file is None:
            _prepare(folder)
            self._file = _hold_new(folder, self._key)
        count = 1
        for name in os.listdir(folder):
            ours = name.startswith(self._key)
            # One that joins also clears away what killed holders of other shares have left.
            if (ours or joins) and _NAME.fullmatch(name) and name != self._file.path.name and _is_held(folder / name):
                count += ours
        return count


class _HeldFile:
    """A file that this process has locked; removed when it is closed, collected, or the process ends in an orderly way."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _inheritable.add(descriptor)
        self.close = weakref.finalize(self, _remove, path, descriptor, os.getpid())

    def exists(self) -> bool:
        """Whether the file is still in its folder."""
        return os.fstat(self._descriptor).st_nlink > 0


_inheritable: set[int] = set()


def _close_inherited() -> None:
    """In a forked child, which would keep the locks of a parent that is killed."""
    while _inheritable:
        os.close(_inheritable.pop())


os.register_at_fork(after_in_child=_close_inherited)


def _remove(path: Path, descriptor: int, process: int) -> None:
    if process == os.getpid():
        with contextlib.suppress(OSError):
            path.unlink()
        _inheritable.discard(descriptor)
        os.close(descriptor)


def _hold_new(folder: Path, key: str) -> _HeldFile:
    """Create a file and lock it. One that was not locked in time may count as left behind, and be removed by others."""
    for _ in range(_ATTEMPTS):
        path = folder / f"{key}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = _HeldFile(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists():
                return file
        except BlockingIOError:
            pass
        except OSError as error:
            file.close()
            raise OSError(error.errno, f"files there cannot be locked ({error.strerror})", str(folder)) from error
        file.close()
    raise BlockingIOError(errno.EAGAIN, "new files are removed at once", str(folder))


def _is_held(path: Path) -> bool:
    """Whether a process holds the file; if none does, it is removed."""
    try:
        # Without waiting for the other end, should it be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO):
            return False  # it has just left, or is not ours
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        # Shared, so that two that look at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):
            path.unlink()
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _prepare(folder: Path) -> None:
    """Create the folder, for this user only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own_folder(folder):
        raise PermissionError(errno.EPERM, "a link, or another user's folder", str(folder))
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)


def _is_own_folder(path: str | Path) -> bool:
    """Whether it is a folder (not a link to one) of this user."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
