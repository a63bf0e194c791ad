"""Models in this process: concurrent requests are generated together, in batches of like length.

Sampling is seeded by each request's own key, so that what a batch is made of does not decide what a row gets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.llm.base import Completion, EndpointError, Request, RequestError
from engine.quiet import quiet_transformers
from engine.spec import ModelSpec

if TYPE_CHECKING:
    import torch

_LINGER_SECONDS = 0.01


class TransformersProvider:
    """A causal language model with a chat template.

    Args:
        spec: the model; `batch_size` prompts are generated together.
        weights: (folder or id of the model, folder of an adapter on it or None), called in the generating thread.
    """

    def __init__(self, spec: ModelSpec, weights: Callable[[], tuple[Path, Path | None]]) -> None:
        self._spec = spec
        self._weights = weights
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._serving: asyncio.Task[None] | None = None
        self._model: Any = None
        self._tokenizer: Any = None

    async def complete(self, request: Request) -> Completion:
        """Join the next batch; see Provider."""
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def close(self) -> None:
        """Stop generating and free the model."""
        if self._serving:
            self._serving.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._model = self._tokenizer = None

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(_LINGER_SECONDS)  # let requests that start together travel together
            batch = self._next_batch()
            try:
                completions = await loop.run_in_executor(self._thread, self._generate, [request for request, _ in batch])
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), completion in zip(batch, completions, strict=True):
                if answer.done():
                    continue
                if isinstance(completion, Exception):
                    answer.set_exception(completion)
                else:
                    answer.set_result(completion)

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Completion]]]:
        """Requests that can share one `generate`, those of like length together so that little is padding."""
        first = self._waiting[0][0]
        alike = [entry for entry in self._waiting if _shape(entry[0]) == _shape(first)]
        alike.sort(key=lambda entry: sum(len(message["content"]) for message in entry[0].messages))
        batch = alike[: self._spec.batch_size]
        taken = {id(entry) for entry in batch}
        self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        return batch

    def _generate(self, requests: Sequence[Request]) -> list[Completion | Exception]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        self._load()
        started = time.perf_counter()
        prompts = [
            self._tokenizer.apply_chat_template(list(r.messages), add_generation_prompt=True, tokenize=False) for r in requests
        ]
        encoded = self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        encoded = encoded.to(self._model.device)
        sampling = requests[0].sampling
        width = encoded["input_ids"].shape[1]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room and width + sampling["max_tokens"] > room:
            return self._too_long(requests, encoded, room)
        config = GenerationConfig(
            max_new_tokens=sampling["max_tokens"],
            do_sample=False,
            eos_token_id=self._model.generation_config.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
            stop_strings=list(sampling["stop"]) or None,
        )
        with torch.inference_mode():
            output = self._model.generate(
                **encoded,
                generation_config=config,
                logits_processor=LogitsProcessorList([_RowSampler(requests, self._model.device)]),
                tokenizer=self._tokenizer,
            )
        latency = round((time.perf_counter() - started) * 1000, 3)
        counts = encoded["attention_mask"].sum(dim=1).tolist()
        return [
            self._completion(new.tolist(), request, int(count), latency)
            for new, request, count in zip(output[:, width:], requests, counts, strict=True)
        ]

    def _completion(self, tokens: list[int], request: Request, tokens_in: int, latency: float) -> Completion:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        kept = tokens if end is None else tokens[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        reason = "stop" if end is not None or len(kept) < request.sampling["max_tokens"] else "length"
        cuts = [text.find(word) for word in request.sampling["stop"] if word in text]
        if cuts:
            text, reason = text[: min(cuts)], "stop"
        return Completion(text=text, finish_reason=reason, tokens_in=tokens_in, tokens_out=len(kept), latency_ms=latency)

    def _too_long(self, requests: Sequence[Request], encoded: Any, room: int) -> list[Completion | Exception]:
        """Requests that fit are generated alone; those that do not are refused."""
        answers: list[Completion | Exception] = []
        for request, count in zip(requests, encoded["attention_mask"].sum(dim=1).tolist(), strict=True):
            needed = int(count) + request.sampling["max_tokens"]
            if needed <= room:
                answers += self._generate([request])
            else:
                answers.append(
                    RequestError(
                        f"the prompt has {int(count)} tokens; with max_tokens that is {needed}, the model takes {room}"
                    )
                )
        return answers

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quiet_transformers()
        folder, adapter = self._weights()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # bfloat16 is slow on most CPUs; on GPUs that have it, it halves the memory.
        dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError) as error:
            raise EndpointError(f"cannot load the model {self._spec.model}: {error}") from error
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        self._model = model.to(device).eval()


def _shape(request: Request) -> tuple[Any, ...]:
    """What all requests of one `generate` must share."""
    return request.sampling["max_tokens"], tuple(request.sampling["stop"])


class _RowSampler:
    """Samples each row with its own temperature, top_p and seed, by the Gumbel-max trick.

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T), so greedy search over what this returns samples.
    """

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        import torch

        self._rows = []
        for row, request in enumerate(requests):
            temperature = request.sampling["temperature"]
            if temperature > 0:
                generator = torch.Generator(device=device)
                generator.manual_seed(int(request.key[:15], 16))
                self._rows.append((row, temperature, request.sampling["top_p"], generator))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        scores = scores.float()
        for row, temperature, top_p, generator in self._rows:
            logits = scores[row] / temperature
            if top_p < 1.0:
                ordered, order = logits.sort(descending=True)
                before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
                logits = logits.index_fill(0, order[before >= top_p], float("-inf"))
            # -log of an exponential draw is a Gumbel draw.
            scores[row] = logits - torch.empty_like(logits).exponential_(generator=generator).log()
        return scores
