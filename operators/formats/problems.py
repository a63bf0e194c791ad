r"""Published problems: GSM8K, whose answers end with `#### 72`, and MATH, whose solutions have their answer in `\boxed{}`."""

from __future__ import annotations

import re
from typing import Any

from engine.operator import Reject, RowFormat
from operators.formats.rows import At, LeftOut, Row, is_text, report_rest, text_at
from operators.math.answers.extraction import gold_answer
from operators.records import MathProblem

_MARK = re.compile(r"(?:\A|\n)\s*####\s*(\S[^\n]*?)\s*\Z")


def _gsm8k_fits(row: Row) -> bool:
    answer = row.get("answer")
    return is_text(row.get("question")) and isinstance(answer, str) and _MARK.search(answer) is not None


def _read_gsm8k(row: Row, left_out: LeftOut) -> dict[str, Any]:
    solution = text_at(row.get("answer"), At.field("answer"))
    found = _MARK.search(solution)
    if found is None:
        raise Reject("answer does not end with a line `#### ...`")
    if found.start():
        left_out("answer (all before ####)")
    report_rest(row, ("question", "answer", "source", "id"), left_out)
    own = {name: row[name] for name in ("source", "id") if row.get(name) is not None}
    return {"question": row.get("question"), "answer": found[1]} | own


def _math_fits(row: Row) -> bool:
    solution = row.get("solution")
    boxed = isinstance(solution, str) and "boxed" in solution
    return is_text(row.get("problem")) and row.get("question") is None and (boxed or row.get("answer") is not None)


def _read_math(row: Row, left_out: LeftOut) -> dict[str, Any]:
    used = ["problem", "answer", "source"]
    if row.get("answer") is not None:
        answer = text_at(row["answer"], At.field("answer"))
    else:
        solution = text_at(row.get("solution"), At.field("solution"))
        answer = gold_answer(solution)
        if not answer or answer == solution.strip():  # it has no box, or an open one
            raise Reject(r"solution has no answer in \boxed{}")
        used.append("solution")
        left_out(r"solution (all but \boxed)")
    name = "unique_id" if row.get("unique_id") is not None else "id"
    report_rest(row, (*used, name), left_out)
    own = {field: row[key] for field, key in (("source", "source"), ("id", name)) if row.get(key) is not None}
    return {"question": row.get("problem"), "answer": answer} | own


GSM8K = RowFormat(
    "gsm8k",
    MathProblem,
    "question, answer: a solution whose last line is `#### ` and the answer",
    frozenset({"question", "answer", "source", "id"}),
    _gsm8k_fits,
    _read_gsm8k,
    over_own=True,
)
MATH = RowFormat(
    "math",
    MathProblem,
    r"problem, solution with \boxed{}, or answer; unique_id (or id), source",
    frozenset({"problem", "solution", "answer", "question", "unique_id", "id", "source"}),
    _math_fits,
    _read_math,
)
