"""Models that answer from a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from engine.llm.types.completions import Completion
from engine.llm.types.errors import ModelError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, texts_of
from registry.counted import counted

if TYPE_CHECKING:
    from engine.llm.local.sentence_transformers import Vectors

Answer = str | Completion | BaseModel | Mapping[str, Any] | Exception
"""A text; a Completion, for instance with log-probabilities; an object, for `parse`; or an exception that the call raises."""


class ScriptError(AssertionError):
    """A script has no answer to a request, or an answer of a wrong type."""


class ScriptedModel:
    """A chat model that answers from a script, for a role of an operator.

    Args:
        script: the answer to every request; or a list of answers, one for each request in the order in which they are made;
            or a function of the prompt (the text of the last message). A function may return a list: its answers to the
            samples 0, 1, 2 and so on. An exception is raised by the call: `RequestError("refused")` rejects the row,
            unless the operator catches it.
        settings: the settings, as under `models:` in a pipeline, such as `system="Be brief."` or `max_tokens=64`.

    Attributes:
        requests: what the model was asked, with `messages`, `sampling`, `sample` and `schema`. An equal request is asked once.
    """

    def __init__(self, script: Answer | Sequence[Answer] | Callable[[str], Answer | Sequence[Answer]], **settings: Any) -> None:
        given = {"provider": "openai", "model": "scripted", "base_url": "http://scripted.invalid/v1", "retries": 0, **settings}
        self.spec = ModelSpec.model_validate(given)
        self.requests: list[Request] = []
        self.notes: list[str] = []
        self.failure: Exception | None = None
        self._script = script
        self._next = 0

    @property
    def prompts(self) -> list[str]:
        """The text of the last message of each request."""
        return [_prompt(request) for request in self.requests]

    # -- the engine's side: see engine.llm.types.provider.Provider ------------------------------------------------------

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """See Provider. Answers from the script."""
        self.requests += requests
        try:
            answers = [self._answer(request) for request in requests]
        except Exception as error:  # of the test's own code: the test must see it, whatever the operator does with it
            self.failure = self.failure or error
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [_completion(answer) for answer in answers if not isinstance(answer, Exception)]

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """See Provider. Nothing is waiting."""

    async def close(self) -> None:
        """See Provider. Nothing is open."""

    def _answer(self, request: Request) -> Answer:
        script = self._script
        if isinstance(script, Sequence) and not isinstance(script, str):
            self._next += 1
            return _checked(_at(script, self._next - 1, "requests", request))
        if not isinstance(script, str | Completion | BaseModel | Mapping | Exception):
            script = script(_prompt(request))
            if isinstance(script, Sequence) and not isinstance(script, str):
                return _checked(_at(script, request.sample, "samples", request))
        return _checked(script)


class ScriptedEncoder:
    """A sentence encoder whose vectors come from a function, for a role of an operator.

    Args:
        vector: the vector of a text, of any length but 0; it is scaled to length 1.
    """

    def __init__(self, vector: Callable[[str], Sequence[float]]) -> None:
        self.spec = ModelSpec(provider="sentence-transformers", model="scripted")
        self._vector = vector

    async def encode(self, texts: tuple[str, ...]) -> Vectors:
        """Vectors from the function."""
        import numpy as np

        rows = [np.asarray(self._vector(text), np.float32) for text in texts]
        lengths = [float(np.linalg.norm(row)) for row in rows]
        if not all(lengths):
            raise ScriptError(f"the vector of {texts[lengths.index(0)]!r:.100} has length 0")
        return (
            np.stack([row / length for row, length in zip(rows, lengths, strict=True)])
            if rows
            else np.empty((0, 1), np.float32)
        )


def _prompt(request: Request) -> str:
    return "".join(texts_of(request.messages[-1]["content"]))


def _at(script: Sequence[Answer], place: int, what: str, request: Request) -> Answer:
    if place >= len(script):
        raise ScriptError(
            f"the script has {counted(script, 'answer')}, and there are more {what}; asked: {_prompt(request)!r:.300}"
        )
    return script[place]


def _checked(answer: Answer) -> Answer:
    if not isinstance(answer, str | Completion | BaseModel | Mapping | Exception):
        expected = "a text, a Completion, a pydantic object, a dict, or an exception"
        raise ScriptError(f"the script answered with {answer!r:.200} ({type(answer).__name__}); expected {expected}")
    return answer


def _completion(answer: str | Completion | BaseModel | Mapping[str, Any]) -> Completion:
    if isinstance(answer, Completion):
        return answer.model_copy()  # each call marks its own as a source
    if isinstance(answer, BaseModel):
        return Completion(text=answer.model_dump_json())
    return Completion(text=answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
