"""Right answers are called right however they are written; nothing wrong ever is."""

from __future__ import annotations

import pytest

from operators.math.verify import as_number, final_answer, verify

CASES = [
    ("7", r"so \boxed{7}", "correct"),
    ("7", r"first \boxed{8}, no: \boxed{7}", "correct"),
    ("7", r"\boxed{7.0}", "correct"),
    ("7", r"\boxed{8}", "wrong"),
    ("72", "#### 72", "correct"),
    ("72", "71.6", "wrong"),
    ("1000", r"\boxed{1,000}", "correct"),
    ("1000", r"\boxed{1e3}", "correct"),
    ("1,234,567", "The answer is 1234567.", "correct"),
    ("-3", "The answer is \u22123", "correct"),
    ("-3", "The answer is 3", "wrong"),
    ("0.5", r"\boxed{1/2}", "correct"),
    ("0.5", r"\boxed{\frac{1}{2}}", "correct"),
    ("0.5", r"\boxed{\dfrac12}", "correct"),
    ("25", r"\boxed{25\%}", "correct"),
    ("$18", r"\boxed{18}", "correct"),
    (r"2\sqrt{3}", r"\boxed{2\sqrt{3}}", "correct"),
    (r"2\sqrt{3}", r"\boxed{2}", "wrong"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", "correct"),
    (r"(1, 2]", r"\boxed{(1,2]}", "correct"),
    (r"x+1", r"\boxed{1+x}", "correct"),
    ("7", "The answer is 3 + 4 = 7", "correct"),
    ("3", "The answer is 3 + 4 = 7", "wrong"),
    ("7", "He has 3 apples, buys 4, now 7. The answer is seven.", "correct"),
    ("5", "The answer is 5, because 2 + 3 is that.", "correct"),
    ("5", "The final answer is: 5", "correct"),
    ("7", "no number at all", "unparsed"),
    ("7", "ends in ####", "unparsed"),
    ("7", r"\boxed{}", "unparsed"),
    ("7", "", "unparsed"),
    ("7", r"\boxed{" + "9" * 5000 + "}", "wrong"),
    ("7", r"\boxed{1e99999}", "wrong"),
]


@pytest.mark.parametrize(("gold", "solution", "verdict"), CASES)
async def test_the_verdict(gold: str, solution: str, verdict: str) -> None:
    got, _ = await verify(gold, solution)
    assert got == verdict or (verdict == "wrong" and got in ("unparsed", "timeout"))


async def test_a_comparison_that_hangs_is_a_timeout_and_the_next_one_works() -> None:
    got, _ = await verify("7^{7^{7^{7}}}", r"\boxed{9^{9^{9^{9}}}}")
    assert got in ("timeout", "wrong", "unparsed")
    assert (await verify(r"\sqrt{4}", r"\boxed{2}"))[0] == "correct"


@pytest.mark.parametrize("text", ["1,00", "x", "", "1/0", "1.2.3", "1e99999", "٣x"])
def test_what_is_no_plain_number(text: str) -> None:
    assert as_number(text) is None


def test_the_last_box_counts_with_its_inner_braces() -> None:
    assert final_answer(r"\boxed{1} and \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
