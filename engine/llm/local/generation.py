"""Decoding with torch: a prompt is read once for all its answers, and a row that has ended costs nothing more.

Where the model's cache cannot be taken apart by rows, transformers' own `generate` does the steps, with the same draws.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LIKELIEST = 1024
"""Tokens among which the nucleus of top_p nearly always is: to sort a whole vocabulary takes longer than a small model."""

_FREE_PLACES = 64
"""Tokens that a cache takes before it is copied to a larger place."""


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Args:
        prompt: token ids; asks with equal prompts share the reading of it.
        max_tokens: at least 1.
        temperature: 0 takes the likeliest token.
        top_p: the share of the probability, counted from the likeliest token on, that is drawn from.
        seed: of this row's draws.
        logprobs: for so many alternatives; None for no log-probabilities at all.
        is_over: told the tokens so far, whether the answer ends here (stop words).
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    is_over: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class TokenScore:
    """A drawn token's log-probability in the model's own distribution, and its likeliest (token, log-probability)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Generated:
    """An answer: its tokens without the end token, a score for each if asked for, and whether it was cut off."""

    tokens: tuple[int, ...]
    scores: tuple[TokenScore, ...] | None
    cut_off: bool


def generate(
    model: Any, asks: Sequence[GenerationRequest], ends: frozenset[int], is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Generated]]:
    """Answers as they end, with their places in `asks`. Iterate in torch.inference_mode().

    Args:
        model: a causal language model of transformers, in evaluation mode.
        asks: they are generated together; prompts of like length waste least.
        ends: tokens that end an answer.
        is_stopped: asked before each token; what has not ended by then is given up.
    """
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(ask.prompt for ask in asks))}
    reads = [prompts[ask.prompt] for ask in asks]
    rows = _Rows(asks, ends, model.device)
    cache = _cache_by_rows(model)
    if cache is None:
        yield from _generate_plainly(model, [ask.prompt for ask in asks], max(ask.max_tokens for ask in asks), rows, is_stopped)
        return
    batch = _Batch(model, [*prompts], max(ask.max_tokens for ask in asks), cache)
    logits = batch.read()
    batch.keep(reads)
    logits = logits[reads]
    while not is_stopped():
        tokens, ended, places = rows.draw(logits)
        yield from ended
        if not places:
            return
        if ended:
            batch.keep(places)
            tokens = tokens[places]
        logits = batch.read_on(tokens)


class _Batch:
    """Left-padded token sequences and what the model has computed of them.

    Args:
        model: the model.
        prompts: token ids, one row each.
        room: tokens that may be added to a row.
        cache: empty; its rows can be selected.
    """

    def __init__(self, model: Any, prompts: Sequence[tuple[int, ...]], room: int, cache: Any) -> None:
        import torch

        self._model = model
        self._cache = cache
        self._ids, mask = _left_padded(prompts, model.device)
        self._width = mask.shape[1]
        self._mask = torch.cat([mask, mask.new_ones(len(prompts), room)], dim=1)
        self._lengths = mask.sum(dim=1, keepdim=True)
        self._takes = _parameters(model) & {"position_ids", "logits_to_keep"}

    def read(self) -> torch.Tensor:
        """Put the prompts through the model. Returns logits of the next tokens, float32 (rows, vocabulary)."""
        positions = (self._mask[:, : self._width].cumsum(dim=1) - 1).clamp(min=0)
        return self._forward(self._ids, positions)

    def read_on(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token to each row; `tokens` has shape (rows,). Returns logits as `read` does."""
        self._width += 1
        self._lengths = self._lengths + 1
        return self._forward(tokens[:, None], self._lengths - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may be there several times."""
        if [*rows] == [*range(len(self._mask))]:
            return
        chosen = self._mask.new_tensor(rows)
        self._cache.batch_select_indices(chosen)
        self._mask, self._lengths = self._mask[chosen], self._lengths[chosen]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Logits of the last place alone: those of a whole prompt would fill the memory.
        further = {"position_ids": positions, "logits_to_keep": 1}
        read = self._model(
            input_ids=ids,
            attention_mask=self._mask[:, : self._width],
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in further.items() if name in self._takes},
        )
        logits: torch.Tensor = read.logits[:, -1].float()
        return logits


class _Rows:
    """The answers under way: what was drawn for each, and which go on."""

    def __init__(self, asks: Sequence[GenerationRequest], ends: frozenset[int], device: torch.device) -> None:
        self.going: list[int] = [*range(len(asks))]
        self._asks = asks
        self._ends = ends
        self._draw = Sampler(asks, device)
        self._tokens: list[list[int]] = [[] for _ in asks]
        self._scores: list[list[TokenScore]] = [[] for _ in asks]

    def draw(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, Generated]], list[int]]:
        """The next token of each row that goes on.

        Args:
            logits: float32 (rows that go on, vocabulary).

        Returns:
            Tokens (rows that went on), the answers that have ended, and the places among `logits` of rows that go on.
        """
        drawn = self._draw(logits, self.going)
        tokens = drawn.tolist()
        self._score(logits, drawn)
        places, ended = [], []
        for place, (row, token) in enumerate(zip(self.going, tokens, strict=True)):
            if (generated := self._add(row, token)) is None:
                places.append(place)
            else:
                ended.append((row, generated))
        self.going = [self.going[place] for place in places]
        return drawn, ended, places

    def _add(self, row: int, token: int) -> Generated | None:
        ask, tokens = self._asks[row], self._tokens[row]
        at_end = token in self._ends
        if not at_end:
            tokens.append(token)
            at_end = ask.is_over is not None and ask.is_over(tokens)
        if not at_end and len(tokens) < ask.max_tokens:
            return None
        scores = None if ask.logprobs is None else tuple(self._scores[row][: len(tokens)])
        return Generated(tuple(tokens), scores, cut_off=not at_end)

    def _score(self, logits: torch.Tensor, drawn: torch.Tensor) -> None:
        """Log-probabilities of what was drawn, for the rows that want them."""
        wanted = [(place, row, self._asks[row].logprobs or 0) for place, row in enumerate(self.going)]
        wanted = [each for each in wanted if self._asks[each[1]].logprobs is not None]
        if not wanted:
            return
        places = [place for place, _, _ in wanted]
        table = logits[places].log_softmax(dim=-1)
        chosen = drawn[places]
        own = table.gather(1, chosen[:, None])[:, 0]
        top, order = table.topk(min(max(most for _, _, most in wanted), table.shape[1]))
        lines = zip(wanted, chosen.tolist(), own.tolist(), order.tolist(), top.tolist(), strict=True)
        for (_, row, most), token, logprob, likely, logprobs in lines:
            alternatives = tuple(zip(likely[:most], logprobs[:most], strict=True))
            self._scores[row].append(TokenScore(token, logprob, alternatives))


class Sampler:
    """Draws tokens, each row with its own temperature, top_p and seed, whatever rows are with it.

    By the Gumbel-max trick: argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T). Noise belongs to a token
    and not to a place in a sum, so that differences in the last bits of logits rarely change a draw.

    Args:
        asks: the rows.
        device: where the logits will be.
    """

    def __init__(self, asks: Sequence[GenerationRequest], device: torch.device) -> None:
        import torch

        self._asks = asks
        self._generators = [torch.Generator(device=device).manual_seed(ask.seed) for ask in asks]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Tokens (n) for rows number `rows`, given their logits, float32 (n, vocabulary)."""
        places = [place for place, row in enumerate(rows) if self._asks[row].temperature > 0]
        if not places:
            return logits.argmax(dim=-1)
        if len(places) == len(rows):
            return self._sample(logits, rows)
        tokens = logits.argmax(dim=-1)
        tokens[places] = self._sample(logits[places], [rows[place] for place in places])
        return tokens

    def _sample(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        import torch

        scores = logits / logits.new_tensor([[self._asks[row].temperature] for row in rows])
        narrow = [place for place, row in enumerate(rows) if self._asks[row].top_p < 1]
        if narrow:
            shares = logits.new_tensor([[self._asks[rows[place]].top_p] for place in narrow])
            scores[narrow] = nucleus(scores[narrow], shares)
        noise = torch.empty_like(scores)
        for place, row in enumerate(rows):
            noise[place].exponential_(generator=self._generators[row])
        # -log of an exponential draw is a Gumbel draw.
        return scores.sub_(noise.log_()).argmax(dim=-1)


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for all but the likeliest tokens that together hold the share `top_p`.

    Args:
        logits: (rows, vocabulary).
        top_p: (rows, 1), above 0.
    """
    import torch

    probabilities = logits.softmax(dim=-1)
    vocabulary = logits.shape[1]
    for size in (min(_LIKELIEST, vocabulary), vocabulary):
        likely, order = probabilities.topk(size)
        before = likely.cumsum(dim=-1) - likely
        if bool((before[:, -1:] >= top_p).all()):
            break
    kept = logits.gather(1, order).masked_fill_(before >= top_p, float("-inf"))
    return torch.full_like(logits, float("-inf")).scatter_(1, order, kept)


def _generate_plainly(
    model: Any, prompts: Sequence[tuple[int, ...]], most: int, rows: _Rows, is_stopped: Callable[[], bool]
) -> Iterator[tuple[int, Generated]]:
    """As `generate`, by transformers' own loop: every row reads its prompt, and ended rows stay to the end."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    ids, mask = _left_padded(prompts, model.device)
    done: list[tuple[int, Generated]] = []

    def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        going = rows.going
        tokens, ended, _places = rows.draw(scores[going].float())
        done.extend(ended)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, 0] = 0  # rows that have ended are padded
        forced[going] = float("-inf")
        forced[going, tokens] = 0
        return forced

    def is_done(_: torch.Tensor, __: Any, **___: Any) -> torch.Tensor:
        going = set() if is_stopped() else {*rows.going}
        return torch.tensor([row not in going for row in range(len(prompts))], device=ids.device)

    model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=0),
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([is_done]),
    )
    yield from done


def _cache_by_rows(model: Any) -> Any:
    """An empty cache whose rows can be selected, or None: layers of other kinds keep more than keys and values of a row."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if "past_key_values" not in _parameters(model):
        return None
    cache = DynamicCache(config=model.config)
    if not cache.layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    roomy = _roomy_layer()
    cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@functools.cache
def _roomy_layer() -> Any:
    """The class of a DynamicLayer that keeps free places at its end, where the original copies everything for each token."""
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):  # type: ignore[misc]
        keys: Any
        values: Any
        stores: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            before = self.get_seq_length()
            after = before + key_states.shape[-2]
            if self.stores is None or self.stores[0].shape[-2] < after:
                self.stores = self._wider(self.keys, key_states, after), self._wider(self.values, value_states, after)
            for store, new in zip(self.stores, (key_states, value_states), strict=True):
                store[:, :, before:after] = new
            self.keys, self.values = (store[:, :, :after] for store in self.stores)
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            super().batch_select_indices(indices)
            self.stores = None

        def _wider(self, old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
            rows, heads, _, size = new.shape
            store = new.new_empty(rows, heads, width + _FREE_PLACES, size)
            if old.numel():
                store[:, :, : old.shape[-2]] = old
            return store

    return RoomyLayer


def _parameters(model: Any) -> set[str]:
    return {*inspect.signature(type(model).forward).parameters}


def _left_padded(prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 (prompts, longest). Any token does as padding: it is masked."""
    import torch

    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + [*prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
