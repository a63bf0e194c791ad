"""The adapters that a vLLM server loads while it runs: the permission to load them, and the requests."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import EngineError
from engine.llm.weights import ModelWeights, materialise
from engine.serving.command_line import MIDDLEWARE, Listen, rank_of
from engine.serving.health import ask, listed_models
from engine.serving.launch import AdapterRoom, Served
from engine.serving.vllm_path.engine_adapter_guard import HEADER, TOKEN
from registry.errors import RegistryError
from registry.storage.objects import ObjectStore

PERMISSION = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
"""The environment variable that makes vLLM load adapters on request, for anyone who asks."""

_GUARD_FOLDER = Path(__file__).parent / "vllm_path"
_LOAD = "/v1/load_lora_adapter"
_MOST_BROKEN = 2
_MOST_SHOWN = 300


class Adapters:
    """The adapters of one server. Use from one thread.

    Args:
        store: the store of the registry, which has the adapters.

    Attributes:
        loaded: the adapters that the server has, by the names that requests use.
        refused: the adapters that the server could not load, and why.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.loaded: tuple[str, ...] = ()
        self.refused: dict[str, str] = {}
        self._store = store
        self._headers = {HEADER: secrets.token_urlsafe(32)}
        self._broken: Counter[str] = Counter()
        self._broken_here: set[str] = set()
        self._is_guarded = False

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """A server's environment with the permission to load adapters, protected by a token that only its parent has."""
        if key := env.get("VLLM_API_KEY"):  # vLLM then requires it from everybody
            self._headers["Authorization"] = f"Bearer {key}"
        path = os.pathsep.join(filter(None, [str(_GUARD_FOLDER), env.get("PYTHONPATH")]))
        return {**env, PERMISSION: "True", TOKEN: self._headers[HEADER], "PYTHONPATH": path}

    def room_for(self, models: Sequence[Served], room: AdapterRoom) -> AdapterRoom:
        """The room that a new server needs for some adapters and those still to come. Those that cannot be read are refused."""
        # It is a new one.
        self.loaded, self._is_guarded = (), False
        self._broken_here.clear()
        ranks = [room.rank]
        for name, weights in _by_name(models).items():
            folder = self._folder(name, weights)
            if folder is not None:
                try:
                    ranks.append(rank_of(folder))
                except EngineError as error:
                    self._refuse(name, str(error))
        return AdapterRoom(adapters=max(room.adapters, len(_by_name(models))), rank=max(ranks))

    def load(self, models: Sequence[Served], listen: Listen, seconds: float) -> bool:
        """Load the adapters that the server lacks and has not refused; False if the connection broke.

        A broken connection may mean that the server is dying. The next server is asked to load the same adapter, but after two
        failures the adapter is refused, so that an adapter that crashes its server cannot crash one after another.

        Args:
            seconds: the time after which a request counts as broken.

        Raises:
            EngineError: the server would load adapters for anyone who can reach it.
        """
        if not self._is_guarded:
            try:
                self._check_guard(listen, seconds)
            except (OSError, http.client.HTTPException):
                return False
            self._is_guarded = True
        for name, weights in _by_name(models).items():
            if name in self.loaded or name in self.refused or (folder := self._folder(name, weights)) is None:
                continue
            try:
                why = self._ask(name, folder, listen, seconds)
            except (OSError, http.client.HTTPException) as error:
                # A time-out always counts against the adapter; a broken connection counts once for each server.
                self._broken[name] += isinstance(error, TimeoutError) or name not in self._broken_here
                self._broken_here.add(name)
                if self._broken[name] < _MOST_BROKEN:
                    return False
                why = f"the server failed twice to answer while loading it ({str(error) or type(error).__name__})"
            if why:
                self._refuse(name, why)
            else:
                self.loaded = (*self.loaded, name)
        return True

    def _check_guard(self, listen: Listen, seconds: float) -> None:
        """Check that the server runs the middleware. Raises EngineError if it does not, or like `ask`."""
        status, _ = ask(listen, _LOAD, {}, seconds=seconds)
        if status != 403:
            raise EngineError(
                f"anyone who can reach its port could load adapters into it: POST {_LOAD} without the engine's token was "
                f"answered with {status} instead of 403, so it does not run the middleware that it was started with "
                f"(--middleware {MIDDLEWARE}). Use a vLLM that does, with its frontend in Python"
            )

    def _ask(self, name: str, folder: Path, listen: Listen, seconds: float) -> str:
        """Ask the server to load an adapter; returns why it refuses. Raises like `ask`."""
        document = {"lora_name": name, "lora_path": str(folder)}
        status, body = ask(listen, _LOAD, document, headers=self._headers, seconds=seconds)
        # If an earlier request was answered too late, it refuses to load the adapter again.
        if status == 200 or name in listed_models(listen, self._headers):
            return ""
        return f"status {status}: {_message(body)}"

    def _folder(self, name: str, weights: ModelWeights) -> Path | None:
        try:
            return materialise(weights, self._store)
        except (EngineError, RegistryError, OSError) as error:
            self._refuse(name, str(error))
            return None

    def _refuse(self, name: str, why: str) -> None:
        self.refused = {**self.refused, name: why}


def _by_name(models: Sequence[Served]) -> dict[str, ModelWeights]:
    return {each.name: each.weights for each in models if each.weights is not None}


def _message(body: bytes) -> str:
    """The message of an error response, in one line."""
    text = body.decode(errors="replace")
    try:
        document = json.loads(text)
        text = str(document.get("error", document)["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return " ".join(text.split())[:_MOST_SHOWN] or "no message"
