"""`generator: country_questions/open` and `country_questions/options`: questions about countries, of several kinds.

Rows are Questions; `group` is the kind (capital, country, continent, neighbour, demonym, domain), `id` the kind and the
country. `options` gives each question four options; the three wrong ones are answers of the same kind for other countries. The
facts come from the package countryinfo. Settings under `with`:

* `kinds`: the kinds of questions (default: all).
* `split`: the `train` or `test` countries, or `all` (default), as in `country_facts`.
* `population`: the smallest population of a country (default 1000000).
* `seed`: draws questions and options; by default the pipeline's seed.

`limit` rows are drawn (100 by default), or all rows if there are fewer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.operator import Generator
from operators.sources.country_facts import PACKAGE, Country, countries, explained, identity, shuffled

Kind = Literal["capital", "country", "continent", "neighbour", "demonym", "domain"]
TASKS = ("open", "options")
OPTIONS = 4


class Settings(BaseModel):
    """The settings under `with`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: tuple[Kind, ...] = get_args(Kind)
    split: Literal["train", "test", "all"] = "all"
    population: int = Field(default=1_000_000, ge=0)
    seed: int | None = None


@dataclass(frozen=True)
class Fact:
    """A question about a country, and all accepted answers, the most common one first."""

    kind: Kind
    country: Country
    question: str
    answers: tuple[str, ...]


def questions(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of Question."""
    chosen = Settings.model_validate(settings)
    seed = seed if chosen.seed is None else chosen.seed
    known = [each for each in facts() if each.country.population >= chosen.population and each.kind in chosen.kinds]
    wanted = [each for each in known if chosen.split in ("all", each.country.split)]
    for fact in shuffled(wanted, seed, by=_name)[:limit]:
        row: dict[str, Any] = {"question": fact.question, "answers": list(fact.answers), "group": fact.kind, "id": _name(fact)}
        if task == "options":
            row["answers"] = [fact.answers[0]]
            others = _others(fact, known, seed)
            row["options"] = shuffled([fact.answers[0], *others], seed, "order", _name(fact))
        yield row


def facts() -> list[Fact]:
    """All facts of the package about the countries of `country_facts`."""
    from countryinfo import CountryInfo

    entries = {entry.get("ISO", {}).get("alpha2"): entry for entry in CountryInfo.all().values()}
    names = {entry.get("ISO", {}).get("alpha3"): entry["name"] for entry in entries.values()}
    found = []
    for country in countries():
        entry, name = entries[country.code], country.in_a_sentence
        spellings = [text for text in entry.get("altSpellings", ()) if len(text) > 3]
        by_kind: dict[Kind, tuple[str, Sequence[str]]] = {
            "capital": (f"What is the capital of {name}?", [country.capital]),
            "country": (f"{country.capital} is the capital of which country?", [country.name, *spellings]),
            "continent": (f"On which continent is {name}?", _continents(country, str(entry.get("intermediateregion") or ""))),
            "neighbour": (
                f"Name a country that borders {name}.",
                [names[at] for at in entry.get("borders", ()) if at in names],
            ),
            "demonym": (f"What are people from {name} called?", _people(entry.get("demonym"))),
            "domain": (f"What is the top-level internet domain of {name}?", list(entry.get("tld", ()))[:1]),
        }
        found += [Fact(kind, country, text, tuple(answers)) for kind, (text, answers) in by_kind.items() if answers]
    return found


def _continents(country: Country, part: str) -> list[str]:
    if country.code in _ON_TWO:
        return sorted({country.region, "Asia", "Europe"}, key=lambda name: name != country.region)
    if country.region != "Americas":
        return [country.region]
    continent = "South America" if part == "South America" else "North America"
    return list(dict.fromkeys([continent, "America", "Americas", "The Americas", *([part] if part else [])]))


def _people(demonym: str | None) -> list[str]:
    return [demonym, f"{demonym}s", f"{demonym} people"] if demonym else []


def _others(fact: Fact, known: Sequence[Fact], seed: int) -> list[str]:
    """Answers of the same kind that are wrong for this country."""
    right = {answer.casefold() for answer in fact.answers}
    wrong = {each.answers[0] for each in known if each.kind == fact.kind} | (
        {"Africa", "Asia", "Europe", "Oceania", "South America", "North America"} if fact.kind == "continent" else set()
    )
    return shuffled([each for each in wrong if each.casefold() not in right], seed, _name(fact))[: OPTIONS - 1]


def _name(fact: Fact) -> str:
    return f"{fact.kind}: {fact.country.name}"


def problems_with(task: str, settings: Mapping[str, Any]) -> list[str]:
    """The problems of a task's name or settings."""
    if importlib.util.find_spec(PACKAGE) is None:
        return [f"the package {PACKAGE} is not installed; install it with: pip install 'posttrain-engine[sources]'"]
    if task not in TASKS:
        return [f"country_questions has no task {task!r}; its tasks are {', '.join(TASKS)}"]
    try:
        Settings.model_validate(settings)
    except ValidationError as error:
        return [explained(each, f"country_questions/{task}", Settings) for each in error.errors()]
    return []


_ON_TWO = frozenset(("AZ", "GE", "RU", "TR"))
"""Countries in both Europe and Asia."""

country_questions = Generator("country_questions", questions, problems_with, identity)
