"""How fast is an in-process model? `python benchmarks/local_model.py [--model NAME] [--prompts N] [--batch-size N]`

Prints the tokens per second of `TransformersProvider` with one concurrent call per prompt, and of a plain loop over
`model.generate` with the same weights, prompts, batch size and answer length, sampled at temperature 0.7. Both ignore end
tokens, so that they generate the same number of tokens; they run alternately, and the best run of each counts. Then the
seconds for 8 samples of one long prompt: generated one by one, by `model.generate` as a batch in which each row processes
the prompt, and by the provider, which processes it once. The exit code is 1 if the provider is slower than 0.9 of the plain
loop.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from engine.llm.local.transformers import LocalModel, TransformersProvider, load
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.weights import identify, materialise
from registry.storage.objects import ObjectStore

GOAL = 0.9
TEMPERATURE = 0.7
SAMPLES = 8
SUBJECTS = ("tea", "the tides of the sea", "a triangle with sides 3, 4 and 5", "how bread rises and why it needs salt")


def request(text: str, max_tokens: int, sample: int = 0) -> Request:
    """A call like those of operators."""
    sampling = {"temperature": TEMPERATURE, "top_p": 1.0, "max_tokens": max_tokens, "stop": (), "seed": None}
    return Request("transformers", "benchmark", ({"role": "user", "content": text},), sampling, sample)


def prompts(count: int) -> list[str]:
    """Questions of mixed length."""
    return [f"Question {number}: explain {' and '.join(SUBJECTS[: 1 + number % 4])} to a child." for number in range(count)]


async def provided(provider: TransformersProvider, texts: list[str], max_tokens: int) -> int:
    """Generated tokens of concurrent calls."""
    answers = await asyncio.gather(*[provider.complete([request(text, max_tokens)]) for text in texts])
    return sum(answer.tokens_out for [answer] in answers)


async def plain(model: LocalModel, texts: list[str], max_tokens: int, batch_size: int) -> int:
    """Generated tokens of a loop over `model.generate`."""
    import torch
    from transformers import GenerationConfig

    tokenizer = model.tokenizer
    config = GenerationConfig(
        max_new_tokens=max_tokens, do_sample=True, temperature=TEMPERATURE, top_k=0, pad_token_id=tokenizer.pad_token_id
    )
    generated = 0
    for start in range(0, len(texts), batch_size):
        turns = [[{"role": "user", "content": text}] for text in texts[start : start + batch_size]]
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True, padding_side="left"
        ).to(model.network.device)
        with torch.inference_mode():
            output = model.network.generate(**encoded, generation_config=config)
        new = output[:, encoded["input_ids"].shape[1] :]
        tokenizer.batch_decode(new, skip_special_tokens=True)
        generated += new.numel()
    return generated


async def rate(run: Callable[[], Awaitable[int]]) -> float:
    """Tokens per second."""
    started = time.perf_counter()
    tokens = await run()
    return tokens / (time.perf_counter() - started)


async def sampled(provider: TransformersProvider, text: str, max_tokens: int, first: int, together: bool) -> float:
    """Seconds for SAMPLES answers to one prompt, in one batch or one after the other."""
    requests = [request(text, max_tokens, first + sample) for sample in range(SAMPLES)]
    started = time.perf_counter()
    if together:
        await provider.complete(requests)
    else:
        for each in requests:
            await provider.complete([each])
    return time.perf_counter() - started


async def compare(options: argparse.Namespace, console: Console) -> float:
    """Run and print everything. Returns the provider's share of the plain loop's speed."""
    spec = ModelSpec(provider="transformers", model=options.model, batch_size=options.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        weights = materialise(identify(options.model, None), ObjectStore(Path(folder)))
    threads = os.cpu_count() or 1
    # End tokens are ignored: `load` leaves `model.generate` none, and the provider gets the model without.
    model = dataclasses.replace(load(spec.model, weights, None, threads), ends=frozenset())
    provider = TransformersProvider(spec, lambda: (weights, None), threads)
    provider._loaded = model
    texts = prompts(options.prompts)
    await provided(provider, texts[:2], 4)
    await plain(model, texts[:2], 4, 2)
    ours, theirs = [], []
    for _ in range(options.rounds):
        theirs.append(await rate(lambda: plain(model, texts, options.max_tokens, options.batch_size)))
        ours.append(await rate(lambda: provided(provider, texts, options.max_tokens)))
    share = max(ours) / max(theirs)
    table = Table(title=f"{options.model}: {len(texts)} prompts, {options.max_tokens} tokens each, {spec.batch_size} together")
    for column in ("", "tokens/s", "all rounds", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rates, ratio in (("model.generate", theirs, 1.0), ("provider", ours, share)):
        table.add_row(name, f"{max(rates):.1f}", " ".join(f"{each:.1f}" for each in rates), f"{ratio:.2f}")
    console.print(table)
    console.print(await shared_prefill(provider, model))
    await provider.close()
    return share


async def shared_prefill(provider: TransformersProvider, model: LocalModel) -> Table:
    """Samples of one long prompt: processed once, and processed for each sample."""
    text = "Sum this up in a word. " + " ".join(f"On day {day} it rained and nobody came." for day in range(100))
    tokens, short = len(model.generation_request(request(text, 1)).prompt), 8
    started = time.perf_counter()
    await plain(model, [text] * SAMPLES, short, SAMPLES)
    repeated = time.perf_counter() - started
    seconds = {
        "one by one": await sampled(provider, text, short, 0, together=False),
        "model.generate, read by each": repeated,
        "provider, read once": await sampled(provider, text, short, SAMPLES, together=True),
    }
    table = Table(title=f"{SAMPLES} samples of one prompt of {tokens} tokens, {short} tokens each")
    for column in ("", "seconds", "gain"):
        table.add_column(column, justify="left" if not column else "right")
    for name, took in seconds.items():
        table.add_row(name, f"{took:.2f}", f"{seconds['one by one'] / took:.2f}")
    return table


def main() -> int:
    """Run the benchmark and print its results; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="embedded name, folder or Hugging Face id")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2, help="times that each of the two takes its turn")
    console = Console(width=100)
    share = asyncio.run(compare(parser.parse_args(), console))
    console.print(f"{share:.2f} of the plain loop; the goal is at least {GOAL}: {'met' if share >= GOAL else 'missed'}")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
