"""Versions that need every kind of display: conversations, formulas, tools, pictures, changes, hostile rows."""

from __future__ import annotations

import random
from typing import Any

from registry import Registry
from tests.engine.page.stored import store
from tests.engine.page.test_values import PNG

TOPICS = ("algebra", "geometry", "number theory", "probability")
ANSWER = """We complete the square.

1. Write $x^2 - {b}x = {c}$ as $\\left(x - \\frac{{{b}}}{{2}}\\right)^2 = {c} + \\frac{{{b}^2}}{{4}}$.
2. Take the root of **both** sides.

$$x = \\frac{{{b} \\pm \\sqrt{{{b}^2 + 4 \\cdot {c}}}}}{{2}}$$

| root | sign |
|------|-----:|
| larger | + |
| smaller | - |
"""
WEATHER = '{"city": "Rome", "days": [1, 2]}'


def add_showcase(registry: Registry) -> None:
    """Add the versions to a registry."""
    store(registry, "tutor/chats", conversations(60))
    rows = problems(400)
    store(registry, "tutor/problems", rows)
    changed = [
        {**row, "answer": f"{row['answer']} (checked)", "score": 5} if place % 9 == 0 else row for place, row in enumerate(rows)
    ]
    store(registry, "tutor/problems", [*changed[:150], *changed[160:], *problems(410)[400:]])
    store(registry, "hostile/rows", hostile())


def conversations(count: int) -> list[dict[str, Any]]:
    """Conversations with formulas, reasoning and tools."""
    draw = random.Random(1)
    rows = []
    for number in range(count):
        b, c = draw.randrange(2, 20, 2), draw.randrange(1, 50)
        asked = f"Solve $x^2 - {b}x = {c}$ and show each step."
        turns: list[dict[str, Any]] = [turn("system", "You are a patient tutor."), turn("user", asked)]
        if number % 3 == 1:
            turns.append(
                turn(
                    "assistant",
                    "",
                    thinking="A look at the forecast first.",
                    tool_calls=[{"function": {"name": "forecast", "arguments": WEATHER}}],
                )
            )
            turns.append(turn("tool", '{"sunny": true}', tool_call_id="call-1"))
        turns.append(turn("assistant", ANSWER.format(b=b, c=c), thinking=f"The discriminant is {b * b + 4 * c}."))
        rows.append({"messages": turns, "topic": TOPICS[number % 4], "score": round(draw.random() * 5, 2)})
    return rows


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    """A turn with the fields of all turns."""
    return {"role": role, "content": content, "thinking": None, "tool_calls": None, "tool_call_id": None} | more


def problems(count: int) -> list[dict[str, Any]]:
    """Problems whose answers have many lengths, and categories."""
    draw = random.Random(2)
    return [
        {
            "question": f"Problem {number}: what is {draw.randrange(99)} times {draw.randrange(99)}?",
            "answer": " ".join(["It follows step by step."] * max(1, round(draw.lognormvariate(1, 0.7)))),
            "topic": draw.choices(TOPICS, (8, 4, 2, 1))[0],
            "score": draw.randrange(1, 6),
            "source": "book" if draw.random() < 0.8 else None,
        }
        for number in range(count)
    ]


def hostile() -> list[dict[str, Any]]:
    """Rows with text that tries to run or to change the page."""
    texts = [
        "<script>document.title = 'taken'</script>",
        "<img src=x onerror=\"document.title='taken'\">",
        "red \x1b[31m and \x07 bell, \u202egnp.exe",
        "שלום עולם, and from left to right again",
        "مرحبا بالعالم",
        "[click](javascript:document.title='taken') ![pixel](http://127.0.0.1:1/pixel.png)",
        "word " * 20_000,
        PNG,
        "data:image/svg+xml;base64,PHN2Zz48c2NyaXB0PmFsZXJ0KDEpPC9zY3JpcHQ+PC9zdmc+",
    ]
    return [{"text": text, "nested": {"deep": [{"er": [text[:20], None]}]}, "n": number} for number, text in enumerate(texts)]
