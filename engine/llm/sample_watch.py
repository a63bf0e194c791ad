"""Watch."""

from __future__ import annotations

from dataclasses import replace

from engine.llm.journal.answers import Answers
from engine.llm.types.completions import Completion
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_SAME = 5


class SampleWatch:
    """Notices when a server that is asked for several samples gives the same answer again and again.

    Short answers agree by chance, so it takes several prompts of which no two samples differ.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._same: set[str] = set()
        self._settled = False

    async def see(self, request: Request, answer: Completion) -> None:
        """Look at a new answer."""
        if self._settled or request.sample == 0 or answer.truncated:
            return
        if request.sampling["temperature"] == 0:
            self._settled = True
            self.notes.append("at temperature 0 all samples of a prompt are the same answer, each paid for; raise temperature")
            return
        key = replace(request, sample=0).key
        first = await self._answers.get(key)
        if first is None or first.truncated:  # beginnings agree more often than answers
            return
        if first.text != answer.text:
            self._settled = True
            return
        self._same.add(key)
        if len(self._same) >= _SAME:
            self._settled = True
            self.notes.append(
                f"{self._spec.model} at {self._spec.endpoint} gave the same answer to every sample of a prompt, for "
                f"{_SAME} prompts at temperature {request.sampling['temperature']:g}: it seems not to sample, so more "
                "samples tell nothing more"
            )
