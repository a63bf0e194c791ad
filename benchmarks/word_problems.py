"""Word problems with a known structure: kinds of reasoning_gym's gsm_symbolic, recognized, solved, and put in other words.

The kinds are in word_problems.yaml. Nothing is remembered: every problem, even a rewritten one, is recognized by its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

PEOPLE = ("Ada", "Bela", "Chidi", "Dolores", "Emre", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mira", "Nils")
PEOPLE_UNSEEN = ("Oskar", "Petra", "Quentin", "Rosa", "Samir", "Tala")
_QUANTITIES = "abcdef"
_SLOT = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"\d+")
_SCENE_WORDS = 8
_SLIPS = (-10, -2, -1, 1, 2, 10)


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Args:
        name: the name of the kind.
        text: the wording in reasoning_gym.
        steps: the calculations; the last one gives the answer.
        rewrites: wordings for training rows, each a list of sentences of which the last asks.
        unseen: a wording that no training row has.
    """

    name: str
    text: str
    steps: tuple[str, ...]
    rewrites: tuple[tuple[str, ...], ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """A problem of a known kind and its quantities, (slot, number) in the slots' order."""

    kind: Kind
    quantities: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Calculation:
    """One step, `left sign right = result`."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


@cache
def kinds() -> tuple[Kind, ...]:
    """The kinds of word_problems.yaml."""
    return tuple(
        Kind(name, each["text"], tuple(each["steps"]), tuple(map(tuple, each["rewrites"])), tuple(each["unseen"]))
        for name, each in _file()["problems"].items()
    )


def recognise(question: str) -> Known | None:
    """The kind and the quantities of a problem in any known wording; None for any other problem."""
    numbers = set(map(int, _NUMBER.findall(question)))
    for kind, sentences in _wordings():
        for words in _readings(sentences, question, {}):
            quantities = {slot: int(word) for slot, word in words.items() if slot in _QUANTITIES}
            if set(quantities.values()) == numbers:
                return Known(kind, tuple(sorted(quantities.items())))
    return None


def calculations(known: Known, slip: float = 0.0, random: Random | None = None) -> list[Calculation]:
    """The steps to the answer, each of which goes wrong with probability `slip`; what follows continues from the mistake."""
    values = dict(known.quantities)
    done = []
    for step in known.kind.steps:
        name, _, formula = step.rpartition(" = ")
        left_name, sign, right_name = formula.split()
        left, right = _value(left_name, values), _value(right_name, values)
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else 0}[sign]
        if random and random.random() < slip:
            result = max(0, result + random.choice(_SLIPS))
        done.append(Calculation(left, sign, right, result))
        values[name] = result
    return done


def is_whole(known: Known, most: int = 999) -> bool:
    """Whether every step is between whole numbers from 0 to `most`, and no division leaves a rest."""
    for step in calculations(known):
        if not all(0 <= number <= most for number in (step.left, step.right, step.result)):
            return False
        if step.sign == "/" and (not step.right or step.left % step.right):
            return False
    return True


def rewrite(known: Known, persona: str, random: Random, unseen: bool = False) -> str:
    """The problem in other words, in the world of a persona: the same quantities, other things, people and sentences.

    Args:
        known: the problem.
        persona: a description of somebody; its words choose the world.
        random: chooses wording, things, people and the order of the sentences.
        unseen: use the wording and the people that are kept for tests.
    """
    *given, asked = known.kind.unseen if unseen else random.choice(known.kind.rewrites)
    random.shuffle(given)
    who, other, third = random.sample(PEOPLE_UNSEEN if unseen else PEOPLE, 3)
    x, y, z = random.sample(_things(persona, random), 3)
    words = {**dict(known.quantities), "who": who, "other": other, "third": third, "x": x, "y": y, "z": z}
    sentences = [each.format(**words) for each in (*given, asked)]
    return " ".join([_scene(persona), *(each[0].upper() + each[1:] for each in sentences)]).strip()


def _scene(persona: str) -> str:
    """The persona's first words as a sentence of its own, without digits."""
    words = re.split(r"[.,;:?!\d]| who | that | which ", persona.strip() + " ")[0].split()[:_SCENE_WORDS]
    return " ".join(words) + "." if words else ""


def _things(persona: str, random: Random) -> list[str]:
    words = set(re.findall(r"[a-z]+", persona.lower()))
    worlds = list(_file()["worlds"].values())
    fits = [sum(word in words or word + "s" in words for word in world["words"]) for world in worlds]
    best = [world for world, fit in zip(worlds, fits, strict=True) if fit == max(fits)]
    things: list[str] = random.choice(best)["things"]
    return things


def _value(name: str, values: Mapping[str, int]) -> int:
    return int(name) if name.isdigit() else values[name]


@cache
def _file() -> Any:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


@cache
def _wordings() -> tuple[tuple[Kind, tuple[re.Pattern[str], ...]], ...]:
    found: list[tuple[Kind, tuple[re.Pattern[str], ...]]] = []
    for kind in kinds():
        found.append((kind, (_pattern(kind.text, whole=True),)))
        found += [(kind, tuple(_pattern(each, whole=False) for each in wording)) for wording in (*kind.rewrites, kind.unseen)]
    return tuple(found)


def _readings(
    sentences: Sequence[re.Pattern[str]], question: str, words: dict[str, str], taken: frozenset[int] = frozenset()
) -> Iterator[dict[str, str]]:
    """What the slots can stand for, so that all sentences are found in the question, each in its own place, and agree."""
    if not sentences:
        yield words
        return
    for match in sentences[0].finditer(question):
        found = {slot: word.lower() for slot, word in match.groupdict().items()}
        if match.start() not in taken and all(words.get(slot, word) == word for slot, word in found.items()):
            yield from _readings(sentences[1:], question, words | found, taken | {match.start()})


def _pattern(sentence: str, whole: bool) -> re.Pattern[str]:
    """Finds a sentence in a text; a group for each quantity, and for the words of the teacher's own wordings."""
    parts = _SLOT.split(sentence)
    seen: set[str] = set()
    pattern = ""
    for place, part in enumerate(parts):
        if place % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += rf"(?P={part})"
        elif part not in _QUANTITIES and whole:
            pattern += r"[^?\d]+?"
        else:
            pattern += rf"(?P<{part}>\d+)" if part in _QUANTITIES else rf"(?P<{part}>[a-z]+)"
            seen.add(part)
    return re.compile(rf"(?:^|(?<=[.?] )){pattern}", re.IGNORECASE)
