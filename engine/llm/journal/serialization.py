"""Answers as texts in the journal, and back."""

from __future__ import annotations

from engine.llm.types.completions import Completion, without_thinking
from engine.llm.types.errors import RequestError
from engine.llm.types.finish_reason import USABLE, USABLE_AS, ending


def encode_answer(completion: Completion) -> str:
    """An answer as the text that the journal stores.

    Raises:
        RequestError: the text would not read back as the same answer. Stored, it would fail every run that finds it.
    """
    try:
        text = completion.model_dump_json(exclude_defaults=True)
        if Completion.model_validate_json(text) == completion:
            return text
        detail = "it would not read back as the same answer"
    except ValueError as error:
        detail = str(error).partition("\n")[0]
    counts = ("tokens_in", "tokens_out", "tokens_cached", "tokens_written", "tokens_reasoning")
    nothing = Completion(text="", finish_reason="unknown").model_copy(
        update={each: getattr(completion, each) for each in counts}
    )
    raise RequestError(f"the answer cannot be stored: {detail}", nothing)


def decode_answer(text: str | None) -> Completion | None:
    """The answer in a stored text; None if it is not a usable answer. Older versions stored some that are not."""
    try:
        answer = None if text is None else Completion.model_validate_json(text)
    except ValueError:
        return None
    if answer is None:
        return None
    if answer.reasoning is None:  # before 0.4, it stayed in the text
        text, reasoning = without_thinking(answer.text)
        answer = answer if reasoning is None else answer.model_copy(update={"text": text, "reasoning": reasoning})
    if answer.is_empty:  # before 0.4, reasoning that never ended could be all of it
        return None
    if answer.finish_reason in USABLE:
        return answer
    usable = USABLE_AS.get(ending(answer.finish_reason))
    return answer.model_copy(update={"finish_reason": usable}) if usable else None
