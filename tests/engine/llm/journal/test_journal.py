"""Answers are durable before they are used, are shared by processes, and are never misread."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.llm.journal import answers
from engine.llm.journal.answers import DamagedJournalError, Journal
from engine.llm.types.completions import Completion, TokenLogprob
from registry.storage.checked_json import json_digest


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in its own process."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


async def test_a_look_up_that_finds_nothing_does_not_scan_an_index(workdir: Path) -> None:
    journal = Journal(workdir / "j")
    await journal.put("key", Completion(text="answer"))
    journal.close()
    with sqlite3.connect(workdir / "j" / "answers.sqlite") as connection:
        for query in (answers._FIND, answers._FIND_BY_END):
            steps = [row[-1] for row in connection.execute(f"explain query plan {query}", ("key",))]
            assert steps
            assert all(step.startswith("SEARCH") for step in steps), steps


async def test_the_journal_survives_a_kill(workdir: Path) -> None:
    code = """
import asyncio, os, sys
from pathlib import Path
from engine.llm.journal.answers import Journal
from engine.llm.types.completions import Completion
async def main():
    journal = Journal(Path(sys.argv[1]))
    for number in range(100):
        await journal.put(f"key {number}", Completion(text=str(number)))
        print(number, flush=True)
        if number == 41:
            os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = python(code, str(workdir / "j"))
    assert done.returncode == -9
    journal = Journal(workdir / "j")
    keys = done.stdout.split()
    assert [await journal.get(f"key {number}") for number in keys] == [Completion(text=number) for number in keys]
    assert len(keys) == 42
    journal.close()


async def test_processes_share_the_journal(workdir: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from engine.llm.journal.answers import Journal
from engine.llm.types.completions import Completion
async def main():
    journal = Journal(Path(sys.argv[1]))
    await asyncio.gather(*[journal.put(f"{sys.argv[2]}-{n}", Completion(text=str(n))) for n in range(300)])
    journal.close()
asyncio.run(main())
"""
    with ThreadPoolExecutor() as threads:
        assert [done.returncode for done in threads.map(lambda who: python(code, str(workdir / "j"), who), "abc")] == [0, 0, 0]
    journal = Journal(workdir / "j")
    assert journal.count() == 900
    assert await journal.get("b-299") == Completion(text="299")
    journal.close()


async def test_a_changed_entry_is_an_error(workdir: Path) -> None:
    journal = Journal(workdir / "j")
    await journal.put("k", Completion(text="good"))
    with sqlite3.connect(journal.file) as con:
        con.execute("update answers set answer = replace(answer, 'good', 'evil')")
    with pytest.raises(DamagedJournalError, match="entry k"):
        await journal.get("k")
    journal.close()


async def test_a_flipped_byte_in_an_index_hides_no_answer(workdir: Path) -> None:
    keys = [json_digest(number) for number in range(300)]
    journal = Journal(workdir / "j")
    await asyncio.gather(*[journal.put(key, Completion(text=f"answer {place}")) for place, key in enumerate(keys)])
    journal.close()
    with sqlite3.connect(journal.file) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    whole = journal.file.read_bytes()
    places = [match.start() for match in re.finditer(keys[150].encode(), whole)]
    assert len(places) == 2, "in the table and in its index"
    for place in places:
        journal.file.write_bytes(whole[:place] + b"g" + whole[place + 1 :])
        damaged = Journal(workdir / "j")
        assert (await damaged.get(keys[150])) == Completion(text="answer 150")
        damaged.close()


async def test_the_first_of_two_answers_is_kept_unless_it_is_to_be_replaced(workdir: Path) -> None:
    journal = Journal(workdir / "j")
    first, second = Completion(text="first"), Completion(text="second")
    assert await asyncio.gather(journal.put("k", first), journal.put("k", second)) == [first, first]
    assert await journal.put("k", second, replace=True) == second
    assert await journal.get("k") == second
    journal.close()


async def test_all_of_an_answer_is_kept(workdir: Path) -> None:
    whole = Completion(
        text="é \U0001f600 \n",
        finish_reason="length",
        tokens_in=3,
        tokens_out=2,
        latency_ms=1.5,
        logprobs=(TokenLogprob(token="é", logprob=-0.25, top={"e": -1.5}),),
    )
    journal = Journal(workdir / "j")
    await journal.put("k", whole)
    assert await journal.get("k") == whole
    journal.close()


async def test_notes_are_kept_by_name_and_forgotten(workdir: Path) -> None:
    journal = Journal(workdir / "j")
    await asyncio.gather(*[journal.note(name, name.upper()) for name in ("batch 1", "batch 2", "other")])
    await journal.note("batch 1", None)
    journal.close()
    again = Journal(workdir / "j")
    assert await again.notes("batch ") == {"batch 2": "BATCH 2"}
    again.close()
