"""Prepares for Ray: a short temporary folder, loopback only, no messages of its own, and a cluster that answers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.errors import EngineError

LONGEST_TEMP = 107 - len("/ray/session_2026-11-28_18-32-28_494143_1234567/sockets/plasma_store.1")
"""Most bytes in the path of a temporary folder: Linux allows 107 for a socket, and Ray appends the rest."""

_CONNECT_SECONDS = 5.0
_ATTACH_SECONDS = 25.0
_ATTACH = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_LOOPBACK_READ = "ENABLE_RAY_CLUSTER"
"""Ray's switch for using 127.0.0.1, as variable and as constant. By default, Ray listens on every interface."""


class Home(NamedTuple):
    """The driver's working folder and import path, which workers on the same machine use, too.

    Operators may read files by relative paths, or be in a module that is not installed.
    """

    folder: str
    path: tuple[str, ...]

    def enter(self) -> None:
        """Change to the folder, and put the path first."""
        os.chdir(self.folder)
        sys.path[:] = [*self.path, *(each for each in sys.path if each not in self.path)]


def temporary_folder() -> Path:
    """The folder for Ray's session: the first of RAY_TMPDIR, TMPDIR, /tmp and /var/tmp that it can use.

    Raises:
        EngineError: RAY_TMPDIR cannot be used, or no folder can.
    """
    named = os.environ.get("RAY_TMPDIR")
    places = [named] if named else [os.environ.get("TMPDIR"), "/tmp", "/var/tmp"]  # noqa: S108
    for place in filter(None, places):
        folder = Path(place).absolute()
        if len(os.fsencode(folder)) <= LONGEST_TEMP and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    tried = f"RAY_TMPDIR is {named}" if named else f"TMPDIR is {os.environ.get('TMPDIR') or 'not set'}"
    raise EngineError(
        f"Ray needs a writable temporary folder whose path has at most {LONGEST_TEMP} bytes, because Linux limits the paths of "
        f"sockets; {tried}. Set RAY_TMPDIR to such a folder"
    )


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Make a Ray that is imported and started in the block listen on 127.0.0.1 only."""
    before = os.environ.get(_LOOPBACK)
    os.environ[_LOOPBACK] = "0"
    # If ray was imported before, it has already read the variable.
    read = sys.modules.get("ray._private.ray_constants")
    read_before = getattr(read, _LOOPBACK_READ, None)
    if read is not None:
        setattr(read, _LOOPBACK_READ, False)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LOOPBACK]
        else:
            os.environ[_LOOPBACK] = before
        if read is not None:
            setattr(read, _LOOPBACK_READ, read_before)


def check_cluster(address: str) -> None:
    """Check that a Ray cluster answers: attaching to one that does not would take five minutes.

    Raises:
        EngineError: it does not answer; the text has the address and the reason.
    """
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error
    try:
        # In a separate process, because `ray.init` has no time-out and cannot be interrupted.
        tried = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _ATTACH, address],
            timeout=_ATTACH_SECONDS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"no answer within {_ATTACH_SECONDS:g} s; it may not be a Ray cluster") from error
    if tried.returncode != 0:
        raise _unreachable(address, (tried.stderr.strip().splitlines() or ["no reason given"])[-1])


def _unreachable(address: str, why: str) -> EngineError:
    return EngineError(
        f"cannot reach the Ray cluster at {address}: {why}. Correct ENGINE_RAY_ADDRESS (or RAY_ADDRESS), or unset it to run "
        "on this machine"
    )


@contextlib.contextmanager
def silent_ray() -> Iterator[None]:
    """A Ray that is started in the block does not print its own messages to stdout.

    Ray prints a paragraph whenever a process dies, even with `log_to_driver=False`, and has no setting for it. The executor
    reports deaths itself.
    """
    from ray._private import worker

    listen = worker.listen_error_messages  # runs in a thread until Ray stops, and only prints
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = listen
