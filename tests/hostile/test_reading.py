"""Any answer of a model is parsed in linear time and never executed; at worst, the row is rejected."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.llm.types.structured import UnparsableError, parse_answer
from operators.alignment.conclusions import attacked, conclusion
from operators.alignment.judge import Judgement
from operators.conformal.equivalence import accents_are_loose, chosen_option, reading, same_question
from operators.math.answers.extraction import final_answer, gold_answer
from operators.math.answers.forms import read
from operators.math.answers.notation import as_number
from operators.math.answers.verify import verify
from operators.math.rewrites import clean, problem_with
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text

UNITS = [
    *" \n~\\$&|_{}()[]<>!?.,;:'\"`*#%^=+-/°½²٣é",
    "\u0301\u0323", "\ue000", "\udc00", "\\ ", "$ ", "\\,", "\\left", "\\text{", "\\frac{1}{", "\\frac", "\\sqrt", "\\boxed{",
    "\\boxed{1}, ", "\\boxed{1} and ", "\\{", "\\begin{pmatrix}", "\\cup ", "\\pm ", "\\approx ", "^\\circ", "^{9", "9", "9,999",
    "0.", "1/", "1 ", "x!", "(1,2),", "cm ", "e9", "the answer is ", "answer: ", "answer to ", "is ", "not ", "not the ",
    "than ", "or ", "and ", "no ", "Paris ", "Paris, which ", "Rome.", "I don't know ", "option ", "B. ", "U.", "sure: ",
    "problem ", "```json", '{"reason":', '"gives": "first"}', "[", "\\ud800", "twenty ", "half a ", "**a ", "__a ", "</think>",
]  # fmt: skip
OPTIONS = ["Paris", "Rome", "x > 2", *(f"New place {number}" for number in range(20))]


def _structured(text: str) -> None:
    with contextlib.suppress(UnparsableError):
        parse_answer(text, Judgement)


READERS: dict[str, Callable[[str], Any]] = {
    "final_answer": final_answer,
    "gold_answer": gold_answer,
    "as_number": as_number,
    "form": read,
    "math": reading("math"),
    "qa": reading("qa"),
    "option": lambda text: chosen_option(text, OPTIONS),
    "accents": lambda text: accents_are_loose("What is this?", [text, "x"]),
    "question": same_question,
    "conclusion": lambda text: conclusion(text, "Paris", "Rome"),
    "yes or no": lambda text: conclusion(text, "yes", "no"),
    "attacked": lambda text: attacked(text, "Paris"),
    "rewrite": lambda text: problem_with("Tom has 5 apples and eats 2.", clean(text), "3"),
    "structured": _structured,
}

pieces = st.tuples(st.lists(st.sampled_from(UNITS), min_size=1, max_size=3).map("".join), st.integers(1, 5000))
answers = st.lists(pieces, min_size=1, max_size=4)


BOXED_BOMBS = [
    "$ " * 990, "[" * 990, "(" * 990 + ")" * 990, "{" * 990 + "1" + "}" * 990, "\\text{" * 300 + "a" + "}" * 300,
    "\\frac{1}{" * 200 + "1" + "}" * 200, "\\sqrt" * 390, "-" * 1900 + "1", "1," * 900 + "1", "9" * 1990, "₁" * 1900,
    "1e999999999", "99999999!", "\\binom{99999999}{7}", "2*" * 900 + "1", "0.\\overline{" + "1" * 1900 + "}", "|" * 1900,
    ",".join(map(str, range(400))), "x" + "'" * 1900, "\\pm" * 600, "a" * 1900, "a=" * 900, "\\{" * 900,
]  # fmt: skip


@pytest.fixture
def without_collections() -> Iterator[None]:
    """No garbage collection during measurements: a full one takes a tenth of a second."""
    gc.disable()
    yield
    gc.enable()


def written(parts: list[tuple[str, int]], longest: int) -> str:
    """An answer of repeated pieces, up to a maximum length."""
    return "".join((unit * times)[: longest // len(parts)] for unit, times in parts)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(answers)
def test_no_answer_makes_a_parser_raise(parts: list[tuple[str, int]]) -> None:
    text = written(parts, 2500)
    for reader in READERS.values():
        reader(text)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("without_collections")
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(answers)
def test_ten_thousand_answers_take_any_parser_less_than_a_tenth_of_a_second(parts: list[tuple[str, int]]) -> None:
    text = written(parts, 8_000)
    for name, reader in READERS.items():
        started = time.thread_time()
        reader(text)
        if time.thread_time() - started > 0.1:  # once more, for the garbage collector and other threads
            started = time.thread_time()
            reader(text)
            assert time.thread_time() - started < 0.1, name


@pytest.mark.soak
@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "frame", [("", ""), ("the answer is ", "x!"), ("\\boxed{", "}"), ("Paris ", "x"), ("\\boxed{5", " cm}")]
)
def test_parsing_time_grows_less_than_quadratically(unit: str, frame: tuple[str, str]) -> None:
    for name, reader in READERS.items():
        took = []
        for size in (10_000, 40_000):
            text = frame[0] + unit * (size // len(unit)) + frame[1]
            started = time.thread_time()
            reader(text)
            took.append(time.thread_time() - started)
        assert took[1] < max(0.1, 8 * took[0]), (name, took)  # 4 where linear, 16 where quadratic


@pytest.mark.parametrize("answer", BOXED_BOMBS)
@pytest.mark.parametrize("gold", ["7", r"\{1, 2\}"])
async def test_a_boxed_bomb_has_a_verdict(gold: str, answer: str) -> None:
    assert (await verify(gold, f"\\boxed{{{answer}}}"))[0] in ("wrong", "unparsed", "timeout")


WITHOUT_EVALUATION = r"""
import sys
from operators.math.answers.comparison import compare
from operators.math.answers.forms import read
from tests.operators.math.answers.hard_pairs import hard_pairs

hostile = ["__import__('os').system('id')", "exec('1')", "(lambda: 1)()", "x.__class__", "open('/etc/passwd')", "f'{1}'", "1 if 1 else 2",
           r"\text{__import__('os')}", "Symbol('x')", "eval(1)", "[i for i in (1,2)]", "{}.__class__", "x:=1"]
pairs = [(gold, answer[7:-1]) for gold, answer, _ in hard_pairs()]
seen = []

def forms():
    for gold, answer in [*pairs, *(("x", each) for each in hostile)]:
        one, other = read(gold), read(answer)
        if one and other:
            compare(one, other)

forms()  # imports, which run code
sys.addaudithook(lambda event, _: seen.append(event) if event in ("compile", "exec", "import", "open", "os.system") else None)
forms()
assert seen == [], seen
assert not {"sympy", "math_verify"} & sys.modules.keys()
print("nothing was evaluated")
"""


def test_no_answer_is_evaluated_or_reaches_sympy() -> None:
    found = subprocess.run([sys.executable, "-c", WITHOUT_EVALUATION], capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout == "nothing was evaluated\n", found.stderr


BOMBS = {"deep": "[" * 100_000, "long": "9" * 5000, "fine": "41", "shallow": "[1]"}


@pytest.mark.usefixtures("in_process")
class TestACarelessOperator:
    """An exception over an answer rejects the row; if that happens on most rows, the step fails."""

    def run(self, registry: Registry, server: ChatServer, words: dict[str, str], **more: Any) -> Any:
        Path("words.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in words))
        server.answer = lambda prompt, seen: words[prompt.rpartition(" ")[2]]
        document = {
            "name": "demo",
            "models": {"teacher": json.loads(server.model())},
            "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
            "steps": {"numbers": {"op": "ask_number", "in": "words", "max_reject_ratio": 0.9}},
        }
        return run_text(json.dumps(document), registry, **more)

    def test_rejects_the_row_with_the_reason(self, registry: Registry, chat_server: ChatServer) -> None:
        self.run(registry, chat_server, BOMBS)
        assert ask(registry, 'select text from "demo/numbers" order by text') == [("42",), ("[1]",)]
        reasons = [reason for (reason,) in ask(registry, "select reason from rejects order by reason")]
        assert ["raised RecursionError: " in reasons[0], "4300 digits" in reasons[1]] == [True, True]

    def test_ends_the_step_where_it_fails_on_most_rows(self, registry: Registry, chat_server: ChatServer) -> None:
        result = self.run(registry, chat_server, {"one": "forty", "words": "forty-one"})
        assert result.state == "failed"
        assert "2 of 2 rows were rejected" in str(result.error)
        assert "ask_number raised ValueError: invalid literal" in str(result.error)

    def test_is_called_again_with_retry_rejects(self, registry: Registry, chat_server: ChatServer) -> None:
        self.run(registry, chat_server, BOMBS)
        self.run(registry, chat_server, {**BOMBS, "deep": "1"}, retry_rejects=True)
        assert ask(registry, 'select text from "demo/numbers" order by text') == [("2",), ("42",), ("[1]",)]
