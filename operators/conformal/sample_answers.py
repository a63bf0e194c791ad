"""Ask a question several times: what comes back, and how often, is all that LofreeCP needs of a model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from engine.errors import EngineError
from engine.llm.chat import ChatModel
from engine.llm.types.completions import Completion
from engine.operator import Context, Reject, Table, derived, operator
from engine.operator.prompts import prompt_with, render
from operators.conformal.binding import differences, refusal
from operators.conformal.equivalence import LETTERS, reading, right_options
from operators.conformal.theory import settled
from operators.records import Calibration, Question, SampledAnswers, Sampling

_MOST_OPTIONS = len(LETTERS)
_ALTERNATIVES = 20
UNLIKELY = -100.0
"""The log-probability of an option whose letter is not among the likeliest tokens."""


def _pattern(text: str | None) -> str | None:
    if text is not None:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"not a valid regular expression: {error}") from error
    return text


@operator(
    outputs={"samples": SampledAnswers},
    models=["model"],
    calls=lambda params: {"model": params.samples},
    asks=lambda params: len((params.prompt or PROMPT).encode()),
    needs=lambda params: {"model": ["sampling", "logprobs"] if params.logprobs else ["sampling"]},
    checks=lambda params, records: (
        [f"at_least is {params.at_least}, more than samples ({params.samples})"]
        if params.at_least is not None and params.at_least > params.samples
        else []
    ),
)
async def sample_answers(
    question: Question,
    ctx: Context,
    calibration: Table[Calibration] | None = None,
    *,
    samples: Annotated[int, Field(ge=2, le=1000)] = 20,
    at_least: Annotated[int, Field(ge=2)] | None = None,
    patience: Annotated[int, Field(ge=1)] = 5,
    logprobs: bool = False,
    prompt: Annotated[str | None, prompt_with("question", "options")] = None,
    answer_pattern: Annotated[str | None, AfterValidator(_pattern)] = None,
) -> AsyncIterator[SampledAnswers]:
    """Sample a model's answers to a question.

    Questions with options are asked for a letter. The model must sample: a temperature of 0 is an error, a server that ignores
    the temperature is found out before the step starts (and by cp_calibrate, which refuses samples that are all alike).
    A question of which a sample fails is rejected.

    Calibration and new questions must be sampled alike; what is sampled says how (`made`), and cp_predict compares. With the
    calibration as an input that is seen before anything is asked.

    Metrics: `answers` drawn, `cut_off` by max_tokens.

    Source: LofreeCP (arXiv 2403.01216), section 3: 20 to 30 samples there.

    Args:
        calibration: what these samples are for.
        samples: how many; with at_least, at most.
        at_least: sample adaptively: stop after so many samples or later, when the last `patience` samples have brought no new
            answer (in the sense of `qa`) and no other most frequent one. The rule looks at samples only, so sets that were
            calibrated with it keep their guarantee.
        patience: samples; they are also drawn so many at a time.
        logprobs: ask for log-probabilities, for the baseline that is calibrated on them.
        prompt: a template with {{ question }} and {{ options }} (a list) to use in place of the built-in ones.
        answer_pattern: a regular expression that takes the answer out of a longer text: what its first matching group (or the
            whole of it) matches first. A text without a match stays as it is.
    """
    model = ctx.models["model"]
    template = prompt or PROMPT
    if question.options is not None and not 2 <= len(question.options) <= _MOST_OPTIONS:
        raise Reject(f"it has {len(question.options)} options; there may be 2 to {_MOST_OPTIONS}")
    if question.options and question.answers and not right_options(question.answers, question.options):
        raise Reject(f"none of its options is the accepted answer {' or '.join(map(repr, question.answers))}")
    text = render(template, question=question.question, options=question.options or [])
    pattern = None if answer_pattern is None else re.compile(answer_pattern)
    made = _made(model, template, answer_pattern, samples, at_least, patience)
    if calibration and (found := differences(_made_for(calibration), made)):
        raise EngineError(refusal(found))
    answers = await _sampled(model, text, pattern, question.options, samples, at_least, patience, logprobs)
    ctx.count("answers", by=len(answers))
    if cut := sum(answer.truncated for answer in answers):
        ctx.count("cut_off", by=cut)
    first = next((each.logprobs for each in answers if each.logprobs), None)
    record = SampledAnswers(
        **question.model_dump(),
        samples=[_answer(each.text, pattern) for each in answers],
        logprobs=[_mean(answer) for answer in answers] if logprobs else None,
        option_logprobs=_options(first[0].top, len(question.options)) if logprobs and question.options and first else None,
        made=made,
    )
    yield derived(record, *answers)


async def _sampled(
    model: ChatModel,
    prompt: str,
    pattern: re.Pattern[str] | None,
    options: Sequence[str] | None,
    samples: int,
    at_least: int | None,
    patience: int,
    logprobs: bool,
) -> list[Completion]:
    asked = _ALTERNATIVES if logprobs else None
    answers = await model.samples(prompt, at_least or samples, logprobs=asked)
    read = reading("qa", options)
    while len(answers) < samples and not settled([read(_answer(each.text, pattern)).form for each in answers], patience):
        more = min(patience, samples - len(answers))
        answers += await model.samples(prompt, more, first=len(answers), logprobs=asked)
    return answers


def _answer(text: str, pattern: re.Pattern[str] | None) -> str:
    found = pattern.search(text) if pattern else None
    if found is None:
        return text.strip()
    return next((group for group in found.groups() if group), found[0]).strip()


def _mean(answer: Completion) -> float:
    """The log-probability of an answer per token; 0 for an empty one."""
    tokens = answer.logprobs or ()
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else 0.0


def _options(top: dict[str, float], number: int) -> list[float]:
    """The log-probability of each option: of all tokens that are its letter, with or without a blank or a bracket."""
    shares = [0.0] * number
    for token, logprob in top.items():
        letter = token.strip().strip("().:").upper()
        if len(letter) == 1 and letter in LETTERS[:number]:
            shares[LETTERS.index(letter)] += math.exp(logprob)
    return [max(math.log(share), UNLIKELY) if share > 0 else UNLIKELY for share in shares]


def _made_for(calibration: Table[Calibration]) -> Sampling | None:
    known = calibration.arrow.column("made")[0].as_py()  # the rest of it is long, and this is asked for every question
    return None if known is None else Sampling(**known)


def _made(model: ChatModel, prompt: str, pattern: str | None, samples: int, at_least: int | None, patience: int) -> Sampling:
    spec = model.spec
    sampling = {name: value for name, value in spec.sampling().items() if name != "seed"} | {"system": spec.system}
    return Sampling(
        model=f"{spec.endpoint} {model.identity}",
        prompt=prompt,
        sampling=json.dumps({name: value for name, value in sampling.items() if value is not None}, sort_keys=True),
        samples=samples,
        at_least=at_least,
        patience=None if at_least is None else patience,
        answer_pattern=pattern,
    )


PROMPT = """\
Answer the question with {{ "the letter of the right option" if options else "a name, a number or a few words" }}, \
and nothing else.

Question: {{ question }}
{% for option in options %}{{ "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[loop.index0] }}. {{ option }}
{% endfor %}Answer:"""
