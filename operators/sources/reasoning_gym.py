"""`generator: reasoning_gym/<task>`: maths problems with verified answers, made offline by the package reasoning-gym.

Settings under `with` are those of the task, for instance `{min_terms: 2, max_terms: 2}` for `basic_arithmetic`. The `size` is
the dataset's `limit` (100 by default); the `seed` is the pipeline's unless it is set.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from engine.operator import Generator, did_you_mean

PACKAGE = "reasoning_gym"


def problems(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows with question, answer, source (the task) and id."""
    from reasoning_gym import create_dataset

    dataset = create_dataset(task, **{"size": limit, "seed": seed, **settings})
    for number in range(limit):
        item = dataset[number]
        yield {"question": item["question"], "answer": str(item["answer"]), "source": task, "id": f"{task}-{number}"}


def problems_with(task: str, settings: Mapping[str, Any]) -> list[str]:
    """The problems of a task's name or settings."""
    if importlib.util.find_spec(PACKAGE) is None:
        return ["the package reasoning-gym is not installed; install it with: pip install 'posttrain-engine[sources]'"]
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        return [f"reasoning_gym has no task {task!r}; {did_you_mean(task, DATASETS, 'its documentation lists them')}"]
    try:
        create_dataset(task, **{"size": 1, **settings})
    except (TypeError, ValueError, AssertionError) as error:
        return [f"reasoning_gym/{task} does not accept these settings: {error}"]
    return []


def identity() -> str:
    """The package's version, because another version may make other problems."""
    return f"{PACKAGE} {version('reasoning-gym')}"


reasoning_gym = Generator("reasoning_gym", problems, problems_with, identity)
