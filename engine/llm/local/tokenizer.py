"""Counts the tokens of prompts, for models whose tokenizer is on this machine. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.llm.limits.budget import TEMPLATE_TOKENS
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import texts_of
from engine.llm.weights import EMBEDDED, EMBEDDED_PACKAGE, ModelWeights
from engine.user_cache import cache_folder

_TOKENS, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
"""The files of a tokenizer."""

_FRAME_TOKENS = 16
"""Tokens that a template may add to a message, if it cannot be rendered."""

Messages = Sequence[Mapping[str, Any]]


class Tokenizer:
    """The tokenizer and the chat template of a model.

    Args:
        folder: the folder with `tokenizer.json` and, usually, `tokenizer_config.json`.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Fast

        self._tokenizer = Fast.from_file(str(folder / _TOKENS))
        config = folder / _CONFIG
        self._config: dict[str, Any] = json.loads(config.read_text("utf-8")) if config.exists() else {}
        template = folder / _TEMPLATE
        text = template.read_text("utf-8") if template.exists() else self._config.get("chat_template")
        self._template = _compiled(text) if isinstance(text, str) else None

    def count(self, text: str) -> int:
        """The tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count_prompt(self, messages: Messages) -> int:
        """The tokens of a prompt, as the chat template lays it out; an upper bound if the template cannot be rendered."""
        from jinja2 import TemplateError

        if self._template is not None:
            tokens = {name: _text(self._config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
            try:
                return self.count(self._template(messages=list(messages), add_generation_prompt=True, tools=None, **tokens))
            except (TemplateError, TypeError, ValueError):
                pass  # written for functions that only transformers has: its text is not known, but it is short
        return sum(sum(map(self.count, texts_of(each["content"]))) + _FRAME_TOKENS for each in messages) + TEMPLATE_TOKENS


def known_tokenizer(spec: ModelSpec, weights: ModelWeights | None) -> Tokenizer | None:
    """The tokenizer of a model, if it is on this machine; nothing is downloaded or converted.

    That of a model in the process lies beside its weights. A server that calls its model by the path of a folder, or by the
    name of a model in the hub's cache, as vLLM does, uses the one there.
    """
    folder = _folder(spec, weights)
    if folder is None:
        return None
    try:
        return Tokenizer(folder)
    except (OSError, ValueError, ImportError):
        return None
    except Exception:  # the library raises plain exceptions for files that it cannot read
        return None


def tokenizer_digest(spec: ModelSpec, weights: ModelWeights | None) -> str | None:
    """The SHA-256 of the files of `known_tokenizer`, without loading it; None if there are none."""
    folder = _folder(spec, weights)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for name in (_TOKENS, _CONFIG, _TEMPLATE):
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            digest.update(f"{name}: {error.errno}\n".encode())
        else:
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _folder(spec: ModelSpec, weights: ModelWeights | None) -> Path | None:
    return next((folder for folder in _folders(spec, weights) if (folder / _TOKENS).is_file()), None)


def _folders(spec: ModelSpec, weights: ModelWeights | None) -> list[Path]:
    if weights is not None and weights.base is not None:
        weights = weights.base
    if weights is None:
        return [Path(spec.model), *_in_hub_cache(spec.model)] if spec.provider == "openai" else []
    if weights.source == "folder":
        return [Path(weights.location)]
    if weights.source == "hub":
        return _in_hub_cache(weights.location)
    if weights.source == "embedded" and weights.location == EMBEDDED:
        return [cache_folder() / "models" / f"{EMBEDDED}-{EMBEDDED_PACKAGE.rpartition('=')[2]}"]
    return []


def _in_hub_cache(name: str) -> list[Path]:
    """The snapshots of a model in the cache of Hugging Face's hub."""
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME") or "~/.cache/huggingface", "hub")
    if name.count("/") != 1 or ".." in name:
        return []
    return sorted(Path(home).expanduser().glob(f"models--{name.replace('/', '--')}/snapshots/*"))


def _compiled(template: str) -> Callable[..., str] | None:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise
    try:
        render: Callable[..., str] = environment.from_string(template).render
    except TemplateError:
        return None
    return render


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _text(token: Any) -> str:
    """A special token, which is a text or an object with one."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
