"""How many tokens an answer may have, where the pipeline leaves it open: more, once a model turns out to reason."""

from __future__ import annotations

import re
from dataclasses import replace

from engine.llm.journal.answers import Answers
from engine.llm.types.completions import Completion
from engine.llm.types.errors import RequestError
from engine.llm.types.model_spec import DEFAULT_MAX_TOKENS, REASONING_MAX_TOKENS, ModelSpec
from engine.llm.types.requests import Request
from registry.counted import counted

_TOO_MANY = re.compile(
    r"max_?(completion_|output_|new_)?tokens|context.?(length|window|size)|too (large|long|many)", re.IGNORECASE
)
"""Words of a refusal that may be about the length of the answer. A refusal costs nothing, so asking again does no harm."""


class AnswerLength:
    """The length of a model's answers, where the pipeline sets no `max_tokens`.

    The default is too short for reasoning. So when it cuts off an answer of a model that reasons, the answer is asked for
    again, with room for the reasoning, and so are all later ones. Keys keep the default.

    Args:
        spec: the model.
        identity: the values that determine the model's answers.
        answers: the journal; its notes keep that the model reasons.

    Attributes:
        notes: notes for the user.
    """

    def __init__(self, spec: ModelSpec, identity: str, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._note = f"reasons {spec.answered_by} {identity}"
        self._answers = answers
        self._recalled = False
        self._most: int | None = None
        self._accepted = 0
        self._of_request: dict[str, int] = {}

    async def fitted(self, request: Request) -> Request:
        """The request with the length that is to be sent."""
        if not self._is_open(request):
            return request
        if not self._recalled:
            self._recalled = True
            if (await self._answers.notes(self._note)).get(self._note):
                self._most = REASONING_MAX_TOKENS
        most = self._of_request.get(request.key, self._most)
        return request if most is None else replace(request, most=most)

    async def cuts_reasoning(self, request: Request, answer: Completion) -> bool:
        """Whether an answer was cut off by the default although its model reasons, so that it has to be asked for again."""
        if not self._is_open(request) or not answer.reasons:
            return False
        if request.most is not None:
            self._accepted = max(self._accepted, request.most)
        if not answer.truncated or request.most is not None:
            return False
        if self._most is None:
            self._most = REASONING_MAX_TOKENS
            self.notes.append(
                f"{self._spec.model} at {self._spec.endpoint} reasons, and max_tokens is not set: its answers may have "
                f"{counted(REASONING_MAX_TOKENS, 'token')}, reasoning included, instead of {DEFAULT_MAX_TOKENS}"
            )
            await self._answers.note(self._note, "true")
        return True

    def is_shortened(self, request: Request, error: RequestError) -> bool:
        """Whether a refusal may be due to the length, so that the request has to be sent again with half of it."""
        if not error.refused or request.most is None or request.most <= DEFAULT_MAX_TOKENS or not _TOO_MANY.search(str(error)):
            return False
        half = max(DEFAULT_MAX_TOKENS, request.most // 2)
        self._of_request[request.key] = half
        if self._accepted < request.most and self._most is not None:  # else it is the prompt that leaves no room for it
            self._most = min(self._most, half)
        return True

    def _is_open(self, request: Request) -> bool:
        return self._spec.leaves_length_open and request.sampling["max_tokens"] == DEFAULT_MAX_TOKENS
