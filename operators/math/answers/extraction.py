"""Finds the final answer in a solution, and the bare gold answer in a dataset's text.

Models write these texts, so everything here must take linear time: `normalise` collapses blanks, patterns look back and ahead a
bounded number of characters, and no pattern is searched again for each of its own matches.
"""

from __future__ import annotations

import re

from operators.math.answers.notation import NUMBER, normalise

_LOOK_BACK = 60

_BOX = re.compile(r"\\f?boxed ?(?![A-Za-z])")
_JOINED = re.compile(r"[\s$]*(?:,|;|,?\s*(?:and|or)|\\text\s*\{\s*(?:and|or)\s*\})[\s$]*(?:\w+\s*=\s*)?", re.IGNORECASE)
_STATED = re.compile(r"\banswer\b(?:\s+to\b[^.:\n]{0,80})?\s*(?:is\b|:|=)\s*:?\s*", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;!?](?=\s|$)|,(?=\s)(?!\s*(?:\d|and\b|or\b|[a-z]\s*=))|\b(?:because|since|as|which|so)\b|\n\s*\n")
_HEDGED = re.compile(
    r"\b(?:not|cannot|never|neither|nor|than|least|most|about|approximately|around|nearly|almost|roughly|between|except|minus"
    r"|plus|negative)\b|n't\b|\\(?:approx|pm|ne|le|ge)\b|[<>~]|\.\.\.|\d\s*(?:and|or|to)\s*[-$]*$",
    re.IGNORECASE,
)
_SCALED = re.compile(
    r"\s*(?:\.\.\.|(?:and|or|to)\s+(?:a|\$?\d)|[-\s](?:"
    r"(?:hundred|thousand|million|billion|trillion|dozen|half|halve|third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|hundredth|thousandth)s?\b|(?:squared|cubed|factorial|repeating|recurring|plus|minus|divided|mod)\b"
    r"|(?:times|over|out|below|above|under)\b[a-z ]*\d|(?:less|more|fewer)\s+than\b))",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$(?![\s$])([^$\n]{1,300}?)(?<!\s)\$(?!\d)")
_NOT = re.compile(r"(?:\bnot|n't)\b[^.\n]{0,20}$", re.IGNORECASE)


def gold_answer(text: str) -> str:
    """The bare gold answer in a dataset's text: the content of its last \\boxed{} (MATH), the text after its last `####`
    (GSM8K), or the text itself; stripped.
    """
    return (_boxed(text) or text.rpartition("####")[2]).strip()


def final_answer(solution: str) -> str | None:
    """The final answer of a solution, normalised: the last \\boxed{} (or several, if only "and", "or" or a comma separates
    them), else the `####` of the last line, else the text after "the answer is" or "Answer:", else the last number.

    None if there is no such text, or if the words around it leave the answer open ("is not 5", "more than 5").
    """
    text = normalise(solution)
    if _BOX.search(text):
        return _boxed(text) or None
    lines = text.split("\n")
    last = lines[-1].strip()
    stated = list(_STATED.finditer(text))
    if last.startswith("####"):
        tail = last.lstrip("#").strip()
        return _stated_answer(tail[match.end() :]) if (match := _STATED.match(tail)) else tail or None
    if stated:
        return _stated_answer(text[stated[-1].end() :])
    return _last_number(text)


def _boxed(text: str) -> str | None:
    """The content of the last box and of the boxes joined to it; None without a box, "" if the brace is not closed."""
    boxes: list[str] = []
    before = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        inside = _braces(text, match.end())
        if inside is None:
            inside = "" if text[match.end() : match.end() + 1] == "{" else text[match.end() : match.end() + 1]
            end = len(text)
        else:
            end = match.end() + len(inside) + 2
        if boxes and not (end <= before <= end + _LOOK_BACK and _JOINED.fullmatch(text[end:before])):
            break
        if _NOT.search(text[max(0, match.start() - _LOOK_BACK) : match.start()]):
            return ""
        boxes.append(inside.strip())
        before = match.start()
    return ", ".join(reversed(boxes)) if boxes else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _braces(text: str, start: int) -> str | None:
    """The text between the brace at `start` and its partner."""
    depth = 0
    for place in range(start, len(text)):
        sign = text[place]
        if place and text[place - 1] == "\\":
            continue
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[start + 1 : place] if sign == "}" else None
    return None


def _stated_answer(rest: str) -> str | None:
    """The answer at the beginning of a sentence, or its only number."""
    opened = len(rest) - len(rest.lstrip("*_ \n"))
    stars, rest = rest[:opened].count("*"), rest[opened:]
    if (match := _MATH.match(rest)) and not re.match(r"\s*(?:,|and\b|or\b|to\b|[-+*/=])", rest[match.end() :]):
        return match[1].strip()
    clause = _CLAUSE.split(rest.partition("\n")[0])[0].strip().removesuffix("*" * stars).strip()
    clause = re.sub(r"\$(?!\d)|(?<=[\d}])\$", "", clause).strip()
    if "=" in clause and not re.match(r"\S{1,9}\s*=[^=]*$", clause):
        clause = clause.rpartition("=")[2].strip()
    if not clause:
        return None
    numbers = list(NUMBER.finditer(clause))
    if numbers and re.match(r"[A-Za-z]{2,} ", clause):
        # A sentence about a number counts only if the number is clearly the answer.
        return _bare(clause, numbers[0]) if len(numbers) == 1 and not _HEDGED.search(clause) else None
    return None if re.match(r"(?:not|never|no\s+\w|in)\b", clause, re.IGNORECASE) else clause


def _last_number(text: str) -> str | None:
    """The last number or formula in dollar signs, unless the words around it leave it open."""
    found = _last(NUMBER, text)
    formulas = list(_MATH.finditer(text))
    if formulas and (found is None or formulas[-1].end() >= found.end()) and re.search(r"\d|\\", formulas[-1][1]):
        start, end, answer = formulas[-1].start(), formulas[-1].end(), formulas[-1][1].strip()
        answer = answer.rpartition("=")[2].strip()
    elif found is not None:
        start, end = found.span()
        answer = _bare(text, found) or ""
    else:
        return None
    sentence = re.split(r"[.;!?](?=\s)|\n", text[:start])[-1]
    if (result := sentence.rpartition("=")[2]) != sentence and NUMBER.search(result):
        return None  # "100 / 20 = 5 hours for 100 pages" does not end with its answer
    before = re.split(r",(?=\s)|=", sentence)[-1]
    return None if not answer or _HEDGED.search(before) or _SCALED.match(text[end:]) else answer


def _bare(text: str, number: re.Match[str]) -> str | None:
    """A number with its sign and percent sign; None if it is part of an expression: `10^2`, `x12`, `3 + 4`."""
    before, after = (
        text[max(0, number.start() - _LOOK_BACK) : number.start()],
        text[number.end() : number.end() + 2 * _LOOK_BACK],
    )
    sign = re.search(r"(?:^|[\s=$(:])(-\s?)\$?$", before)
    negative = bool(sign) and not re.search(r"[\w)}]\s+-\s+\$?$", before)
    if sign and negative:
        before = before[: sign.start(1)]
    if re.search(r"[\w.,]$|[-+*/^_\\({\[<>][\s$]*$|\\range[\s$]*$", before):
        return None
    if re.match(r"\w|[.,]\d|\s*[*^/+_=({]|\s*\\(?!%)|\s*[-:]\s*\d", after) or _SCALED.match(after):
        return None
    percent = "%" if re.match(r"\s*\\?%", after) else ""
    return ("-" if negative else "") + number[0] + percent
