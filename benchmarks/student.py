"""A small student, made on the spot: a Llama of about a million weights that can calculate and look numbers up.

Its pre-training text contains calculations and lists to read from, but no word problems and no solutions. All arms of
benchmarks/personamath.py start from the same student.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

VOCABULARY = 1200
LENGTH = 128
BATCH = 16
WARM_UP = 50
MOST = 99

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def build(folder: Path, texts: Sequence[str], steps: int, on_step: Callable[[int, float], None], seed: int = 0) -> None:
    """Make a tokenizer and pre-train a model; save both to `folder`.

    Args:
        folder: a Hugging Face folder afterwards.
        texts: the texts that the tokenizer is made for; their words appear at random in the pre-training text.
        steps: the number of steps of pre-training, each of BATCH x LENGTH tokens.
        on_step: called with each step's number and loss.
        seed: the seed of weights and text.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    random = Random(seed)
    words = sorted(set(re.findall(r"[a-z]{3,}", " ".join(texts))))
    tokenizer = _tokenizer([*texts, *("".join(map("".join, document(random, words))) for _ in range(2000))])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Muon learns to calculate in a tenth of AdamW's steps; embeddings and norms are not for it.
    hidden = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = {torch.optim.Muon(hidden, weight_decay=0.01): 2e-2, torch.optim.AdamW(others, betas=(0.9, 0.98)): 3e-3}
    batches = _batches(tokenizer, random, words)
    for step in range(steps):
        share = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        tokens, labels = next(batches)
        loss = model(input_ids=torch.tensor(tokens), labels=torch.tensor(labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in optimizers.items():
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad()
        on_step(step, loss.item())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def document(random: Random, words: Sequence[str]) -> list[tuple[str, str]]:
    """A text to pre-train on, in pieces (given, to be learned): calculations, or counts of things and questions on them."""
    return _counts(random, words) if random.random() < 0.6 else _sums(random)


def calculation(random: Random, left: int | None = None) -> tuple[int, str, int, int]:
    """A calculation between whole numbers up to MOST: left, sign, right, result."""
    while True:
        sign = random.choice("++--*/")
        a = random.randint(0, MOST) if left is None else left
        b = random.randint(1, random.choice((20, MOST)))
        if sign == "/" and left is None:
            a = b * random.randint(1, max(1, MOST // b))
        elif sign == "*" and left is None:
            a = random.randint(1, max(1, MOST // b))
        if (result := calculated(a, sign, b)) is not None:
            return a, sign, b, result


def calculated(left: int, sign: str, right: int) -> int | None:
    """The result, when it is a whole number from 0 to MOST."""
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
    whole = sign != "/" or (right > 0 and left % right == 0)
    return result if whole and 0 <= result <= MOST else None


def _sums(random: Random) -> list[tuple[str, str]]:
    """Calculations, some of which continue from the last result."""
    pieces, last = [], None
    for _ in range(random.randint(3, 6)):
        a, sign, b, last = calculation(random, last if random.random() < 0.4 else None)
        pieces.append((f"{a} {sign} {b} =", f" {last}\n"))
    return pieces


def _counts(random: Random, words: Sequence[str]) -> list[tuple[str, str]]:
    """Counts of things between other words; questions for them, and for one or two calculations with them."""
    things = random.sample(words, random.randint(2, 6))
    counts = {thing: random.randint(1, random.choice((20, MOST))) for thing in things}
    told = " ".join(_told(random, words, thing, count) for thing, count in counts.items()) + "\n"
    pieces = []
    for _ in range(random.randint(2, 4)):
        asked = random.choice(things)
        number, solution = counts[asked], ""
        for _ in range(random.randint(0, 2)):
            thing = random.choice(things)
            possible = {each: found for each in "+-*/" if (found := calculated(number, each, counts[thing])) is not None}
            if not possible:
                break
            sign = random.choice(list(possible))
            before, number = number, possible[sign]
            asked, solution = f"{asked} {sign} {thing}", f"{solution}{before} {sign} {counts[thing]} = {number}\n"
        pieces.append((f"{told}{asked}?\n", solution or f"{number}\n"))
        told = ""
    return pieces


def _told(random: Random, words: Sequence[str], thing: str, count: int) -> str:
    """A sentence of no meaning in which a thing is counted."""
    said = random.choice(("{n} {x}", "{x}: {n}", "{n} of the {x}", "the {x} are {n}")).format(n=count, x=thing)
    before, after = (random.choices(words, k=random.randint(0, 4)) for _ in range(2))
    return " ".join([*before, said, *after]) + random.choice(".,?")


def _batches(tokenizer: Any, random: Random, words: Sequence[str]) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Documents one after the other, cut into BATCH rows of LENGTH tokens; labels are -100 where nothing is to be learned."""
    tokens: list[int] = []
    labels: list[int] = []
    while True:
        while len(tokens) < BATCH * LENGTH:
            for given, learned in document(random, words):
                for text, counts in ((given, False), (learned, True)):
                    ids = tokenizer(text)["input_ids"]
                    tokens += ids
                    labels += ids if counts else [-100] * len(ids)
            tokens.append(tokenizer.eos_token_id)
            labels.append(-100)
        rows = [slice(row * LENGTH, (row + 1) * LENGTH) for row in range(BATCH)]
        yield [tokens[row] for row in rows], [labels[row] for row in rows]
        del tokens[: BATCH * LENGTH], labels[: BATCH * LENGTH]


def _tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE in which every number up to MOST is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    numbers = pre_tokenizers.Digits(individual_digits=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([numbers, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [*texts, *[" ".join(map(str, range(MOST + 1)))] * len(texts)],
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=_SPECIALS, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer
