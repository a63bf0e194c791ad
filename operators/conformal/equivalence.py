"""When two sampled answers are the same, and whether an answer is an accepted one."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from operators.characters import compatible, folded, has_meaningful_marks
from operators.math.answers.extraction import final_answer, gold_answer
from operators.math.answers.notation import as_number
from operators.math.answers.verify import verify

Equivalence = Literal["exact", "qa", "math", "embedding"]

LETTERS = string.ascii_uppercase


class Reading(NamedTuple):
    """The answer in a sampled text.

    Args:
        shown: the answer as written.
        form: the normal form of the answer; equal answers have equal forms.
        possible: False if the question has options and this is none of them, so that it cannot be right.
    """

    shown: str
    form: str
    possible: bool = True


def short(text: str) -> str:
    """The first nonempty line of a sampled text, without a label ("Answer:") and surrounding quotes."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _LABEL.sub("", line).strip().strip("\"'*`“”").strip()


def qa_form(text: str, *, fold_accents: bool = True) -> str:
    """The text in lower case, without punctuation, articles and extra blanks; unchanged if nothing would be left.

    It follows the normalisation of SQuAD's evaluation (Rajpurkar et al., arXiv 1606.05250). Unlike there, minus signs and
    decimal points are kept, and punctuation separates words, except in abbreviations and thousands ("U.S.", "1,000"). Signs
    that carry meaning are kept: C++, C# and C differ, as do A+ and A-, 10² and 102, x > 2 and x < 2, 5% and 5, 5° and 5, F* and
    F, ~p and p. Currency signs and quotes are ignored.

    Args:
        fold_accents: drop the accents that English texts drop, from Latin letters only ("São Paulo" is "Sao Paulo"). Marks
            of other scripts, and those of Vietnamese (ơ, ạ, ả), are always kept. See `accents_are_loose`.
    """
    text = _FORMULA.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    letters = folded(text) if fold_accents else unicodedata.normalize("NFC", compatible(text).casefold())
    letters = _GRADE.sub("\ue000", letters.replace("\u266f", "#"))
    for sign, word in _SIGNS:
        letters = sign.sub(word, letters)
    letters = _WITHIN.sub("", _MINUS.sub("-", letters))
    kept = _LOOSE.sub(" ", "".join(map(_kept, letters))).replace("\ue000", "-")
    words = [word for word in kept.split() if word not in _ARTICLES]
    return " ".join(words) or text.strip()


def accents_are_loose(question: str, texts: Sequence[str]) -> bool:
    """Whether the answers to a question can be compared without accents: the question is in English, no text has letters
    of another script or of Vietnamese, and no two texts differ only in their accents, unless one of them has none and
    the other has them only in names ("São Paulo"; but "año" and "ano" are different words).
    """
    if not _ENGLISH & set(re.findall(r"[a-z]+", question.casefold())):
        return False
    spellings: dict[str, set[str]] = {}
    common: set[str] = set()
    plain: set[str] = set()
    for text in texts:
        if has_meaningful_marks(text):
            return False
        bare, marked = qa_form(text), qa_form(text, fold_accents=False)
        if bare != marked:
            spellings.setdefault(bare, set()).add(marked)
            if any(folded(word) != word.casefold() and not word[:1].isupper() for word in _WORD.findall(text)):
                common.add(bare)
        else:
            plain.add(bare)
    return not common & plain and all(len(marked) == 1 for marked in spellings.values())


def _kept(sign: str) -> str:
    category = unicodedata.category(sign)
    dropped = category[0] in "PZ" or category in ("Sc", "Sk") or sign in "|~°©®™"
    return sign if sign in "-.#^\ue000" or not dropped else " "


def same_question(text: str) -> str:
    """The normal form of a question: without case, articles, extra blanks and final punctuation; other signs count."""
    words = compatible(text).casefold().rstrip(" ?.!").split()
    return " ".join(word for word in words if word not in _ARTICLES) or text.strip()


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The option that a text names, if any: by its letter (`B`, `(b)`, `B. Paris`, `the answer is B`) or its text.

    A letter by itself is read as the letter of an option, even if it is also the text of an option.
    """
    whole = short(text)
    line = " ".join(whole.split())  # patterns with several \s* take quadratic time in a run of blanks
    if (found := _LETTER.match(line)) and (place := LETTERS.index(found[1].upper())) < len(options):
        return options[place]
    if whole in options:
        return whole
    loose = len({qa_form(option) for option in options}) == len(options)
    read = [qa_form(option, fold_accents=loose) for option in options]
    forms = Counter(read)
    by_text = {form: option for form, option in zip(read, options, strict=True) if forms[form] == 1}
    form_of_line = qa_form(line, fold_accents=loose)
    if (same := by_text.get(form_of_line)) is not None:
        return same
    if (found := _CHOICE.match(line)) and (place := LETTERS.index(found[1].upper())) < len(options):
        return options[place]
    named = {by_text[form] for form in by_text if re.search(rf"(?<!\w){re.escape(form)}(?!\w)", form_of_line)}
    return named.pop() if len(named) == 1 else None


def right_options(answers: Sequence[str], options: Sequence[str]) -> set[str]:
    """The options that accepted answers name: by their text, or as `chosen_option` reads them."""
    found = {answer.strip() if answer.strip() in options else chosen_option(answer, options) for answer in answers}
    return {option for option in found if option is not None}


def reading(
    equivalence: Equivalence, options: Sequence[str] | None = None, *, fold_accents: bool = True
) -> Callable[[str], Reading]:
    """The function that reads a sampled text; for `fold_accents` see `qa_form`.

    With options, a text is read as the option that it names, whatever the equivalence; a text that names none is an answer of
    its own.
    """

    def read(text: str) -> Reading:
        if options and (option := chosen_option(text, options)) is not None:
            return Reading(option, f"{_OPTION}{options.index(option)}")
        if equivalence == "exact":
            return Reading(text.strip(), text.strip(), not options)
        if equivalence == "math":
            answer = final_answer(text) or short(text)
            number = as_number(answer)
            return Reading(answer, answer if number is None else str(number), not options)
        answer = short(text)
        return Reading(answer, qa_form(answer, fold_accents=fold_accents), not options)

    return read


async def accepted(
    equivalence: Equivalence,
    answers: Sequence[str],
    forms: dict[str, str],
    options: Sequence[str] | None,
    *,
    fold_accents: bool = True,
) -> set[str]:
    """Those of the forms (form -> text) that are accepted answers."""
    read = reading(equivalence, options, fold_accents=fold_accents)
    if options:
        right = right_options(answers, options)
        return {form for form, shown in forms.items() if shown in right and form.startswith(_OPTION)}
    if equivalence != "math":
        return {read(answer).form for answer in answers} & forms.keys()
    golds = [gold_answer(answer) for answer in answers]
    return {form for form, shown in forms.items() for gold in golds if (await verify(gold, boxed(shown)))[0] == "correct"}


async def merged(forms: dict[str, str]) -> dict[str, str]:
    """Merge mathematical answers that are equal without being the same number: form -> the form that represents it."""
    representative: dict[str, str] = {}
    numbers_first = sorted(forms.items(), key=lambda each: as_number(each[1]) is None)
    for form, shown in numbers_first:
        equal = None
        if as_number(shown) is None:
            for other in dict.fromkeys(representative.values()):
                if (await verify(forms[other], boxed(shown)))[0] == "correct":
                    equal = other
                    break
        representative[form] = equal or form
    return representative


def boxed(answer: str) -> str:
    """A bare final answer as a solution that ends with it."""
    return f"\\boxed{{{answer}}}"


_ARTICLES = ("a", "an", "the")
_ENGLISH = frozenset({"the", "what", "which", "who", "whom", "whose", "when", "where", "how", "why", "did", "does"})
_FORMULA = re.compile("(?:(?<=[A-Z])|(?<=[A-Z][a-z]))[₀-₉]+")
"""H₂O is H2O."""
_GRADE = re.compile(r"(?<=(?<!\w)[a-z])-(?=[\s.,;:!?)]|$)")
"""The minus of a grade or a blood group: A-, O-."""
_OPTION = "option: "
_MINUS = re.compile(r"(?<![\w)])[-\u2212\u2013](?=\d)")
_WITHIN = re.compile(r"(?<=\d),(?=\d{3}(?!\d))|(?<=[^\W\d])\.(?!\d)|['\u2019]")
_WORD = re.compile(r"[^\W\d_]+")
_SIGNS = [
    (re.compile(r"(?<=\d)\s?%"), " percent "),
    (re.compile(r"(?<=\d)\s?°"), " degrees "),
    (re.compile(r"(?<![\w*])(\w)\*(?![\w*])"), r"\1 star "),
    (re.compile(r"(?<!\w)[~¬](?=[^\W\d])"), "not "),
]
"""Signs that carry meaning next to a number or a letter, as words."""
_LOOSE = re.compile(r"(?<=[^\W\d])\.|\.(?!\d)|(?<=\S)-|-(?!\d)")
"""Points and hyphens that are neither decimal points nor minus signs."""
_LETTER = re.compile(r"^[(\[]?([A-Za-z])[)\].:]*$")
_LABEL = re.compile(r"^(?:(?:final |short )?answer|a)\s*:\s*", re.IGNORECASE)
_CHOICE = re.compile(
    r"^(?:the (?:correct )?answer is\s*:?\s*)?(?:option\s+)?[(\[]?([A-Za-z])(?:[)\].:,]|$|\s+(?:is|because)\b)", re.IGNORECASE
)
