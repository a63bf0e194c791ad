"""Why an answer ended, in one vocabulary for all servers. An answer is whole only if the model itself ended it."""

from __future__ import annotations

from typing import Any, Literal

End = Literal["whole", "cut off", "filtered", "failed", "tools", "unknown", "unsaid"]
"""Who or what ended the answer: the model; a limit; a filter; a failure of the server; the model, to call a tool; an unknown
reason; the server does not say."""

_WORDS: dict[End, str] = {
    "whole": "stop eos eos_token end_turn stop_sequence complete",
    "cut off": (
        "length max_tokens max_output_tokens max_new_tokens max_completion_tokens max_length model_length token_limit "
        "context_length context_length_exceeded model_context_window_exceeded error_limit time_limit incomplete"
    ),
    "filtered": (
        "content_filter content_filtered filtered safety recitation blocklist prohibited_content spii image_safety language "
        "model_armor moderation guardrail guardrail_intervened sensitive blocked error_toxic refusal refused"
    ),
    "failed": (
        "error abort aborted cancelled canceled network_error server_error internal_error timeout not_finished "
        "insufficient_system_resource malformed_response"
    ),
    "tools": "tool_calls tool_call function_call tool_use",
}
_ENDS: dict[str, End] = {word: end for end, words in _WORDS.items() for word in words.split()}

USABLE_AS: dict[End, str] = {"whole": "stop", "unsaid": "stop", "cut off": "length", "tools": "tool_calls"}
"""The finish reasons of answers that operators may receive, by how the answer ended."""

USABLE = frozenset(USABLE_AS.values())


def ending(reason: Any) -> End:
    """The class of a finish reason in any server's spelling: `length`, `MAX_TOKENS`, `FinishReason.SAFETY`, ..."""
    if reason is None or reason == "":
        return "unsaid"
    if not isinstance(reason, str):
        return "unknown"
    word = reason[:100].strip().lower().replace("-", "_").replace(" ", "_")
    word = word.rpartition(".")[2].removeprefix("finish_reason_")
    return _ENDS.get(word, "unknown")
