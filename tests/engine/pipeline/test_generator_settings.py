"""Settings that a generator accepted are remembered, so that later checks need not load its package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.operator import Generator
from engine.pipeline.generator_settings import setting_problems


def rows(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """No rows."""
    yield from ()


def check(task: str, settings: Mapping[str, Any]) -> list[str]:
    """Accepts positive sizes; writes down that it was asked."""
    with Path(settings["log"]).open("a") as log:
        log.write(f"{task}\n")
    return [] if settings["size"] > 0 else ["size must be positive"]


SIZES = Generator("sizes", rows, check, lambda: "sizes 1")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the generator writes down that it was asked; the cache is empty."""
    monkeypatch.setenv("ENGINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "log").touch()
    return tmp_path / "log"


def asked(log: Path) -> int:
    return len(log.read_text().splitlines())


def test_accepted_settings_are_asked_about_once(log: Path) -> None:
    settings = {"size": 1, "log": str(log)}
    assert [setting_problems(SIZES, "small", settings) for _ in range(3)] == [[], [], []]
    assert asked(log) == 1


@pytest.mark.parametrize(
    ("generator", "task", "more"),
    [
        (SIZES, "large", {}),
        (SIZES, "small", {"size": 2}),
        (replace(SIZES, identity=lambda: "sizes 2"), "small", {}),
    ],
    ids=["another task", "other settings", "another version of the package"],
)
def test_anything_else_is_asked_about(log: Path, generator: Generator, task: str, more: dict[str, Any]) -> None:
    settings = {"size": 1, "log": str(log)}
    setting_problems(SIZES, "small", settings)
    assert setting_problems(generator, task, settings | more) == []
    assert asked(log) == 2


def test_settings_that_were_used_are_not_asked_about_and_the_registry_is_looked_at_once(log: Path) -> None:
    settings = {"size": 1, "log": str(log)}
    looks: list[str] = []
    for _ in range(2):
        assert setting_problems(SIZES, "small", settings, lambda: bool(looks.append("look") or True)) == []
    assert (asked(log), looks) == (0, ["look"])


def test_problems_are_not_remembered(log: Path) -> None:
    settings = {"size": 0, "log": str(log)}
    assert [setting_problems(SIZES, "small", settings) for _ in range(2)] == [["size must be positive"]] * 2
    assert asked(log) == 2


def test_without_a_cache_every_check_asks(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_CACHE", str(log / "below-a-file"))
    settings = {"size": 1, "log": str(log)}
    assert [setting_problems(SIZES, "small", settings) for _ in range(2)] == [[], []]
    assert asked(log) == 2
