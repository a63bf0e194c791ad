"""All formats of the package's record types. The order in which those of a type are tried makes no difference."""

from __future__ import annotations

from operators.formats import alpaca, openai, preferences, problems, prompt_response, questions, sharegpt, trl, verl

FORMATS = (
    *(openai.SFT, sharegpt.SFT, alpaca.SFT, trl.SFT, prompt_response.SFT, verl.SFT),
    *(openai.PAIRS, sharegpt.PAIRS, alpaca.PAIRS, trl.PAIRS, trl.IMPLICIT_PAIRS, prompt_response.PAIRS),
    *(preferences.ULTRAFEEDBACK, preferences.BINARIZED, preferences.HH),
    *(sharegpt.LABELLED, alpaca.LABELLED, trl.LABELLED, prompt_response.LABELLED),
    *(problems.GSM8K, problems.MATH, verl.PROBLEMS),
    *(questions.MMLU, questions.SQUAD, questions.TRIVIAQA, questions.ANSWER, verl.QUESTIONS),
    questions.POISONEDRAG,
)
