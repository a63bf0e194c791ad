"""Decoding with torch: a prompt is processed once for all its answers, and a finished row costs nothing more.

If rows cannot be selected from the model's cache, transformers' own `generate` does the steps, with the same draws.
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
"""The nucleus of top_p is nearly always among this many tokens. Sorting a whole vocabulary takes longer than a small model."""

_FREE_PLACES = 64
"""Free places for tokens in a cache, before it is copied to a larger one."""


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Args:
        prompt: token ids; equal prompts are processed once.
        max_tokens: at least 1.
        temperature: 0 takes the most likely token.
        top_p: draw from the most likely tokens that together have this probability.
        seed: the seed of this row's draws.
        logprobs: the number of alternatives; None for no log-probabilities at all.
        is_over: given the tokens so far, returns whether the answer ends here (stop words).
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
    """A drawn token's log-probability in the model's own distribution, and the most likely (token, log-probability) pairs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Generated:
    """An answer: its tokens without the end token, a score for each if requested, and whether it was cut off."""

    tokens: tuple[int, ...]
    scores: tuple[TokenScore, ...] | None
    cut_off: bool


def generate(
    model: Any, requests: Sequence[GenerationRequest], ends: frozenset[int], is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Generated]]:
    """Answers as they finish, with their indices in `requests`. Iterate in torch.inference_mode().

    Args:
        model: a causal language model of transformers, in evaluation mode.
        requests: generated together; prompts of similar length waste least.
        ends: tokens that end an answer.
        is_stopped: called before each token; if it returns True, unfinished answers are dropped.
    """
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(request.prompt for request in requests))}
    reads = [prompts[request.prompt] for request in requests]
    rows = _Rows(requests, ends, model.device)
    cache = _cache_by_rows(model)
    if cache is None:
        yield from _generate_plainly(
            model, [request.prompt for request in requests], max(request.max_tokens for request in requests), rows, is_stopped
        )
        return
    batch = _Batch(model, [*prompts], max(request.max_tokens for request in requests), cache)
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
        logits = batch.read_next(tokens)


class _Batch:
    """Left-padded token sequences and the model's cache for them.

    Args:
        model: the model.
        prompts: token ids, one row each.
        room: the number of tokens that may be added to a row.
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
        """Process the prompts. Returns logits of the next tokens, float32 (rows, vocabulary)."""
        positions = (self._mask[:, : self._width].cumsum(dim=1) - 1).clamp(min=0)
        return self._forward(self._ids, positions)

    def read_next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token to each row; `tokens` has shape (rows,). Returns logits as `read` does."""
        self._width += 1
        self._lengths = self._lengths + 1
        return self._forward(tokens[:, None], self._lengths - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows, in this order; a row may occur several times."""
        if [*rows] == [*range(len(self._mask))]:
            return
        chosen = self._mask.new_tensor(rows)
        self._cache.batch_select_indices(chosen)
        self._mask, self._lengths = self._mask[chosen], self._lengths[chosen]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Only the logits of the last position: those of a whole prompt would fill the memory.
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
    """The answers in progress: the tokens drawn for each, and which rows continue."""

    def __init__(self, requests: Sequence[GenerationRequest], ends: frozenset[int], device: torch.device) -> None:
        self.active: list[int] = [*range(len(requests))]
        self._requests = requests
        self._ends = ends
        self._draw = Sampler(requests, device)
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._scores: list[list[TokenScore]] = [[] for _ in requests]

    def draw(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, Generated]], list[int]]:
        """Draw the next token of each row that continues.

        Args:
            logits: float32 (continuing rows, vocabulary).

        Returns:
            The tokens drawn, the answers that have ended, and the indices in `logits` of the rows that still continue.
        """
        drawn = self._draw(logits, self.active)
        tokens = drawn.tolist()
        self._score(logits, drawn)
        places, ended = [], []
        for place, (row, token) in enumerate(zip(self.active, tokens, strict=True)):
            if (generated := self._add(row, token)) is None:
                places.append(place)
            else:
                ended.append((row, generated))
        self.active = [self.active[place] for place in places]
        return drawn, ended, places

    def _add(self, row: int, token: int) -> Generated | None:
        request, tokens = self._requests[row], self._tokens[row]
        at_end = token in self._ends
        if not at_end:
            tokens.append(token)
            at_end = request.is_over is not None and request.is_over(tokens)
        if not at_end and len(tokens) < request.max_tokens:
            return None
        scores = None if request.logprobs is None else tuple(self._scores[row][: len(tokens)])
        return Generated(tuple(tokens), scores, cut_off=not at_end)

    def _score(self, logits: torch.Tensor, drawn: torch.Tensor) -> None:
        """Record the log-probabilities of the drawn tokens, for the rows that requested them."""
        wanted = [(place, row, self._requests[row].logprobs or 0) for place, row in enumerate(self.active)]
        wanted = [each for each in wanted if self._requests[each[1]].logprobs is not None]
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
    """Draws tokens, each row with its own temperature, top_p and seed, independently of the other rows.

    Uses the Gumbel-max trick: argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T). The noise belongs to a
    token and not to a place in a cumulative sum, so differences in the last bits of logits rarely change a draw.

    Args:
        requests: the rows.
        device: the device on which the logits will be.
    """

    def __init__(self, requests: Sequence[GenerationRequest], device: torch.device) -> None:
        import torch

        self._requests = requests
        self._generators = [torch.Generator(device=device).manual_seed(request.seed) for request in requests]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Tokens (n) for the rows with indices `rows`, given their logits, float32 (n, vocabulary)."""
        places = [place for place, row in enumerate(rows) if self._requests[row].temperature > 0]
        if not places:
            return logits.argmax(dim=-1)
        if len(places) == len(rows):
            return self._sample(logits, rows)
        tokens = logits.argmax(dim=-1)
        tokens[places] = self._sample(logits[places], [rows[place] for place in places])
        return tokens

    def _sample(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        import torch

        scores = logits / logits.new_tensor([[self._requests[row].temperature] for row in rows])
        narrow = [place for place, row in enumerate(rows) if self._requests[row].top_p < 1]
        if narrow:
            shares = logits.new_tensor([[self._requests[rows[place]].top_p] for place in narrow])
            scores[narrow] = nucleus(scores[narrow], shares)
        noise = torch.empty_like(scores)
        for place, row in enumerate(rows):
            noise[place].exponential_(generator=self._generators[row])
        # -log of an exponential draw is a Gumbel draw.
        return scores.sub_(noise.log_()).argmax(dim=-1)


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for all but the most likely tokens that together have the probability `top_p`.

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
    """Like `generate`, with transformers' own loop: every row processes its prompt, and finished rows stay to the end."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    ids, mask = _left_padded(prompts, model.device)
    done: list[tuple[int, Generated]] = []

    def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        active = rows.active
        tokens, ended, _places = rows.draw(scores[active].float())
        done.extend(ended)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, 0] = 0  # rows that have ended are padded
        forced[active] = float("-inf")
        forced[active, tokens] = 0
        return forced

    def is_done(_: torch.Tensor, __: Any, **___: Any) -> torch.Tensor:
        active = set() if is_stopped() else {*rows.active}
        return torch.tensor([row not in active for row in range(len(prompts))], device=ids.device)

    model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=0),
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([is_done]),
    )
    yield from done


def _cache_by_rows(model: Any) -> Any:
    """An empty cache whose rows can be selected, or None: other kinds of layers store more than a row's keys and values."""
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
    """A subclass of DynamicLayer with free places at its end; the original copies everything for each token."""
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
    """Token ids and attention mask, both int64 (prompts, longest). Any token can be the padding, because it is masked."""
    import torch

    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + [*prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
