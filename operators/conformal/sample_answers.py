"""Ask a question several times: the answers and their frequencies are all that LofreeCP needs from a model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from engine.operator import (
    Capabilities,
    ChatModel,
    Completion,
    Context,
    InputTypes,
    Params,
    Reject,
    StepError,
    Table,
    derived,
    operator,
    render,
    template,
)
from operators.conformal.compatibility import differences, refusal
from operators.conformal.equivalence import LETTERS, reading, right_options
from operators.conformal.theory import is_stable
from operators.records import Calibration, Question, SampledAnswers, Sampling
from registry.counted import counted

_MOST_OPTIONS = len(LETTERS)
_ALTERNATIVES = 20

_REFUSED = "refused by the server"
"""In place of a sampling parameter that was not sent."""
UNLIKELY = -100.0
"""The log-probability of an option whose letter is not among the most likely tokens."""


PROMPT = """\
Answer the question with {{ "the letter of the right option" if options else "a name, a number or a few words" }}, \
and nothing else.

Question: {{ question }}
{% for option in options %}{{ "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[loop.index0] }}. {{ option }}
{% endfor %}Answer:"""


def _pattern(text: str | None) -> str | None:
    if text is not None:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"not a valid regular expression: {error}") from error
    return text


class SampleParams(Params):
    """Parameters of sample_answers."""

    samples: Annotated[int, Field(ge=2, le=1000)] = 20
    at_least: Annotated[int, Field(ge=2)] | None = None
    patience: Annotated[int, Field(ge=1)] = 5
    logprobs: bool = False
    prompt: Annotated[str | None, template("question", "options", builtin=PROMPT)] = None
    answer_pattern: Annotated[str | None, AfterValidator(_pattern)] = None

    def calls(self) -> dict[str, int]:
        """One call for each sample."""
        return {"model": self.samples}

    def capabilities(self) -> Capabilities:
        """Different answers to the same prompt, and log-probabilities if requested."""
        return {"model": ["sampling", "logprobs"] if self.logprobs else ["sampling"]}

    def prompt_bytes(self) -> int:
        """The size of the template; the rest of a prompt is the row's text."""
        return len((self.prompt or PROMPT).encode())

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """A minimum above the maximum number of samples."""
        if self.at_least is not None and self.at_least > self.samples:
            yield f"at_least is {self.at_least}, more than samples ({self.samples})"


@operator(outputs={"samples": SampledAnswers})
async def sample_answers(
    question: Question,
    ctx: Context,
    model: ChatModel,
    params: SampleParams,
    calibration: Table[Calibration] | None = None,
) -> AsyncIterator[SampledAnswers]:
    """Sample a model's answers to a question.

    For questions with options, the prompt asks for a letter. The model must sample: a temperature of 0 is an error, and a
    server that ignores the temperature is detected before the step starts (and by cp_calibrate, where samples that are all
    equal are an error). A question is rejected if one of its samples fails.

    Calibration questions and new questions must be sampled in the same way. Samples record how they were made (`made`), and
    cp_predict compares this with the calibration. With the input `calibration`, the comparison happens before the first call.

    Metrics: `answers`, the number of samples; `cut_off`, the number cut off at max_tokens.

    Source: LofreeCP (arXiv 2403.01216), section 3, which takes 20 to 30 samples.

    Args:
        calibration: the calibration that these samples will be used with.
        samples: the number of samples; with at_least, the largest number.
        at_least: sample adaptively: take at least this many samples, and stop when the last `patience` samples brought no new
            answer (in the sense of `qa`) and did not change the most frequent one. The rule depends only on the samples, so
            sets that are calibrated with it keep their guarantee.
        patience: see at_least; also the number of samples requested at a time after the first ones.
        logprobs: whether to request log-probabilities, for the baseline that is calibrated on them.
        prompt: a template with {{ question }} and {{ options }} (a list) that replaces the built-in one.
        answer_pattern: a regular expression that extracts the answer from a longer text: the first nonempty group of its first
            match, or the whole match. A text without a match stays as it is.
    """
    used_prompt = params.prompt or PROMPT
    if question.options is not None and not 2 <= len(question.options) <= _MOST_OPTIONS:
        raise Reject(f"it has {counted(question.options, 'option')}; expected 2 to {_MOST_OPTIONS}")
    if question.options and question.answers and not right_options(question.answers, question.options):
        raise Reject(f"its options do not include the accepted answer {' or '.join(map(repr, question.answers))}")
    text = render(used_prompt, question=question.question, options=question.options or [])
    pattern = None if params.answer_pattern is None else re.compile(params.answer_pattern)
    calibrated = _made_for(calibration) if calibration else None
    if calibrated and (found := differences(calibrated, _made(model, params, _not_sent(calibrated)))):
        raise StepError(refusal(found))
    answers = await _sampled(model, text, pattern, question.options, params)
    made = _made(model, params, {name for answer in answers for name in answer.left_out})
    if calibrated and (found := differences(calibrated, made)):
        raise StepError(refusal(found))
    ctx.count("answers", by=len(answers))
    if cut := sum(answer.truncated for answer in answers):
        ctx.count("cut_off", by=cut)
    first = next((each.logprobs for each in answers if each.logprobs), None)
    record = SampledAnswers(
        **question.model_dump(),
        samples=[_answer(each.text, pattern) for each in answers],
        logprobs=[_mean(answer) for answer in answers] if params.logprobs else None,
        option_logprobs=_options(first[0].top, len(question.options))
        if params.logprobs and question.options and first
        else None,
        made=made,
    )
    yield derived(record, *answers)


async def _sampled(
    model: ChatModel,
    prompt: str,
    pattern: re.Pattern[str] | None,
    options: Sequence[str] | None,
    params: SampleParams,
) -> list[Completion]:
    asked = _ALTERNATIVES if params.logprobs else None
    answers = await model.samples(prompt, params.at_least or params.samples, logprobs=asked)
    read = reading("qa", options)
    while len(answers) < params.samples and not is_stable(
        [read(_answer(each.text, pattern)).form for each in answers], params.patience
    ):
        more = min(params.patience, params.samples - len(answers))
        answers += await model.samples(prompt, more, first=len(answers), logprobs=asked)
    return answers


def _answer(text: str, pattern: re.Pattern[str] | None) -> str:
    found = pattern.search(text) if pattern else None
    if found is None:
        return text.strip()
    return next((group for group in found.groups() if group), found[0]).strip()


def _mean(answer: Completion) -> float:
    """The mean log-probability of an answer's tokens; 0 for an empty answer."""
    tokens = answer.logprobs or ()
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else 0.0


def _options(top: dict[str, float], number: int) -> list[float]:
    """The log-probability of each option, summed over all tokens that are its letter, with or without blanks and brackets."""
    shares = [0.0] * number
    for token, logprob in top.items():
        letter = token.strip().strip("().:").upper()
        if len(letter) == 1 and letter in LETTERS[:number]:
            shares[LETTERS.index(letter)] += math.exp(logprob)
    return [max(math.log(share), UNLIKELY) if share > 0 else UNLIKELY for share in shares]


def _made_for(calibration: Table[Calibration]) -> Sampling | None:
    known = calibration.arrow.column("made")[0].as_py()  # the other columns are long, and this runs for every question
    return None if known is None else Sampling(**known)


def _not_sent(made: Sampling) -> set[str]:
    """The parameters that the server refused when a calibration was made. Only an answer shows whether it still does."""
    return {name for name, value in json.loads(made.sampling).items() if value == _REFUSED}


def _made(model: ChatModel, params: SampleParams, not_sent: Collection[str]) -> Sampling:
    spec = model.spec
    sampling = {name: value for name, value in spec.sampling().items() if name != "seed"} | {"system": spec.system}
    sampling |= {name: _REFUSED for name in not_sent if name != "seed"}
    return Sampling(
        model=f"{spec.endpoint} {model.identity}",
        prompt=params.prompt or PROMPT,
        sampling=json.dumps({name: value for name, value in sampling.items() if value is not None}, sort_keys=True),
        samples=params.samples,
        at_least=params.at_least,
        patience=None if params.at_least is None else params.patience,
        answer_pattern=params.answer_pattern,
    )
