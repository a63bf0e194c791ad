"""A server's process under a guard, which ends it with all its descendants when this process ends, however that happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.serving import guard

STOP_SECONDS = guard.GRACE_SECONDS + 5
"""How long `stop` may take."""

_LAST_BYTES, _LAST_LINES = 16_384, 20


class GuardedProcess:
    """A command that runs until `stop`, until it ends by itself, or until this process has ended.

    Args:
        command: the program and its arguments.
        env: the whole environment of the process.
        log: the file that gets what it prints, at its end.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", guard.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,  # Ctrl-C in a terminal is for the run, which then decides
            )

    @property
    def pid(self) -> int:
        """The id of the guard."""
        return self._guard.pid

    @property
    def ended(self) -> str:
        """How it ended, in words; empty while it runs."""
        status = self._guard.poll()
        if status is None:
            return ""
        number = -status if status < 0 else status - 128
        return f"signal {number} ended it" if 0 < number < 65 else f"it ended with status {status}"

    def stop(self) -> None:
        """End it with all its descendants; returns when none is left."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for something that even SIGKILL does not end, such as a dead disk
            self._guard.kill()
            self._guard.wait()


def last_lines(log: Path) -> str:
    """The last lines of a log, for an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:]) or "(it printed nothing)"
