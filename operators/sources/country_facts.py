"""`generator: country_facts/capitals`: questions about capitals, with passages that support the right or a wrong city.

Rows are ConflictItems, at most one for each country. The facts come from the package countryinfo; the passages are ours.
Settings under `with`:

* `split`: the `train` or `test` countries, or `all` (default); no country and no city is in both splits.
* `styles`: the styles of the passages: one half (`seen`), the other half (`unseen`), or `all` (default).
* `population`: the smallest population of a country (default 1000000), for models that know only large ones.
* `seed`: draws the wrong city, the wording and the styles; by default the pipeline's seed.

`limit` rows are drawn (100 by default), or all rows if there are fewer. A hash of its ISO code decides a country's split, so
another version of the package, with more countries or other names, moves no country to the other split.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.operator import Generator
from operators.alignment.conclusions import mentions
from operators.draws import draw
from operators.sources.country_facts_passages import QUESTIONS, SEEN, UNSEEN

PACKAGE = "countryinfo"
TASK = "capitals"
POISONED, FACTUAL = 5, 2
TEST_SHARE = 0.4

T = TypeVar("T")


class Settings(BaseModel):
    """The settings under `with`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "test", "all"] = "all"
    styles: Literal["seen", "unseen", "all"] = "all"
    population: int = Field(default=1_000_000, ge=0)
    seed: int | None = None


@dataclass(frozen=True)
class Country:
    """A state and its capital; `code` is the two-letter code of ISO 3166."""

    code: str
    name: str
    capital: str
    region: str
    subregion: str
    population: int

    @property
    def split(self) -> Literal["train", "test"]:
        """The split, which depends only on the code."""
        return "test" if draw("split", self.code) < TEST_SHARE else "train"

    @property
    def in_a_sentence(self) -> str:
        """The name with its article, if it has one."""
        bare = self.name.removeprefix("The ")
        return f"the {bare}" if bare != self.name or any(word in bare.split() for word in _WITH_ARTICLE) else bare


def items(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of ConflictItem; `id` is the country, `source` the task."""
    chosen = Settings.model_validate(settings)
    seed = seed if chosen.seed is None else chosen.seed
    known = countries()
    styles = {"seen": SEEN, "unseen": UNSEEN, "all": SEEN | UNSEEN}[chosen.styles]
    wanted = [each for each in known if each.population >= chosen.population and chosen.split in ("all", each.split)]
    for country in shuffled(wanted, seed, by=_code)[:limit]:
        wrong = _confused_with(country, known, seed)
        texts = shuffled(styles.values(), seed, country.code)[: POISONED + FACTUAL]
        yield {
            "question": _filled(shuffled(QUESTIONS, seed, country.code)[0], country, country.capital),
            "correct_answer": country.capital,
            "incorrect_answer": wrong,
            "poisoned": [_filled(text, country, wrong) for text in texts[:POISONED]],
            "factual": [_filled(text, country, country.capital) for text in texts[POISONED:]],
            "source": task,
            "id": country.name,
        }


def countries() -> list[Country]:
    """States with a single undisputed capital that does not share its name with the country."""
    from countryinfo import CountryInfo

    found = {}
    for entry in CountryInfo.all().values():
        code = entry.get("ISO", {}).get("alpha2")
        if not code or code in _LEFT_OUT or not isinstance(entry.get("capital"), str):
            continue
        name, capital = _NAMES.get(code, entry["name"]), _CAPITALS.get(code, entry["capital"])
        if mentions(name, capital) or mentions(capital, name):
            continue
        found[code] = Country(code, name, capital, entry["region"], entry["subregion"], entry.get("population") or 0)
    return sorted(found.values(), key=lambda country: country.name)


def _confused_with(country: Country, known: Sequence[Country], seed: int) -> str:
    """The capital of another country in the same split, as close as possible."""

    def distance(other: Country) -> int:
        return (other.region != country.region) + (other.subregion != country.subregion)

    others = [each for each in known if each.split == country.split and each.population >= _WELL_KNOWN]
    ordered = sorted(shuffled(others, seed, country.code, by=_code), key=distance)
    return next(each.capital for each in ordered if not _confusable(each.capital, country))


def _confusable(city: str, country: Country) -> bool:
    """Whether a city's name could be mistaken for that of the country or of its capital."""
    return any(mentions(one, other) for name in (country.capital, country.name) for one, other in ((city, name), (name, city)))


def _filled(text: str, country: Country, city: str) -> str:
    name = country.in_a_sentence
    return text.format(country=name, Country=name[0].upper() + name[1:], city=city)


def _code(country: Country) -> str:
    return country.code


def shuffled(values: Iterable[T], *salt: object, by: Callable[[T], object] = str) -> list[T]:
    """The values in a random order; adding or removing a value does not change the order of the others."""
    return sorted(values, key=lambda value: draw(*salt, by(value)))


def problems_with(task: str, settings: Mapping[str, Any]) -> list[str]:
    """The problems of a task's name or settings."""
    if importlib.util.find_spec(PACKAGE) is None:
        return [f"the package {PACKAGE} is not installed; install it with: pip install 'posttrain-engine[sources]'"]
    if task != TASK:
        return [f"country_facts has no task {task!r}; its only task is {TASK!r}"]
    try:
        Settings.model_validate(settings)
    except ValidationError as error:
        return [explained(each, f"country_facts/{TASK}", Settings) for each in error.errors()]
    return []


def explained(error: Any, task: str, settings: type[BaseModel]) -> str:
    """A problem that pydantic found in a generator's settings, as a text for users."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']} (given: {error['input']!r:.60})"
    close = get_close_matches(name, settings.model_fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known settings: {', '.join(settings.model_fields)}"
    return f"{task} has no setting {name!r}; {hint}"


def identity() -> str:
    """The package's version, because another version may have other capitals."""
    return f"{PACKAGE} {version(PACKAGE)}"


country_facts = Generator("country_facts", items, problems_with, identity)

_WELL_KNOWN = 1_000_000
"""The population from which on a country's capital is well known enough to be mistaken for another."""

_NAMES = {"MK": "North Macedonia"}
_CAPITALS = {"US": "Washington"}
"""Corrections to the package (version 1.0.1), by ISO code."""

_WITH_ARTICLE = ("Republic", "Kingdom", "States", "Emirates", "Islands", "Netherlands", "Philippines", "Maldives", "Comoros")

_SEVERAL = "BJ BO CI CL LK MY NL SZ TZ ZA"
"""Countries with several capitals, or with the seat of government in another city."""
_DISPUTED = "EH IL NR PS TW YE"
"""Countries with a disputed status or capital; Nauru has no capital by law."""
_MOVED = "BI GQ ID KZ"
"""Capitals that were moved or renamed recently, or soon will be; the package and models may know either."""
_SPELT_TWICE = "AG GD MM MN UA"
"""Capitals with several usual spellings; a strict comparison would miss all but one."""
_NO_STATES = (
    "AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU PF PM "
    "PN PR RE SH SJ SX TC TF TK UM VA VG VI WF YT"
)
"""Territories and former states."""
_LEFT_OUT = frozenset(" ".join((_SEVERAL, _DISPUTED, _MOVED, _SPELT_TWICE, _NO_STATES)).split())
