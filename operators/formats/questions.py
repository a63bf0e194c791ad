"""Published questions: MMLU, SQuAD, TriviaQA, and questions with one answer or a list of them."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from engine.operator import Reject, RowFormat
from operators.formats.rows import At, LeftOut, Row, is_text, kind_of, report_rest, text_at
from operators.records import ConflictItem, Question

_ANSWER, _ANSWERS, _CHOICES = At.field("answer"), At.field("answers"), At.field("choices")


def _asked(row: Row) -> bool:
    return is_text(row.get("question"))


def _distinct(values: Iterable[Any], at: At) -> list[str]:
    """The texts, each once, in their order."""
    return list(dict.fromkeys(text_at(value, at.item(place)) for place, value in enumerate(values)))


def _own(row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    return {field: row[name] for field, name in names.items() if row.get(name) is not None}


# -- MMLU -------------------------------------------------------------------------------------------------------------


def _mmlu_fits(row: Row) -> bool:
    answer = row.get("answer")
    whole = isinstance(answer, int) and not isinstance(answer, bool)
    return _asked(row) and isinstance(row.get("choices"), list) and whole


def _read_mmlu(row: Row, left_out: LeftOut) -> dict[str, Any]:
    """The answer is given by its letter where its text would not name it: it has blanks around it, or two choices have it."""
    options = [text_at(value, _CHOICES.item(place)) for place, value in enumerate(row["choices"])]
    right = row["answer"]
    if not 0 <= right < min(len(options), 26):
        raise Reject(f"answer is {right!r:.40}, not the number of one of the {len(options)} choices, from 0")
    report_rest(row, ("question", "choices", "answer", "subject", "id"), left_out)
    text = options[right]
    answer = text if options.count(text) == 1 and text == text.strip() else string.ascii_uppercase[right]
    return {"question": row["question"], "answers": [answer], "options": options} | _own(row, {"group": "subject", "id": "id"})


# -- SQuAD ------------------------------------------------------------------------------------------------------------


def _squad_fits(row: Row) -> bool:
    answers = row.get("answers")
    return _asked(row) and isinstance(answers, Mapping) and isinstance(answers.get("text"), list)


def _read_squad(row: Row, left_out: LeftOut) -> dict[str, Any]:
    answers = row["answers"]
    if not answers["text"]:
        raise Reject("answers.text is empty: the question has no answer")
    report_rest(row, ("question", "answers", "id"), left_out)
    report_rest(answers, ("text", "answer_start"), left_out, _ANSWERS)
    found = _distinct(answers["text"], _ANSWERS.part("text"))
    return {"question": row["question"], "answers": found} | _own(row, {"id": "id"})


# -- TriviaQA ---------------------------------------------------------------------------------------------------------


def _trivia_fits(row: Row) -> bool:
    return _asked(row) and isinstance(row.get("answer"), Mapping) and "value" in row["answer"]


def _read_trivia(row: Row, left_out: LeftOut) -> dict[str, Any]:
    answer = row["answer"]
    report_rest(row, ("question", "answer", "question_id"), left_out)
    report_rest(answer, ("value", "aliases"), left_out, _ANSWER)
    aliases = answer.get("aliases") or []
    if not isinstance(aliases, list):
        raise Reject(f"answer.aliases is {kind_of(aliases)}, not a list")
    value = text_at(answer.get("value"), _ANSWER.part("value"))
    answers = list(dict.fromkeys([value, *_distinct(aliases, _ANSWER.part("aliases"))]))
    return {"question": row["question"], "answers": answers} | _own(row, {"id": "question_id"})


# -- one answer or some -----------------------------------------------------------------------------------------------


def _plain_fits(row: Row) -> bool:
    answer = row.get("answer")
    some = isinstance(answer, list) and bool(answer) and all(map(is_text, answer))
    return _asked(row) and row.get("choices") is None and (is_text(answer) or some)


def _read_plain(row: Row, left_out: LeftOut) -> dict[str, Any]:
    answer = row.get("answer")
    answers = _distinct(answer, _ANSWER) if isinstance(answer, list) else [text_at(answer, _ANSWER)]
    report_rest(row, ("question", "answer", "group", "id"), left_out)
    return {"question": row.get("question"), "answers": answers} | _own(row, {"group": "group", "id": "id"})


# -- PoisonedRAG ------------------------------------------------------------------------------------------------------

_POISONED = {"correct_answer": "correct answer", "incorrect_answer": "incorrect answer", "poisoned": "adv_texts"}


def _poisoned_fits(row: Row) -> bool:
    return _asked(row) and isinstance(row.get("adv_texts"), list) and "correct answer" in row and "incorrect answer" in row


def _read_poisoned(row: Row, left_out: LeftOut) -> dict[str, Any]:
    report_rest(row, ("question", "id", *_POISONED.values()), left_out)
    return _own(row, {"question": "question", "id": "id"} | _POISONED)


MMLU = RowFormat(
    "mmlu",
    Question,
    "question, choices: [text], answer: the number of the right one, from 0; subject",
    frozenset({"question", "choices", "answer", "subject", "id"}),
    _mmlu_fits,
    _read_mmlu,
)
SQUAD = RowFormat(
    "squad",
    Question,
    "question, answers: {text: [text], answer_start}; id",
    frozenset({"question", "answers", "id"}),
    _squad_fits,
    _read_squad,
)
TRIVIAQA = RowFormat(
    "triviaqa",
    Question,
    "question, answer: {value, aliases: [text]}; question_id",
    frozenset({"question", "answer", "question_id"}),
    _trivia_fits,
    _read_trivia,
)
ANSWER = RowFormat(
    "question_answer",
    Question,
    "question, answer: a text or a list of texts; group, id",
    frozenset({"question", "answer", "choices", "group", "id"}),
    _plain_fits,
    _read_plain,
)
POISONEDRAG = RowFormat(
    "poisonedrag",
    ConflictItem,
    "question, correct answer, incorrect answer, adv_texts: [text]; id",
    frozenset({"question", "id", *_POISONED.values()}),
    _poisoned_fits,
    _read_poisoned,
)
