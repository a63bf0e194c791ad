"""In-process models: rows are generated together, and each gets the answer that it would get alone."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.llm.local import generation
from engine.llm.local.transformers import TransformersProvider, load
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, RequestError, StoppedError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.structured import in_words

Make = Callable[..., TransformersProvider]


def request(prompt: str, sample: int = 0, schema: dict[str, Any] | None = None, **sampling: Any) -> Request:
    wanted = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "stop": (), "seed": None, **sampling}
    return Request("transformers", "tiny", ({"role": "user", "content": prompt},), wanted, sample, schema)


async def ask(provider: TransformersProvider, *requests: Request) -> list[Completion]:
    """Answers to requests that are made at the same time, one call each."""
    return [answer for [answer] in await asyncio.gather(*[provider.complete([each]) for each in requests])]


async def outcomes(provider: TransformersProvider, *requests: Request) -> list[Any]:
    """Like `ask`, but returns errors instead of raising them."""
    return await asyncio.gather(*[provider.complete([each]) for each in requests], return_exceptions=True)


@pytest.fixture
async def make(tiny_model: Path) -> AsyncIterator[Make]:
    made = []

    def make(folder: Path = tiny_model, batch_size: int = 4, threads: int | None = None) -> TransformersProvider:
        spec = ModelSpec(provider="transformers", model=str(folder), batch_size=batch_size)
        made.append(TransformersProvider(spec, lambda: (folder, None), threads))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def local(make: Make) -> TransformersProvider:
    return make()


def watched(provider: TransformersProvider, folder: Path, before: Callable[[Any], None] | None = None) -> list[tuple[int, int]]:
    """Records the shapes (rows, tokens) of the inputs of the provider's model."""
    model = load(str(folder), folder, None, None)
    shapes = []
    forward = model.network.forward

    def watch(input_ids: Any, **rest: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        if before:
            before(input_ids)
        return forward(input_ids=input_ids, **rest)

    model.network.forward = watch
    provider._loaded = model
    return shapes


def read(shapes: list[tuple[int, int]]) -> list[int]:
    """Rows of each prefill."""
    return [rows for rows, tokens in shapes if tokens > 1]


def plain(folder: Path, prompt: str) -> tuple[Any, Any, Any]:
    """Tokenizer, model and token ids (1, tokens), without the engine."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, turns = AutoTokenizer.from_pretrained(folder), [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder), ids["input_ids"]


def plain_answer(folder: Path, prompt: str, max_tokens: int) -> str:
    tokenizer, model, ids = plain(folder, prompt)
    new = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


@pytest.fixture(scope="session")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model per kind of cache: growing, limited to the last eight tokens, and not a cache of tokens."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    small = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tokens = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 8}
    found = {"full attention": tiny_model}
    for kind, cls, config in (
        ("sliding window", MistralForCausalLM, MistralConfig(**small, **tokens, **heads)),
        ("state space", MambaForCausalLM, MambaConfig(**small, **tokens, state_size=4)),
    ):
        found[kind] = tmp_path_factory.mktemp("model") / "of-its-kind"
        shutil.copytree(tiny_model, found[kind], ignore=shutil.ignore_patterns("*.safetensors", "config.json", "gen*.json"))
        torch.manual_seed(0)
        cls(config).save_pretrained(found[kind])
    return found


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_concurrent_requests_are_generated_together(local: TransformersProvider, tiny_model: Path) -> None:
    shapes = watched(local, tiny_model)
    answers = await ask(local, *[request(f"q{number}") for number in range(10)])
    assert sorted(read(shapes)) == [2, 4, 4]
    assert all(answer.tokens_in == len("<u>q0<e><a>") - 6 and 0 < answer.tokens_out <= 8 for answer in answers)


async def test_prompts_of_similar_length_share_a_batch_and_the_oldest_is_in_the_first(
    local: TransformersProvider, tiny_model: Path
) -> None:
    shapes = watched(local, tiny_model)
    await ask(local, request("x" * 90), *[request(letter * length) for letter in "abcd" for length in (10, 90)])
    widths = [tokens for _, tokens in shapes if tokens > 1]
    assert widths[0] == 90 + 3
    assert 10 + 3 in widths


async def test_a_long_request_is_not_overtaken_forever(local: TransformersProvider) -> None:
    async def keep_asking(number: int) -> None:
        for turn in itertools.count():
            await local.complete([request(f"{number} {turn}")])

    others = [asyncio.create_task(keep_asking(number)) for number in range(12)]
    assert (await ask(local, request("x" * 200)))[0].text
    for other in others:
        other.cancel()


async def test_finished_rows_leave_the_batch_and_are_answered_at_once(local: TransformersProvider, tiny_model: Path) -> None:
    shapes, order = watched(local, tiny_model), []

    async def one(prompt: str, max_tokens: int) -> Completion:
        [answer] = await local.complete([request(prompt, max_tokens=max_tokens)])
        order.append(prompt)
        return answer

    answers = await asyncio.gather(one("q", 2), one("s", 9), one("r", 5))
    assert order == ["q", "r", "s"]
    answers = [answers[0], answers[2], answers[1]]
    assert [answer.tokens_out for answer in answers] == [2, 5, 9]
    assert [answer.finish_reason for answer in answers] == ["length"] * 3
    assert shapes == [(3, 4), (3, 1), *[(2, 1)] * 3, *[(1, 1)] * 4]
    for prompt, answer, most in zip("qrs", answers, (2, 5, 9), strict=True):
        assert answer.text == plain_answer(tiny_model, prompt, most)


# -- the same answers as alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [["a", "a longer prompt", "x" * 50], ["same", "same", "same"], ["b", "x" * 30, "b"]])
@pytest.mark.parametrize("kind", ["full attention", "sliding window", "state space"])
async def test_greedy_answers_equal_those_of_plain_generate(
    make: Make, models: dict[str, Path], kind: str, prompts: list[str]
) -> None:
    answers = await ask(make(models[kind]), *[request(prompt, max_tokens=20) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.text == plain_answer(models[kind], prompt, 20)


async def test_a_sample_depends_on_its_request_and_not_on_its_batch(local: TransformersProvider) -> None:
    [alone] = await ask(local, request("q", temperature=1.0))
    together = await ask(local, *[request(q, temperature=1.0) for q in ("q", "other, longer", "more")])
    assert together[0].text == alone.text
    mixed = await ask(local, request("q", temperature=1.0), request("q"), request("r", temperature=0.5, top_p=0.5))
    assert mixed[0].text == alone.text
    [first, *others] = await local.complete([request("q", sample, temperature=1.0) for sample in range(3)])
    assert first.text == alone.text
    assert len({first.text, *[other.text for other in others]}) == 3
    seeds = await ask(local, *[request("q", temperature=1.0, seed=seed) for seed in range(4)])
    assert len({answer.text for answer in seeds}) > 1


async def test_samples_of_one_prompt_share_its_prefill(make: Make, tiny_model: Path) -> None:
    provider = make(batch_size=16)
    shapes = watched(provider, tiny_model)
    answers = await provider.complete([request("a prompt", sample, temperature=1.0) for sample in range(8)])
    assert read(shapes) == [1]
    assert shapes[1] == (8, 1)
    assert [answer.tokens_in for answer in answers] == [11, 0, 0, 0, 0, 0, 0, 0]  # read once, counted once
    shapes.clear()
    asked = [request(prompt, sample, temperature=1.0) for sample in range(5) for prompt in ("a prompt", "another prompt", "3")]
    separate = await ask(provider, *asked)
    assert read(shapes) == [3]
    assert [separate[3 * sample].text for sample in range(5)] == [answer.text for answer in answers[:5]]


async def test_a_model_whose_cache_cannot_be_taken_apart_gives_the_same_answers(
    make: Make, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        request("q", temperature=1.0, logprobs=3),
        request("q", 1, temperature=1.0, max_tokens=3),
        request("a longer prompt", max_tokens=30),
        request("r", temperature=0.7, top_p=0.8, max_tokens=20, stop=("e",)),
    ]
    shared = await ask(make(), *asked)
    monkeypatch.setattr(generation, "_cache_by_rows", lambda model: None)
    provider = make()
    shapes = watched(provider, tiny_model)
    whole = await ask(provider, *asked)
    assert read(shapes) == [4]
    for one, other in zip(shared, whole, strict=True):
        assert (one.text, one.finish_reason, one.tokens_out) == (other.text, other.finish_reason, other.tokens_out)
    first, second = ([line.logprob for line in answers[0].logprobs or ()] for answers in (shared, whole))
    assert first == pytest.approx(second, abs=1e-4)


async def test_log_probabilities_are_those_of_a_forward_pass(local: TransformersProvider, tiny_model: Path) -> None:
    import torch

    asked = [
        request("q", temperature=0.3, top_p=0.9, logprobs=5),
        request("another one", temperature=1.0, logprobs=0),
        request("another one", 1, temperature=1.0),
    ]
    answers = await ask(local, *asked)
    assert answers[2].logprobs is None
    for prompt, answer in zip(("q", "another one"), answers[:2], strict=True):
        assert answer.logprobs is not None
        assert len(answer.logprobs) == answer.tokens_out > 0
        tokenizer, model, ids = plain(tiny_model, prompt)
        for line in answer.logprobs:
            with torch.inference_mode():
                table = model(ids).logits[0, -1].log_softmax(-1)
            # Bytes that are not a character by themselves all read the same: the one with this log-probability was drawn.
            same = [token for token in range(len(table)) if tokenizer.decode([token]) == line.token]
            token = min(same, key=lambda each: abs(float(table[each]) - line.logprob))
            assert float(table[token]) == pytest.approx(line.logprob, abs=1e-4)
            best = {}
            for logprob, each in zip(*(part.tolist() for part in table.topk(5)), strict=True):
                best.setdefault(tokenizer.decode([each]), logprob)
            assert line.top == (pytest.approx(best, abs=1e-4) if prompt == "q" else {})
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("length", [1, 3])
async def test_stop_words_end_the_answer(local: TransformersProvider, tiny_model: Path, length: int) -> None:
    [whole] = await ask(local, request("q", max_tokens=30))
    word = whole.text[3 : 3 + length]
    shapes = watched(local, tiny_model)
    cut, other = await ask(local, request("q", max_tokens=30, stop=("never", word)), request("q", max_tokens=2))
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop"
    assert cut.tokens_out < 30
    assert len(shapes) == cut.tokens_out  # nothing is generated beyond the word
    assert other.text == whole.text[:2]


async def test_an_end_token_ends_the_answer_and_is_not_part_of_it(local: TransformersProvider, tiny_model: Path) -> None:
    model = load("tiny", tiny_model, None, None)
    local._loaded = dataclasses.replace(model, ends=frozenset())
    [whole] = await ask(local, request("q", max_tokens=30, logprobs=0))
    assert (whole.finish_reason, whole.tokens_out) == ("length", 30)
    local._loaded = model
    [cut] = await ask(local, request("q", max_tokens=30, logprobs=0))
    assert whole.logprobs is not None
    assert (cut.finish_reason, cut.tokens_out) == ("stop", [line.token for line in whole.logprobs].index("<|end|>"))
    assert cut.logprobs == whole.logprobs[: cut.tokens_out]
    assert whole.text.startswith(cut.text)


# -- prompts -------------------------------------------------------------------------------------------


async def test_a_prompt_that_does_not_fit_is_refused_and_the_others_are_answered(local: TransformersProvider) -> None:
    fits, too_long = await outcomes(local, request("short"), request("x" * 2000))
    assert isinstance(fits, list)
    assert isinstance(too_long, RequestError)
    assert "the model's limit is 1024" in str(too_long)


async def test_a_schema_is_added_to_the_prompt(local: TransformersProvider) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}}
    [asked] = await ask(local, request("q", schema=schema))
    worded = in_words(request("q").messages, schema)[0]["content"]
    [spelt] = await ask(local, request(worded))
    assert (asked.text, asked.tokens_in) == (spelt.text, spelt.tokens_in)


async def test_a_tokenizer_without_a_chat_template_is_reported(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(EndpointError, match=r"base has no chat template.*instruct"):
        await make(tmp_path / "base").complete([request("q")])


async def test_messages_that_the_chat_template_rejects_affect_only_their_request(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "strict")
    template = tmp_path / "strict" / "chat_template.jinja"
    refusal = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    refused, fine = await outcomes(make(tmp_path / "strict"), request("no"), request("yes"))
    assert isinstance(refused, RequestError)
    assert "not this" in str(refused)
    assert isinstance(fine, list)


# -- failures --------------------------------------------------------------------------------------------------------


async def test_a_missing_model_is_reported(make: Make, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EndpointError, match="cannot load the model"):
        await make(tmp_path).complete([request("q")])


async def test_requests_in_progress_fail_with_generation_and_later_ones_are_answered(
    local: TransformersProvider, tiny_model: Path
) -> None:
    broken = True

    def fail(ids: Any) -> None:
        if broken and ids.shape[1] == 1:
            raise RuntimeError("a broken kernel")

    watched(local, tiny_model, fail)
    answers = await outcomes(local, *[request(f"q{number}") for number in range(6)])
    assert [str(answer) for answer in answers] == ["a broken kernel"] * 6
    broken = False
    assert (await ask(local, request("q")))[0].text


FULL = {
    "torch's error": None,
    "of a kernel": RuntimeError("CUDA error: out of memory"),
    "of the machine": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
    "Python's": MemoryError(),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
async def test_a_full_memory_halves_the_batch_and_every_row_is_answered(
    make: Make, tiny_model: Path, error: Exception | None
) -> None:
    import torch

    def fill(ids: Any) -> None:
        if len(ids) > 2 or (ids.shape[1] > 100):
            raise error or torch.OutOfMemoryError

    asked = [request(f"q{number}", temperature=1.0) for number in range(6)]
    wanted = await ask(make(), *asked)
    provider = make(batch_size=8)
    shapes = watched(provider, tiny_model, fill)
    assert [answer.text for answer in await ask(provider, *asked)] == [answer.text for answer in wanted]
    assert provider.notes == [
        "the memory was full: 3 answers at a time instead of 6",
        "the memory was full: 2 answers at a time instead of 3",
    ]
    shapes.clear()
    await ask(provider, *asked)
    assert max(read(shapes)) == 2  # what was learnt is kept
    # The step fails, because a smaller batch or another row would not fit either.
    with pytest.raises(
        EndpointError, match="one answer of up to 8 tokens to a prompt of 203 tokens does not fit into the memory"
    ):
        await provider.complete([request("x" * 200)])


async def under_way(provider: TransformersProvider, folder: Path, *requests: Request) -> asyncio.Task[list[Any]]:
    """The outcomes of requests, when the model has begun."""
    started, loop = asyncio.Event(), asyncio.get_running_loop()
    watched(provider, folder, lambda ids: loop.call_soon_threadsafe(started.set))
    asked = asyncio.create_task(outcomes(provider, *requests))
    await started.wait()
    return asked


async def test_a_failed_step_finishes_the_current_batch_and_starts_no_other(make: Make, tiny_model: Path) -> None:
    provider = make(batch_size=1)
    failed = [request("q" * number, max_tokens=50) for number in (1, 2, 3)]
    others = request("of another step", max_tokens=1)
    asked = await under_way(provider, tiny_model, *failed, others)
    provider.stop(StoppedError("another row has failed"), [each.key for each in failed])
    assert [str(each) for each in await asked if isinstance(each, Exception)] == ["another row has failed"] * 2


async def test_stopping_a_step_leaves_equal_requests_of_others_alone(make: Make, tiny_model: Path) -> None:
    provider = make(batch_size=1)
    begun = await under_way(provider, tiny_model, request("first", max_tokens=100))
    shares = [provider.share() for _ in range(2)]
    asked = [asyncio.create_task(share.complete([request("equal")])) for share in shares]
    await asyncio.sleep(0)
    shares[0].stop(StoppedError("the step has failed"), [request("equal").key])
    await asyncio.wait([begun, *asked])
    assert isinstance(asked[0].exception(), StoppedError)
    assert asked[1].result()[0].text


async def test_closing_ends_requests_in_progress(make: Make, tiny_model: Path) -> None:
    provider = make(batch_size=1)
    asked = await under_way(provider, tiny_model, *[request("q" * number, max_tokens=900) for number in (1, 2)])
    await provider.close()
    assert all(isinstance(each, StoppedError) for each in await asked)
    with pytest.raises(StoppedError):
        await provider.complete([request("q")])


async def test_the_worker_sets_the_number_of_threads(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    await make(threads=3).complete([request("q")])
    await make().complete([request("q")])
    assert given == [3]
