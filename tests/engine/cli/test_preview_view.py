"""A preview on a terminal: side by side, shortened, and harmless whatever a model answers."""

from __future__ import annotations

import io
import json

from engine.cli.output import SafeConsole
from engine.cli.preview_view import preview_document, print_preview, print_step
from engine.plain_values import as_json
from engine.previewing.results import Forecast, Interval, Preview, PreviewCall, PreviewRow, PreviewStep, Sampled, StepForecast

CALL = PreviewCall(
    "c1", "teacher", "m", ({"role": "user", "content": "Say\x1b[2J it"},), "Yes\u202e, " + "really " * 60, 10, 5, 900.0, 0.01
)
STEP = PreviewStep(
    "said",
    "ask_once",
    "previewed",
    rows_in=3,
    rows_out={"out": 1},
    filtered=1,
    rejected=1,
    reasons={"no\x07 good": 1},
    calls=3,
    rows=(
        PreviewRow((0,), {"text": "[red]hi[/red]", "id": "7"}, (CALL,), (("out", {"text": "hello", "id": "7"}),)),
        PreviewRow((1,), {"text": "two"}, (CALL, CALL), (), "no\x07 good"),
        PreviewRow((2,), {"text": "three"}, (CALL,), ()),
    ),
)


def printed(step: PreviewStep, most: int = 10, *, full: bool = False) -> str:
    """A step as it is printed."""
    console = SafeConsole()
    console.file = io.StringIO()
    print_step(step, most, console, full=full)
    return console.file.getvalue()


def test_a_row_is_shown_with_prompt_answer_and_what_is_new_in_the_output() -> None:
    shown = printed(STEP)
    assert "said: ask_once, 3 rows in, 1 out; 1 filtered; 1 rejected (1 x no\\x07 good); 3 calls" in shown
    assert "text: [red]hi[/red]" in shown
    assert "text: hello" in shown
    assert shown.count("id: 7") == 1
    assert "rejected: no\\x07 good" in shown
    assert "2. the same" in shown


def test_nothing_in_it_moves_the_cursor_or_turns_text_around() -> None:
    for full in (False, True):
        shown = printed(STEP, full=full)
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
        assert "\\x1b" in shown


def test_long_texts_and_many_rows_are_cut_unless_all_is_asked_for() -> None:
    assert printed(STEP).count("really") < 4 * 60
    assert "…" in printed(STEP)
    assert printed(STEP, full=True).count("really") == 4 * 60
    assert "and 2 more (--full shows all)" in printed(STEP, most=1)
    assert "three" in printed(STEP, most=1, full=True)


def test_the_summary_and_the_document() -> None:
    three = Interval(1234.0, 1000.0, 1500.0)
    step = StepForecast("said", "ask_once", three, three, three, three, three, three, "preview of 3 rows")
    forecast = Forecast((step, StepForecast("train", "train_sft")), three, three, three, three, ("train",))
    made = Preview("demo", 3, "done", (Sampled("words", 4000, 3),), (STEP,), forecast, 1.5)
    console = SafeConsole()
    console.file = io.StringIO()
    print_preview(made, console)
    shown = console.file.getvalue()
    assert "3 of 4,000 rows of words" in shown
    assert "1,230 (1,000 to 1,500)" in shown
    assert "Not in the sums: train." in shown
    document = json.loads(as_json(preview_document(made)))
    assert document["steps"][0]["rows"][0]["outputs"] == [{"output": "out", "row": {"text": "hello", "id": "7"}}]
    assert document["steps"][0]["rows"][1]["rejected"] == "no\x07 good"
    assert document["forecast"]["steps"][0]["calls"] == {"expected": 1234.0, "low": 1000.0, "high": 1500.0}
    assert document["forecast"]["steps"][1]["calls"] is None
    assert document["sampled"] == [{"name": "words", "rows": 4000, "drawn": 3}]
