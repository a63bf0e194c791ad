"""Runs the tests of generated code, each in a process of its own that ends after some seconds."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from engine.operator import Context, Record, operator


class Written(Record):
    """A task, its tests (Python statements), and a module that a model wrote for it."""

    task: str
    tests: str
    code: str


class Tested(Written):
    """The same, whether the tests pass, and the end of what they print if they do not."""

    passed: bool
    output: str


@operator
async def run_tests(written: Written, ctx: Context, *, seconds: float = 10.0) -> AsyncIterator[Tested]:
    """Run a row's tests on its code.

    The process has an empty folder and an empty environment, and is killed with all its children when the time is over. That
    is not a sandbox: it protects from endless loops, not from malice.

    Args:
        seconds: for the tests of one row.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candidate.py"
        file.write_text(f"{written.code}\n\n{written.tests}\n", encoding="utf-8")
        printed = Path(folder) / "printed.txt"
        with printed.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", file, cwd=folder, env={}, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        try:
            passed = await asyncio.wait_for(process.wait(), seconds) == 0
            said = printed.read_bytes()[-2000:].decode(errors="replace")
        except TimeoutError:
            passed, said = False, f"no end after {seconds:g} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):  # the group: also what the first process left behind
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    ctx.count("tests", "passed" if passed else "failed")
    yield Tested(**written.model_dump(), passed=passed, output="" if passed else said)
