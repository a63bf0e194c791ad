"""Notices servers that return the same answer for every sample of a prompt."""

from __future__ import annotations

from dataclasses import replace

from engine.llm.journal.answers import Answers
from engine.llm.types.completions import Completion
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_SAME = 5
"""Prompts with equal samples after which the server is reported."""


class SampleWatch:
    """Notices when a server returns the same answer for every sample of a prompt.

    Short answers can agree by chance, so it takes several prompts whose samples are all equal.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._same: set[str] = set()
        self._decided = False

    async def see(self, request: Request, answer: Completion) -> None:
        """Compare a new answer with the first sample of its prompt."""
        if self._decided or request.sample == 0 or answer.truncated:
            return
        if request.sampling["temperature"] == 0:
            self._decided = True
            self.notes.append("at temperature 0 all samples of a prompt are equal, and each is paid for; raise temperature")
            return
        key = replace(request, sample=0).key
        first = await self._answers.get(key)
        if first is None or first.truncated:  # the beginnings of answers agree more often than whole answers
            return
        if first.text != answer.text:
            self._decided = True
            return
        self._same.add(key)
        if len(self._same) >= _SAME:
            self._decided = True
            temperature = request.sampling["temperature"]
            at = "" if temperature is None else f" at temperature {temperature:g}"
            self.notes.append(
                f"{self._spec.model} at {self._spec.endpoint} gave the same answer to every sample of a prompt, for "
                f"{_SAME} prompts{at}: it seems not to sample, so further samples add nothing"
            )
