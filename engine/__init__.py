"""The engine: from a pipeline file to committed versions.

Read the rooms in the order in which a run passes through them:

* `llm`: model calls: providers, limits, the journal of answers
* `serving`: servers of models on one machine: started, watched, ended
* `operator`: what authors of operators use
* `packages`: what packages define, and files beside the pipeline file, found by name
* `fingerprint`: an operator's code as one hash
* `spec`: the pipeline file as frozen data, with the position of every value
* `sources`: rows from files, hubs and generators, with their types checked
* `pipeline`: from the file to a checked, typed graph
* `jobs`: messages between the driver and its workers, and the files of finished partitions
* `planning`: step keys, and plans of what a run would do and cost
* `worker`: runs one partition of a step
* `execution`: executes the partitions of a run, on a Ray cluster or in this process
* `model_servers`: the servers of a run's models: started when a step needs them, and asked what they support
* `running`: runs a pipeline: decides which step may start, and commits what it made
* `comparison`: compares versions, runs and variants
* `export`: writes versions from the registry into folders
* `upkeep`: verifies and cleans up the engine's files in a registry
* `previewing`: tries a pipeline on a few rows, and forecasts the run from them
* `page`: the registry in a browser
* `cli`: the command line
* `api`: the same from Python
* `testing`: runs an operator on records, in a test

A room imports only rooms above it in this list. `credentials`, `errors`, `library_noise`, `own_loop`,
`printable` and `provenance` are used by all of them.

From Python, `import engine` gives `run`, `plan` and `check` for pipelines, `open` for registries, their results and their
errors. Each is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api.dataset import Dataset
    from engine.api.names import UnknownNameError
    from engine.api.open_registry import OpenRegistry, open
    from engine.api.pipelines import Checked, check, plan, run
    from engine.api.run_result import Run, RunError, RunInterrupted
    from engine.errors import EngineError, PipelineError, Position, Problem
    from registry.errors import CorruptError, LimitError, QueryError, RegistryError, UnknownVersionError

    __version__: str

__all__ = [
    "Checked",
    "CorruptError",
    "Dataset",
    "EngineError",
    "LimitError",
    "OpenRegistry",
    "PipelineError",
    "Position",
    "Problem",
    "QueryError",
    "RegistryError",
    "Run",
    "RunError",
    "RunInterrupted",
    "UnknownNameError",
    "UnknownVersionError",
    "__version__",
    "check",
    "open",
    "plan",
    "run",
]

_IN = {
    "engine.api.dataset": ("Dataset",),
    "engine.api.names": ("UnknownNameError",),
    "engine.api.open_registry": ("OpenRegistry", "open"),
    "engine.api.pipelines": ("Checked", "check", "plan", "run"),
    "engine.api.run_result": ("Run", "RunError", "RunInterrupted"),
    "engine.errors": ("EngineError", "PipelineError", "Position", "Problem"),
    "registry.errors": ("CorruptError", "LimitError", "QueryError", "RegistryError", "UnknownVersionError"),
}
_HOMES = {name: module for module, names in _IN.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("posttrain-engine")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
