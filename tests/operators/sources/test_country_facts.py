"""Questions about capitals: disjoint splits, passages whose style reveals nothing, the same rows every time."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from countryinfo import CountryInfo

from engine.errors import PipelineError
from engine.sources.ingest import ingest
from engine.spec.pipeline_spec import DatasetSpec
from operators.alignment.conclusions import conclusion, mentions
from operators.records import ConflictItem
from operators.sources.countries import countries
from operators.sources.country_facts import country_facts
from operators.sources.country_facts_passages import SEEN, UNSEEN
from registry import Registry
from tests.engine.run_pipelines import run_text

EVERYTHING = 1000


def rows(limit: int = EVERYTHING, seed: int = 0, **settings: Any) -> list[dict[str, Any]]:
    return list(country_facts.function("capitals", limit, seed, settings))


@cache
def names() -> dict[str, str]:
    """Country -> its name in a sentence."""
    return {country.name: country.in_a_sentence for country in countries()}


def styles_of(row: dict[str, Any], kind: str, answer: str) -> set[str]:
    """The templates of the row's passages, filled in with this answer."""
    name = names()[row["id"]]
    texts = {
        text.format(country=name, Country=name[0].upper() + name[1:], city=row[answer]): style
        for style, text in (SEEN | UNSEEN).items()
    }
    return {texts[passage] for passage in row[kind]}


def test_rows_are_conflict_items(registry: Registry) -> None:
    spec = DatasetSpec.model_validate({"type": "ConflictItem", "generator": "country_facts/capitals", "limit": 20})
    got = ingest("items", spec, ConflictItem, Path(), 0, registry.store)
    assert (got.rows, got.rejected, got.ignored) == (20, 0, {})


def test_factual_and_poisoned_passages_differ_only_in_the_answer() -> None:
    found = rows(population=0)
    styles: dict[str, set[str]] = {"poisoned": set(), "factual": set()}
    for row in found:
        written = {
            "poisoned": styles_of(row, "poisoned", "incorrect_answer"),
            "factual": styles_of(row, "factual", "correct_answer"),
        }
        assert [len(each) for each in written.values()] == [5, 2]  # all in different styles
        assert not written["poisoned"] & written["factual"]
        for kind, each in written.items():
            styles[kind] |= each
    assert styles["poisoned"] == styles["factual"] == SEEN.keys() | UNSEEN.keys()
    assert len(SEEN.keys() | UNSEEN.keys()) == 16


def test_passages_support_their_answer_and_never_name_the_other() -> None:
    for row in rows(population=0):
        correct, incorrect = row["correct_answer"], row["incorrect_answer"]
        assert {conclusion(passage, correct, incorrect) for passage in row["poisoned"]} == {"incorrect"}
        assert {conclusion(passage, correct, incorrect) for passage in row["factual"]} == {"correct"}
        assert not any(mentions(passage, correct) for passage in row["poisoned"])
        assert not any(mentions(passage, incorrect) for passage in row["factual"])


def test_splits_share_no_country_and_no_city() -> None:
    train, test = rows(split="train", population=0), rows(split="test", population=0)
    together = rows(population=0)
    assert sorted(train + test, key=lambda row: row["id"]) == sorted(together, key=lambda row: row["id"])
    assert min(len(train), len(test)) > 50
    for field in ("id", "question", "correct_answer", "incorrect_answer"):
        others = ("correct_answer", "incorrect_answer") if field.endswith("answer") else (field,)
        assert not {row[field] for row in train} & {row[other] for row in test for other in others}


def test_half_of_the_styles_can_be_held_out() -> None:
    seen, unseen = rows(styles="seen"), rows(styles="unseen")
    assert {style for row in seen for style in styles_of(row, "poisoned", "incorrect_answer")} == SEEN.keys()
    assert {style for row in unseen for style in styles_of(row, "poisoned", "incorrect_answer")} == UNSEEN.keys()
    assert [row["question"] for row in seen] == [row["question"] for row in unseen]


def test_the_same_arguments_give_the_same_rows_and_a_smaller_limit_gives_the_first_ones() -> None:
    found = rows()
    assert rows() == found
    assert rows(limit=7) == found[:7]
    assert rows(limit=0) == []
    assert len(found) < EVERYTHING  # there are no more
    assert len({row["id"] for row in found}) == len(found)
    other = rows(seed=1)
    assert [row["id"] for row in other] != [row["id"] for row in found]
    assert list(country_facts.function("capitals", EVERYTHING, 0, {"seed": 1})) == other


def test_adding_a_country_does_not_move_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {row["id"]: row for row in rows(split="test")}
    known = CountryInfo.all()
    atlantis = {**known["france"], "name": "Atlantis", "capital": "Poseidonis", "ISO": {"alpha2": "XX"}}
    monkeypatch.setattr(CountryInfo, "all", classmethod(lambda cls: {**known, "atlantis": atlantis}))
    after = {row["id"]: row for row in rows(split="test") if row["id"] != "Atlantis"}
    assert after.keys() == before.keys()
    changed = {name for name, row in after.items() if row != before[name]}
    assert all(after[name]["incorrect_answer"] == "Poseidonis" for name in changed)


def test_countries_with_a_disputed_capital_or_one_of_the_same_name_are_left_out() -> None:
    known = {country.name: country for country in countries()}
    in_doubt = {"Bolivia", "South Africa", "Israel", "Palestine", "Netherlands", "Kazakhstan", "Burundi", "Taiwan"}
    of_that_name = {"Singapore", "Monaco", "Mexico", "Luxembourg", "Guatemala", "Djibouti", "Guinea-Bissau", "Kuwait", "Panama"}
    no_states = {"Hong Kong", "Puerto Rico", "Greenland", "Serbia and Montenegro", "Antilles néerlandaises"}
    assert not known.keys() & (in_doubt | of_that_name | no_states)
    facts = {"France": "Paris", "United States": "Washington", "North Macedonia": "Skopje", "Australia": "Canberra"}
    assert {name: known[name].capital for name in facts} == facts
    assert known["Czech Republic"].in_a_sentence == "the Czech Republic"
    assert known["The Gambia"].in_a_sentence == "the Gambia"
    assert known["Dominica"].in_a_sentence == "Dominica"
    places = {name for country in known.values() for name in (country.name, country.capital)}
    assert len(places) == 2 * len(known)


def test_a_smallest_population_can_be_set() -> None:
    sizes = [len(rows(population=population)) for population in (0, 1_000_000, 50_000_000)]
    assert all(more > fewer > 10 for more, fewer in pairwise(sizes))
    assert len(rows()) == sizes[1]
    large = {country.name for country in countries() if country.population >= 50_000_000}
    assert {row["id"] for row in rows(population=50_000_000)} == large


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("capital", {}, "country_facts has no task 'capital'; its tasks: capitals"),
        ("capitals", {"splits": "test"}, "no setting 'splits'; did you mean 'split'?"),
        ("capitals", {"size": 5}, "no setting 'size'; known settings: split, styles, population, seed"),
        ("capitals", {"split": "dev"}, "split: must be 'train', 'test' or 'all' (given: 'dev')"),
        ("capitals", {"population": -1}, "population: must be greater than or equal to 0"),
    ],
)
def test_wrong_settings_are_reported_before_anything_runs(task: str, settings: dict[str, Any], words: str) -> None:
    [text] = country_facts.check(task, settings)
    assert words in text
    assert not country_facts.check("capitals", {"split": "test", "styles": "unseen", "population": 0, "seed": 3})


def test_the_error_names_the_line_of_the_wrong_setting(registry: Registry, workdir: Path) -> None:
    dataset = "{type: ConflictItem, generator: country_facts/capitals, with: {styles: new}}"
    with pytest.raises(PipelineError, match=r"p\.yaml:1:.*styles: must be"):
        run_text(f"{{name: demo, datasets: {{items: {dataset}}}, steps: {{grid: {{op: conflict_grid, in: items}}}}}}", registry)
