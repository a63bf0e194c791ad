"""The countries of the package countryinfo, split for training and testing, and what its generators share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from engine.operator import did_you_mean, wrong_value
from operators.alignment.conclusions import mentions
from operators.draws import draw

PACKAGE = "countryinfo"
TEST_SHARE = 0.4

T = TypeVar("T")


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


def shuffled(values: Iterable[T], *salt: object, by: Callable[[T], object] = str) -> list[T]:
    """The values in a random order; adding or removing a value does not change the order of the others."""
    return sorted(values, key=lambda value: draw(*salt, by(value)))


def problems_of(
    generator: str, tasks: Sequence[str], kind: type[BaseModel], task: str, settings: Mapping[str, Any]
) -> list[str]:
    """The problems of a generator's task or settings.

    Args:
        generator: the generator's name.
        tasks: the tasks that the generator has.
        kind: the type of its settings.
        task, settings: the values that the user wrote.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return [f"the package {PACKAGE} is not installed; install it with: pip install 'posttrain-engine[sources]'"]
    if task not in tasks:
        return [f"{generator} has no task {task!r}; its tasks: {', '.join(tasks)}"]
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        return [_explained(each, f"{generator}/{task}", kind) for each in error.errors()]
    return []


def _explained(error: Any, task: str, settings: type[BaseModel]) -> str:
    """A problem that pydantic found in the settings, as a text for users."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{name}: {wrong_value(error)} (given: {error['input']!r:.60})"
    hint = did_you_mean(name, settings.model_fields, f"known settings: {', '.join(settings.model_fields)}")
    return f"{task} has no setting {name!r}; {hint}"


def identity() -> str:
    """The package's version, because another version may have other capitals."""
    return f"{PACKAGE} {version(PACKAGE)}"


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
