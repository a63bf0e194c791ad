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

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.operator import Generator
from operators.alignment.conclusions import mentions
from operators.sources.countries import Country, countries, identity, problems_of, shuffled
from operators.sources.country_facts_passages import QUESTIONS, SEEN, UNSEEN

TASK = "capitals"
POISONED, FACTUAL = 5, 2


class CapitalSettings(BaseModel):
    """The settings under `with`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "test", "all"] = "all"
    styles: Literal["seen", "unseen", "all"] = "all"
    population: int = Field(default=1_000_000, ge=0)
    seed: int | None = None


def items(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of ConflictItem; `id` is the country, `source` the task."""
    chosen = CapitalSettings.model_validate(settings)
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


def problems_with(task: str, settings: Mapping[str, Any]) -> list[str]:
    """The problems of a task's name or settings."""
    return problems_of("country_facts", (TASK,), CapitalSettings, task, settings)


country_facts = Generator("country_facts", items, problems_with, identity)

_WELL_KNOWN = 1_000_000
"""The population from which on a country's capital is well known enough to be mistaken for another."""
