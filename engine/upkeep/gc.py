"""Garbage collection of a whole registry: versions, objects, and the leftovers of steps."""

from __future__ import annotations

import datetime as dt
from functools import partial

from engine.upkeep.leftovers import step_folders
from registry import Registry
from registry.upkeep import gc as of_registry
from registry.upkeep.gc import GRACE, Garbage


def find(registry: Registry, grace: dt.timedelta = GRACE) -> Garbage:
    """What `collect` would remove now. See registry.upkeep.gc.find."""
    return of_registry.find(registry, grace, partial(step_folders, registry))


def collect(registry: Registry, grace: dt.timedelta = GRACE) -> Garbage:
    """Remove what is not needed; returns what was removed. See registry.upkeep.gc.collect."""
    return of_registry.collect(registry, grace, partial(step_folders, registry))
