"""Right answers are accepted in every notation and wrong ones never, wherever the comparison runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from engine.fingerprint.code import _code_of, code_of
from operators.math.answers import verify as verifying
from operators.math.answers.verify import as_number, final_answer, gold_answer, verify
from tests.operators.math.answers.hard_pairs import hard_pairs

HANG = (r"\pi", r"\boxed{9^{9^{9^{9}}}}")

NUMBERS = [
    ("7", r"so \boxed{7}", "correct"),
    ("7", r"\boxed{7.0}", "correct"),
    ("7", r"\boxed{8}", "wrong"),
    ("72", "71.6", "wrong"),
    ("12", r"\boxed{112}", "wrong"),
    ("-3", "The answer is \u22123", "correct"),
    ("-3", "The answer is 3", "wrong"),
    ("3", r"\boxed{-3}", "wrong"),
    ("1000", r"\boxed{1,000}", "correct"),
    ("1000", r"\boxed{1{,}000}", "correct"),
    ("1000", r"\boxed{1,\!000}", "correct"),
    ("1000", r"\boxed{1\,000}", "correct"),
    ("1000", "\\boxed{1\u202f000}", "correct"),
    ("1,000", r"\boxed{1.000}", "unparsed"),
    ("1,234,567", "The answer is 1234567.", "correct"),
    ("1000", r"\boxed{1e3}", "correct"),
    ("1500", r"\boxed{1.5 \times 10^{3}}", "correct"),
    ("1500", r"\boxed{1.5 × 10³}", "correct"),
    ("150", r"\boxed{1.5 \times 10^{3}}", "wrong"),
    ("10", r"\boxed{10^2}", "wrong"),
    ("100", r"\boxed{10^2}", "correct"),
    ("102", r"\boxed{10²}", "wrong"),
    ("0.5", r"\boxed{1/2}", "correct"),
    ("0.5", r"\boxed{\dfrac12}", "correct"),
    ("0.5", r"\boxed{½}", "correct"),
    (r"-\frac{3}{4}", r"\boxed{\frac{-3}{4}}", "correct"),
    (r"-\frac{3}{4}", r"\boxed{-0.75}", "correct"),
    (r"-\frac{3}{4}", r"\boxed{\frac34}", "wrong"),
    (r"\frac{1}{3}", r"\boxed{0.333}", "wrong"),
    (r"\frac{1}{3}", r"\boxed{0.333333333333}", "wrong"),
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}", "correct"),
    (r"\frac{1}{3}", r"\boxed{0.333...}", "unparsed"),
    ("3/2", r"\boxed{1 1/2}", "correct"),
    ("3/2", r"\boxed{1\frac{1}{2}}", "correct"),
    ("3/2", r"\boxed{1½}", "correct"),
    ("11/2", r"\boxed{1½}", "wrong"),
    ("1" + "0" * 300, r"\boxed{1" + "0" * 299 + "1}", "wrong"),
    ("7", r"\boxed{" + "9" * 5000 + "}", "unparsed"),
    ("7", r"\boxed{1e99999}", "unparsed"),
    ("0", r"\boxed{\frac{1}{0}}", "unparsed"),
]
PERCENT_AND_UNITS = [
    ("25", r"\boxed{25\%}", "correct"),
    ("25%", r"\boxed{25}", "correct"),
    (r"25\%", r"\boxed{0.25}", "correct"),
    ("1/4", r"\boxed{25\%}", "correct"),
    ("0.25", r"\boxed{0.25\%}", "unparsed"),
    ("25", r"\boxed{0.25}", "wrong"),
    ("25%", r"\boxed{2.5}", "wrong"),
    ("20%", "The answer is 20 percent.", "correct"),
    ("$18", r"\boxed{18}", "correct"),
    ("18", r"\boxed{\$18.00}", "correct"),
    ("18", "The answer is $18.", "correct"),
    ("18", "The answer is 18 dollars.", "correct"),
    ("5", r"\boxed{5\text{ cm}}", "correct"),
    ("5 cm", r"\boxed{5}", "correct"),
    ("5 cm", r"\boxed{5 \text{ centimeters}}", "correct"),
    (r"5 \text{ cm}^2", r"\boxed{5 cm²}", "correct"),
    ("5 cm^2", r"\boxed{5 cm}", "unparsed"),
    ("5 km", r"\boxed{5\text{ m}}", "unparsed"),
    ("5 km", r"\boxed{6\text{ km}}", "wrong"),
    ("7", r"\boxed{7 \text{ apples}}", "correct"),
    ("7", "The answer is 7 apples.", "correct"),
    ("5", r"\boxed{5 \text{ million}}", "unparsed"),
    ("5", r"\boxed{5 halves}", "unparsed"),
    ("20", "The answer is 20% of 100.", "unparsed"),
    (r"\frac{\pi}{3}", r"\boxed{60^\circ}", "unparsed"),
    ("5m", r"\boxed{5n}", "wrong"),
    ("5m", r"\boxed{5}", "unparsed"),
    ("5.2", r"\boxed{\approx 5.2}", "unparsed"),
    ("$5", r"\boxed{€5}", "unparsed"),
    ("90", r"\boxed{90^\circ}", "correct"),
    (r"90^\circ", r"\boxed{90°}", "correct"),
    (r"90^\circ", r"\boxed{90 \text{ degrees}}", "correct"),
    (r"90^\circ", r"\boxed{80^{\circ}}", "wrong"),
]
EXPRESSIONS = [
    (r"2\sqrt{3}", r"\boxed{2\sqrt{3}}", "correct"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", "correct"),
    (r"2\sqrt{3}", r"\boxed{2√3}", "correct"),
    (r"2\sqrt{3}", r"\boxed{2}", "wrong"),
    ("2", r"\boxed{2\sqrt{3}}", "wrong"),
    ("2", r"\boxed{2\pi}", "wrong"),
    ("11", r"\boxed{5(6)}", "unparsed"),
    ("11", r"\boxed{5 6}", "unparsed"),
    ("5", r"\boxed{5_6}", "unparsed"),
    (r"2\sqrt{3}", r"\boxed{3.4641}", "wrong"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}", "correct"),
    (r"\sqrt{2} \times 10^{-34}", r"\boxed{\sqrt{3} \times 10^{-34}}", "wrong"),
    (r"\pi", r"\boxed{3.14}", "wrong"),
    (r"\pi", r"\boxed{3.14159265358979323846}", "wrong"),
    (r"4\pi", r"\boxed{4π}", "correct"),
    ("x+1", r"\boxed{1+x}", "correct"),
    ("x", r"\boxed{\frac{2x}{2}}", "correct"),
    ("x", r"\boxed{2x}", "wrong"),
    ("x+1", r"\boxed{y+1}", "wrong"),
    ("p - q", r"\boxed{-q + p}", "correct"),
    ("3 - 4i", r"\boxed{3 - 4\sqrt{-1}}", "correct"),
    ("2516_8", r"\boxed{2516_{8}}", "correct"),
    ("2516_8", r"\boxed{2516}", "unparsed"),
    ("x^2-1", r"\boxed{(x-1)(x+1)}", "correct"),
    ("x^2-1", r"\boxed{(x-1)^2}", "wrong"),
    (r"\frac{x^{2}}{y_{1}}", r"\boxed{\frac{x^{2}}{y_{1}}}", "correct"),
    ("2^{10}", r"\boxed{1024}", "correct"),
    ("120", r"\boxed{5!}", "correct"),
    ("5", r"\boxed{x = 5}", "correct"),
    ("x = 5", r"\boxed{5}", "correct"),
    ("x=5", r"\boxed{y=5}", "wrong"),
    ("7", r"\boxed{3 + 4 = 7}", "correct"),
    ("4", r"\boxed{x^2 = 4}", "unparsed"),
    ("y = 2x + 1", r"\boxed{y - 2x = 1}", "correct"),
    ("2x - y + 1 = 0", r"\boxed{y - 2x = 1}", "correct"),
    ("x^2 + 1 = 0", r"\boxed{x^2 + 2 = 0}", "unparsed"),
    ("x < 2", r"\boxed{x > 2}", "wrong"),
    ("x < 2", r"\boxed{2 > x}", "correct"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 2.0 \end{pmatrix}}", "correct"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}", "wrong"),
    (r"2\sqrt{3}", r"\boxed{5 \oplus 3}", "unparsed"),
    (*HANG, "timeout"),
]
SEVERAL = [
    ("(1, 2]", r"\boxed{(1,2]}", "correct"),
    ("(1, 2)", r"\boxed{[1, 2]}", "wrong"),
    ("[1, 2]", r"\boxed{x \in [1, 2]}", "correct"),
    ("(1, 2)", r"\boxed{(2, 1)}", "wrong"),
    ("(1, 2)", r"\boxed{(1, 2, 3)}", "wrong"),
    (r"\left(\frac12, \sqrt{2}\right)", r"\boxed{(0.5, \frac{2}{\sqrt{2}})}", "correct"),
    (r"(-\infty, 1) \cup (2, \infty)", r"\boxed{(-∞, 1) ∪ (2, ∞)}", "correct"),
    (r"(-\infty, 1) \cup (2, \infty)", r"\boxed{(-\infty, 1] \cup (2, \infty)}", "wrong"),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}", "correct"),
    (r"\{1, 2\}", r"\boxed{\{1, 2, 3\}}", "wrong"),
    ("1, 2", r"\boxed{2 \text{ and } 1}", "correct"),
    ("1, 2", r"\boxed{x = 1 \text{ or } x = 2}", "correct"),
    ("1, 2", r"\boxed{x = 1, y = 3}", "wrong"),
    ("(1, 2)", r"\boxed{1, 2}", "unparsed"),
    ("(1, 2)", r"\boxed{\{1\} \cup \{2\}}", "unparsed"),
    ("x = 1, y = 2", r"\boxed{x = 2, y = 1}", "wrong"),
    ("1, 2", r"\boxed{x = 2, y = 1}", "wrong"),
    ("5", r"\boxed{5 \text{ or } 6}", "wrong"),
    ("5", r"$\boxed{5}$ or $\boxed{6}$", "wrong"),
    ("6", r"$\boxed{5}$ or $\boxed{6}$", "wrong"),
    ("5", "The answer is $5$ or $6$.", "wrong"),
    ("5 or 6", r"\boxed{5}", "wrong"),
    (r"2 \pm \sqrt{3}", r"\boxed{2 - \sqrt{3}, 2 + \sqrt{3}}", "correct"),
    ("3:4", r"\boxed{3 : 4}", "correct"),
    ("3:4", r"\boxed{3/4}", "unparsed"),
    ("3:4", r"\boxed{4:3}", "wrong"),
]
WORDS = [
    ("yes", r"\boxed{\text{Yes}}", "correct"),
    ("yes", r"\boxed{\text{No}}", "wrong"),
    ("True", r"\boxed{\text{yes}}", "correct"),
    ("Monday", "The answer is Monday.", "correct"),
    ("Monday", r"\boxed{\text{Tuesday}}", "wrong"),
    (r"\text{even}", r"\boxed{even}", "correct"),
    (r"\text{even}", r"\boxed{\text{odd}}", "wrong"),
    ("A", r"\boxed{\text{(A)}}", "correct"),
    ("A", "Answer: (A)", "correct"),
    ("A", r"\boxed{B}", "wrong"),
    ("7", "He has 3 apples, buys 4, now 7. The answer is seven.", "correct"),
    ("21", r"\boxed{\text{twenty-one}}", "correct"),
    ("7", r"\boxed{\text{many}}", "unparsed"),
]
SOLUTIONS = [
    ("7", r"first \boxed{8}, no: \boxed{7}", "correct"),
    ("7", r"first \boxed{7}, no: \boxed{8}", "wrong"),
    ("72", "#### 72", "correct"),
    ("48/2 = <<48/2=24>>24 clips in May.\n#### 24", "24 clips.\n#### 24", "correct"),
    (r"Thus the sum is $\boxed{\frac{1}{2}}$.", r"\boxed{0.5}", "correct"),
    ("72", "**72**", "correct"),
    ("72", "**Answer:** 72", "correct"),
    ("72", "Answer:\n72", "correct"),
    ("72", "Adding, 48 + 24 = 72 clips altogether.", "correct"),
    ("24", "Adding, 48 + 24.", "unparsed"),
    ("7", "The answer is 3 + 4 = 7", "correct"),
    ("3", "The answer is 3 + 4 = 7", "wrong"),
    ("5", "The answer is 5, because 2 + 3 is that.", "correct"),
    ("5", "The final answer is: 5", "correct"),
    ("5", "The answer is not 5.", "unparsed"),
    ("5", "The answer is more than 5.", "unparsed"),
    ("5", r"It is not \boxed{5}.", "unparsed"),
    ("5", "It cannot be 5.", "unparsed"),
    ("5", "It is 5 or 6.", "unparsed"),
    ("6", "It is 5 or 6.", "unparsed"),
    ("2", "So it is 10^2.", "unparsed"),
    ("3", r"So it is 2\sqrt{3}.", "unparsed"),
    ("3", r"So it is $2\sqrt{3}$.", "wrong"),
    ("7", "no number at all", "unparsed"),
    ("7", "ends in ####", "unparsed"),
    ("7", r"I say 7: \boxed{}", "unparsed"),
    ("7", r"cut off: \boxed{7", "unparsed"),
    ("7", "", "unparsed"),
]
PAIRS = NUMBERS + PERCENT_AND_UNITS + EXPRESSIONS + SEVERAL + WORDS + SOLUTIONS + hard_pairs()


SECONDS = 3.0
"""The time limit of a comparison, so that one that hangs takes no longer."""


async def verdicts(pairs: list[tuple[str, str, str]]) -> list[str]:
    """The verdicts of `verify` on a table, all pairs at once."""
    found = await asyncio.gather(*(verify(gold, solution) for gold, solution, _ in pairs))
    return [verdict for verdict, _ in found]


def unexpected(found: list[str]) -> list[tuple[str, str, str, str]]:
    """The pairs whose verdicts are not the expected ones."""
    return [(*pair, got) for pair, got in zip(PAIRS, found, strict=True) if got != pair[2]]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "TIMEOUT_SECONDS", SECONDS)


class Actor:
    """A Ray actor that verifies in a method."""

    def run(self, pairs: list[tuple[str, str, str]], seconds: float) -> list[str]:
        verifying.TIMEOUT_SECONDS = seconds
        return asyncio.run(verdicts(pairs))


class AsyncActor:
    """A Ray actor that verifies on its event loop, off the main thread."""

    async def run(self, pairs: list[tuple[str, str, str]], seconds: float) -> list[str]:
        verifying.TIMEOUT_SECONDS = seconds
        return await verdicts(pairs)


@pytest.mark.proof
async def test_verdicts_are_right_in_the_main_thread() -> None:
    assert unexpected(await verdicts(PAIRS)) == []


@pytest.mark.proof
def test_verdicts_are_right_in_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda pair: asyncio.run(verdicts([pair]))[0], PAIRS))
    assert unexpected(found) == []


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("actor", [Actor, AsyncActor])
def test_verdicts_are_right_in_a_ray_actor(actor: type) -> None:
    import ray

    handle: Any = ray.remote(actor).options(num_cpus=0).remote()
    try:
        assert unexpected(ray.get(handle.run.remote(PAIRS, SECONDS))) == []
    finally:
        ray.kill(handle)


@pytest.mark.proof
async def test_a_comparison_that_hangs_does_not_delay_others() -> None:
    await verify(r"\sqrt{4}", r"\boxed{\frac{4}{\sqrt{4}}}")
    hang = asyncio.ensure_future(verify(*HANG))
    found = await asyncio.gather(*(verify(rf"\sqrt{{{n * n}}} + x", rf"\boxed{{x + {n}}}") for n in range(2, 65)))
    assert not hang.done()
    assert {verdict for verdict, _ in found} == {"correct"}
    assert (await hang)[0] == "timeout"


@pytest.mark.proof
async def test_waiting_for_a_process_does_not_count_towards_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both processes hang. The time of a comparison that waits for them begins when a process takes it.
    waiting = [verify(*HANG), verify(*HANG), verify(r"\sqrt{9} + x", r"\boxed{x + 3}")]
    assert [verdict for verdict, _ in await asyncio.gather(*waiting)] == ["timeout", "timeout", "correct"]


async def test_a_process_that_was_killed_is_replaced() -> None:
    await verify(r"\sqrt{9} + x", r"\boxed{x + 3}")
    workers = comparing(psutil.Process())
    assert workers
    workers[0].kill()
    found = await asyncio.gather(*(verify(rf"\sqrt{{{n * n}}} + x", rf"\boxed{{x + {n}}}") for n in range(2, 10)))
    assert {verdict for verdict, _ in found} == {"correct"}


def comparing(process: psutil.Process) -> list[psutil.Process]:
    """The processes in which a process compares."""
    servers = [child for child in process.children() if "forkserver" in " ".join(child.cmdline())]
    return [child for server in servers for child in server.children()]


HANGING = f"""
import asyncio
from engine.fingerprint.code import _code_of, code_of
from operators.math.answers import verify as verifying
verifying.TIMEOUT_SECONDS = {SECONDS}
async def main():
    hang = asyncio.ensure_future(verifying.verify(*{HANG!r}))
    for _ in range(2):
        assert (await verifying.verify("x + 1", r"\\boxed{{1 + x}}"))[0] == "correct"
    print("ready", flush=True)
    assert (await hang)[0] == "timeout"
asyncio.run(main())
"""


@pytest.mark.soak
def test_no_process_outlives_its_parent_even_if_it_hangs() -> None:
    parents = [
        subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    children = []
    for parent in parents:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        assert comparing(psutil.Process(parent.pid))
        children += psutil.Process(parent.pid).children(recursive=True)
    parents[0].kill()
    parents[0].communicate(timeout=30)
    _, errors = parents[1].communicate(timeout=30)
    assert (parents[1].returncode, errors) == (0, "")
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == []


def test_gold_answers_are_read_from_datasets_texts() -> None:
    assert gold_answer("She has 48/2 = <<48/2=24>>24.\n#### 1,080\n") == "1,080"
    assert gold_answer(r"So $x = \boxed{1}$, that is $\boxed{\frac{1}{\sqrt{2}}}$.") == r"\frac{1}{\sqrt{2}}"
    assert gold_answer(" 7 apples ") == "7 apples"


@pytest.mark.parametrize("text", ["1,00", "x", "", "1/0", "1.2.3", "1e99999", "٣x", "5%%", "--5", "10^23", r"2\frac{5}{3}"])
def test_other_texts_are_not_plain_numbers(text: str) -> None:
    assert as_number(text) is None


def test_the_last_box_counts_including_inner_braces() -> None:
    assert final_answer(r"\boxed{1} and then \boxed{\frac{1}{2}}") == r"\frac{1}{2}"


async def test_running_processes_are_not_part_of_the_fingerprint() -> None:
    before = code_of("evaluate_math").document()
    await verify("1", "\\boxed{1}")
    _code_of.cache_clear()
    assert code_of("evaluate_math").document() == before
