"""What the scripted server answers in the pictures of docs: answers to the prompts of the recipe best-of-n, and judgements.

An answer has the first sentences of those below, one to four of them; a judge likes longer ones better.
"""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

_SENTENCES = {
    "Explain why the sky is blue.": (
        "Sunlight is a mix of all colours, and air scatters short waves far more than long ones.",
        "Blue light, which has short waves, is sent in all directions, so it reaches us from the whole sky.",
        "Violet is scattered even more, but the sun sends less of it and our eyes are less sensitive to it.",
        "At sunset the light comes a longer way through air: most of the blue is lost, and what is left is red.",
    ),
    "How do vaccines work?": (
        "A vaccine shows the immune system a harmless part of a germ, or the instructions for making it.",
        "The body answers with antibodies and with T cells that recognise this part.",
        "Some of these cells remain for years as a memory.",
        "When the real germ comes, they respond within hours instead of days, mostly before one falls ill.",
    ),
    "What is the difference between a list and a tuple in Python?": (
        "A list can be changed after it was made, and a tuple cannot.",
        "So a tuple can be a key of a dictionary or a member of a set, if all of its items can.",
        "Lists are for many items of one kind; tuples for a few that belong together, such as `(x, y)`.",
        "Use `[1, 2]` for a list and `(1, 2)` for a tuple; a tuple of one item needs a comma: `(1,)`.",
    ),
    "Give three tips for writing a clear email.": (
        "First, put what you want into the subject and the first sentence.",
        "Second, write about one matter, in short paragraphs or a list.",
        "Third, end with who does what by when.",
        "Read it once aloud before you send it: where you stumble, others will, too.",
    ),
    "Why do leaves change colour in autumn?": (
        "Leaves are green because of chlorophyll, which trees renew all summer.",
        "When days get shorter, they stop, and the chlorophyll is broken down.",
        "Yellow and orange carotenoids, which were there all the time, become visible.",
        "Red anthocyanins are made anew in some species, from sugar that cold nights hold back in the leaves.",
    ),
    "How does a bill become a law?": (
        "In the United States, a member of Congress introduces the bill, and a committee examines it.",
        "If the committee approves it, the whole chamber debates and votes; then the other chamber does the same.",
        "Both must pass the same text before it goes to the President.",
        "The President signs it, or vetoes it; two thirds of both chambers can override a veto.",
    ),
}
_REASONS = (
    "It is right, but it stops after the first step.",
    "It gives the main reason and leaves out what follows from it.",
    "It is right and almost complete; a closing example would help.",
    "It is right, complete and easy to follow.",
)


def answer(body: dict[str, Any], number: int) -> str:
    """An answer to a prompt, or a judgement of one; `number` counts the answers to the same request."""
    prompt = str(body["messages"][-1]["content"])
    if prompt in _SENTENCES:
        length = 1 + (crc32(prompt.encode()) + number) % 4
        return " ".join(_SENTENCES[prompt][:length])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    length = sum(sentence in prompt for sentences in _SENTENCES.values() for sentence in sentences)
    if not length:  # the engine asks whether the server samples, and whether it knows schemas
        return json.dumps(dict.fromkeys(schema["properties"], "Paris")) if schema else str(number)
    scores = {"score": 2 * length + crc32(prompt.encode()) % 2, "reason": _REASONS[length - 1]}
    return json.dumps({name: scores[name] for name in schema["properties"]})
