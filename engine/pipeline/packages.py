"""Packages that a pipeline needs but that are not installed: the check reports them, with the command that installs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

_LOCAL = frozenset({"gguf", "sentence_transformers", "torch", "transformers"})

EXTRAS: Mapping[str, frozenset[str]] = {
    "local": _LOCAL,
    "reports": frozenset({"matplotlib"}),
    "s3": frozenset({"s3fs"}),
    "sources": frozenset({"countryinfo", "datasets", "reasoning_gym"}),
    "train": _LOCAL | {"accelerate", "datasets", "matplotlib", "peft", "trl"},
    "ui": frozenset({"markdown_it", "mdit_py_plugins", "python_multipart", "starlette", "uvicorn"}),
}
"""What each extra of this distribution installs, by module name; for more than one package, the first extra that has all."""

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("torch", "transformers"),
    "sentence-transformers": ("sentence_transformers", "torch"),
}
"""Packages that a model's provider needs."""


def missing(modules: Iterable[str]) -> list[str]:
    """Those of some top-level modules that are not installed."""
    return sorted(module for module in modules if not is_installed(module))


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported to find out."""
    return importlib.util.find_spec(module) is not None


def how_to_install(modules: Iterable[str]) -> str:
    """The command that installs some modules."""
    wanted = set(modules)
    extra = next((name for name, members in EXTRAS.items() if wanted <= members), None)
    if extra:
        return f"pip install 'posttrain-engine[{extra}]'"
    extras = [name for name, members in EXTRAS.items() if wanted & members]
    ours = [f"'posttrain-engine[{','.join(extras)}]'"] if extras else []
    return " ".join(["pip install", *ours, *sorted(wanted.difference(*EXTRAS.values()))])
