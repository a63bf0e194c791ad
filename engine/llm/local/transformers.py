"""Chat models in this process: concurrent requests are generated together, in batches of similar length.

Each request's key seeds its sampling, so that a row's answer does not depend on the other requests in its batch.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.library_noise import quiet_transformers
from engine.llm.local import memory
from engine.llm.local.generation import Generated, GenerationRequest, TokenScore, generate
from engine.llm.local.loading import one_at_a_time
from engine.llm.types.completions import LEAST_LOGPROB, Completion, TokenLogprob
from engine.llm.types.errors import EndpointError, ModelError, RequestError, StoppedError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.provider import Provider
from engine.llm.types.requests import Request, images_in, texts_of
from engine.llm.types.structured import in_words
from registry.counted import counted

_LINGER_SECONDS = 0.01


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A request that waits for its answer, and who made it."""

    request: Request
    answer: asyncio.Future[Completion]
    asker: object

    @functools.cached_property
    def order(self) -> tuple[int, str]:
        """Sort key: requests of similar length together, samples of one prompt next to each other."""
        texts = [text for message in self.request.messages for text in texts_of(message["content"])]
        text = "\n".join(texts) + str(self.request.schema or "")
        return len(text), text

    def resolve(self, result: Completion | Exception) -> None:
        """Set the result, unless the waiting call was cancelled. In the event loop's thread."""
        if self.answer.done():
            return
        if isinstance(result, Completion):
            self.answer.set_result(result)
        else:
            self.answer.set_exception(result)


class TransformersProvider:
    """A causal language model with a chat template, on the GPU if there is one.

    Args:
        spec: the model; `batch_size` answers are generated together.
        weights: returns (folder or id of the model, folder of its adapter or None); called in the generating thread.
        threads: number of CPU threads for a model on the CPU; None uses torch's default.
    """

    def __init__(self, spec: ModelSpec, weights: Callable[[], tuple[Path, Path | None]], threads: int | None = None) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._weights = weights
        self._threads = threads
        self._most = spec.batch_size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._waiting: list[_Waiting] = []
        self._serving: asyncio.Task[None] | None = None
        self._closed = threading.Event()
        self._loaded: LocalModel | None = None

    def share(self) -> Provider:
        """The model for one of the steps that use it: with `stop`, only the step's own requests fail."""
        return _Share(self)

    async def complete(self, requests: Sequence[Request], asker: object = None) -> list[Completion]:
        """Add requests to the next batches; see Provider.

        Args:
            requests: differ only in `sample`.
            asker: who makes them; see `stop`.

        Raises:
            RequestError: the prompt and max_tokens exceed the model's context length.
            EndpointError: the model cannot be loaded, its tokenizer has no chat template, or not even one answer fits into the
                memory.
            StoppedError: the provider was closed.
        """
        if self._closed.is_set():
            raise StoppedError(f"the model {self._spec.model} was closed")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(request, loop.create_future(), asker) for request in requests]
        self._waiting += waiting
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        first, *others = await asyncio.gather(*[each.answer for each in waiting])
        return [first, *[other.model_copy(update={"tokens_in": 0}) for other in others]]

    def stop(self, why: ModelError, keys: Collection[str], asker: object = None) -> None:
        """See Provider. The current batch finishes. Equal requests of other askers continue."""
        for each in self._waiting:
            if each.asker is asker and each.request.key in keys:
                each.resolve(why)

    async def close(self) -> None:
        """Stop generating at the next token and free the model; requests in progress fail with StoppedError."""
        self._closed.set()
        if self._serving:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        for each in self._waiting:
            each.resolve(StoppedError(f"the model {self._spec.model} was closed"))
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._loaded = None

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(_LINGER_SECONDS)  # so that requests that start together share a batch
            batch = self._next_batch()

            def resolve(each: _Waiting, result: Completion | Exception) -> None:
                loop.call_soon_threadsafe(each.resolve, result)

            try:
                await loop.run_in_executor(self._thread, self._generate, batch, resolve)
            except asyncio.CancelledError:
                self._waiting += batch  # `close` resolves them
                raise
            except Exception as error:
                for each in batch:
                    each.resolve(error)

    def _next_batch(self) -> list[_Waiting]:
        """The request that has waited longest, and those of the most similar length, for little padding."""
        self._waiting = [each for each in self._waiting if not each.answer.done()]
        if not self._waiting:
            return []
        ordered = sorted(self._waiting, key=lambda each: each.order)
        place = ordered.index(self._waiting[0])
        # Aligned blocks rather than the nearest neighbours, so that the remaining requests form blocks as well.
        start = max(0, min(place - place % self._most, len(ordered) - self._most))
        batch = ordered[start : start + self._most]
        taken = {id(each) for each in batch}
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        return batch

    # -- in the generating thread --------------------------------------------------------------------------------------

    def _load(self) -> LocalModel:
        with one_at_a_time:
            if self._closed.is_set():
                raise StoppedError(f"the model {self._spec.model} was closed")
            return load(self._spec.model, *self._weights(), self._threads)

    def _generate(self, batch: Sequence[_Waiting], resolve: Callable[[_Waiting, Completion | Exception], None]) -> None:
        if not batch or self._closed.is_set():
            return
        model = self._loaded or self._load()
        self._loaded = None if self._closed.is_set() else model
        tasks: list[tuple[_Waiting, GenerationRequest]] = []
        for each in batch:
            try:
                tasks.append((each, model.generation_request(each.request)))
            except ModelError as error:
                resolve(each, error)
        if tasks:
            self._within_memory(model, tasks, resolve)

    def _within_memory(
        self,
        model: LocalModel,
        tasks: list[tuple[_Waiting, GenerationRequest]],
        resolve: Callable[[_Waiting, Completion | Exception], None],
    ) -> None:
        """Generate, in parts if the batch does not fit into the memory."""
        import torch

        left = dict(enumerate(tasks))
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                answers = generate(model.network, [task for _, task in tasks], model.ends, self._closed.is_set)
                for place, generated in answers:
                    each, task = left.pop(place)
                    latency = round((time.perf_counter() - started) * 1000, 3)
                    try:
                        resolve(each, model.completion(each.request, task, generated, latency))
                    except RequestError as error:
                        resolve(each, error)
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_full(error):
                raise
            detail = str(error).partition("\n")[0]
        memory.release()
        where = "the GPU's memory" if model.network.device.type == "cuda" else "the memory"
        if len(tasks) == 1:
            each, task = tasks[0]
            what = f"one answer of up to {counted(task.max_tokens, 'token')} to a prompt of {counted(task.prompt, 'token')}"
            why = f"{what} does not fit into {where} next to the model {model.name}"
            resolve(each, EndpointError(f"{why}; lower max_tokens, or {memory.ADVICE} ({detail})"))
            return
        half = -(-len(tasks) // 2)
        if half < self._most:
            self._most = half
            self.notes.append(f"{where} was full: {counted(half, 'answer')} at a time instead of {len(tasks)}")
        rest = [*left.values()]
        for start in range(0, len(rest), half):
            self._within_memory(model, rest[start : start + half], resolve)


class _Share:
    """See TransformersProvider.share."""

    def __init__(self, model: TransformersProvider) -> None:
        self.notes = model.notes
        self._model = model

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """See Provider."""
        return await self._model.complete(requests, self)

    def stop(self, why: ModelError, keys: Collection[str]) -> None:
        """See Provider."""
        self._model.stop(why, keys, self)

    async def close(self) -> None:
        """Nothing: the model may have other users."""


@dataclass(frozen=True)
class LocalModel:
    """A loaded model: converts requests to tokens, and tokens to answers.

    Args:
        name: the name in the pipeline.
        network, tokenizer: objects of the transformers library.
        ends: tokens that end an answer.
        room: the maximum of tokens in a prompt and its answer; None if unknown.
    """

    name: str
    network: Any
    tokenizer: Any
    ends: frozenset[int]
    room: int | None

    def generation_request(self, request: Request) -> GenerationRequest:
        """The generation request for a chat request.

        Raises:
            RequestError: it is too long, or the chat template rejects it.
            EndpointError: there is no chat template.
        """
        sampling = request.sampling
        prompt = self._tokens(request)
        needed = len(prompt) + sampling["max_tokens"]
        if self.room and needed > self.room:
            raise RequestError(
                f"the prompt has {counted(prompt, 'token')}; with max_tokens that makes {needed}; the model's limit is "
                f"{self.room}"
            )
        return GenerationRequest(
            prompt=prompt,
            max_tokens=sampling["max_tokens"],
            temperature=1.0 if sampling["temperature"] is None else sampling["temperature"],
            top_p=sampling["top_p"],
            seed=int(request.key[:15], 16),
            logprobs=sampling.get("logprobs"),
            is_over=self._stops([word for word in sampling["stop"] if word]),
        )

    def completion(self, request: Request, task: GenerationRequest, generated: Generated, latency_ms: float) -> Completion:
        """The answer as text. The text ends before a stop word, but its tokens are counted and have log-probabilities.

        Raises:
            RequestError: a log-probability is not a number.
        """
        text = self.tokenizer.decode(generated.tokens, skip_special_tokens=True)
        cuts = [text.find(word) for word in request.sampling["stop"] if word and word in text]
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            finish_reason="length" if generated.cut_off and not cuts else "stop",
            tokens_in=len(task.prompt),
            tokens_out=len(generated.tokens),
            latency_ms=latency_ms,
            logprobs=None if generated.scores is None else tuple(map(self._line, generated.scores)),
        )

    def _tokens(self, request: Request) -> tuple[int, ...]:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise EndpointError(
                f"the tokenizer of the model {self.name} has no chat template, so the model cannot chat; use the model's chat"
                " (instruct) version, or put a chat_template.jinja into its folder"
            )
        if any(images_in(message["content"]) for message in request.messages):
            raise RequestError(f"the model {self.name} runs in this process as a text model, which takes no images; serve it")
        if request.tools:
            raise RequestError(f"the model {self.name} runs in this process, where models call no tools; serve it")
        schema = request.schema
        messages = [*request.messages] if schema is None else in_words(request.messages, schema)
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise RequestError(f"the chat template of {self.name} rejects the messages: {error}") from error
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _stops(self, words: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        if not words:
            return None
        # A token is at least one byte. A few more, because decoders treat the beginning of a text differently.
        reach = max(len(word.encode()) for word in words) + 4

        def is_over(tokens: Sequence[int]) -> bool:
            tail = self.tokenizer.decode(tokens[-reach:], skip_special_tokens=True)
            return any(word in tail for word in words)

        return is_over

    def _line(self, score: TokenScore) -> TokenLogprob:
        top: dict[str, float] = {}
        for token, logprob in score.top:  # most likely first; parts of characters can be equal as text
            top.setdefault(self._text(token), max(logprob, LEAST_LOGPROB))
        try:
            return TokenLogprob(token=self._text(score.token), logprob=max(score.logprob, LEAST_LOGPROB), top=top)
        except ValueError as error:
            raise RequestError(f"the model {self.name} returned log-probabilities that are not numbers (NaN)") from error

    @functools.cached_property
    def _text(self) -> Callable[[int], str]:
        def text(token: int) -> str:
            decoded: str = self.tokenizer.decode([token])
            return decoded

        return functools.cache(text)


def load(name: str, folder: Path, adapter: Path | None, threads: int | None) -> LocalModel:
    """A model from its folder, with an adapter merged into it, on the GPU if there is one.

    Args:
        name: the name in the pipeline.
        folder: folder or Hugging Face id.
        adapter: folder of an adapter, or None.
        threads: number of CPU threads for the calling thread; None uses torch's default.

    Raises:
        EndpointError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    quiet_transformers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # bfloat16 is slow on most CPUs; on GPUs that support it, it halves the memory.
    dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if device == "cpu" and threads:
        torch.set_num_threads(threads)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        if adapter:
            from peft import PeftModel

            network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
        network = network.to(device).eval()
    except (OSError, ValueError) as error:
        raise EndpointError(f"cannot load the model {name}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not memory.is_full(error):
            raise
        raise EndpointError(f"the model {name} does not fit into the memory; {memory.ADVICE} ({error})") from error
    found = network.generation_config.eos_token_id
    ends = frozenset(found if isinstance(found, list) else [tokenizer.eos_token_id if found is None else found]) - {None}
    # Defaults of the model's authors (a repetition penalty, ...) must not override the pipeline's sampling.
    network.generation_config = GenerationConfig()
    room = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return LocalModel(name, network, tokenizer, ends, room)
