"""Upper bounds from the prompts themselves: the operator is run on each row up to its first request, and nothing is sent.

The bounds of `engine.planning.bounds` do not see prompts, so they count everything that could be in one. Where the rows of a
step are known, so are its first prompts: they are counted as they are, with the model's tokenizer if it is on this machine,
or else a token for each byte. Requests that follow an answer are bounded by what they may contain: the row, the operator's
own texts, and the answers before, each of `max_tokens`. What all first prompts begin with is measured for servers' caches.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from engine.execution.jobs import job_of
from engine.fingerprint.code import code_of
from engine.jobs.messages import Partition
from engine.jobs.receipts import Receipts
from engine.llm.chat import ChatModel
from engine.llm.limits.estimates import BYTES_PER_TOKEN, token_bound
from engine.llm.local.tokenizer import Tokenizer, known_tokenizer
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request, images_in, texts_of
from engine.llm.types.structured import in_words
from engine.operator.context import Reject, Tally
from engine.packages.catalogue import full_name
from engine.packages.local_modules import use_local_modules
from engine.pipeline.graph import Pipeline, Step
from engine.planning.plan import partitions
from engine.planning.results import PromptBounds, SharedPrefix, StepPlan
from engine.spec.pipeline_spec import Resources
from engine.worker.attachments import FileCollector
from engine.worker.models import Models
from engine.worker.operation import Operation, Scope
from registry import Overlay, Record, Registry

FRAME_TOKENS = 48
"""The messages of a prompt: a system message, a user message, and the beginning of the answer."""

_TURNS = 4
"""Turns of the event loop in which an operator may make further requests once it has made one."""

_FIRST_TURNS = 100
"""Turns that it may take before: reading an image takes about three."""


def bounds_of_prompts(pipeline: Pipeline, plans: Iterable[StepPlan], registry: Registry) -> dict[str, PromptBounds]:
    """The bounds of steps whose rows are in the registry's store, by step."""
    use_local_modules(pipeline.modules)
    with tempfile.TemporaryDirectory(prefix="engine-plan-") as scratch:
        overlay = Overlay(scratch, registry)  # an operator may leave files
        return {each.name: _bounds(pipeline, pipeline.steps[each.name], each, overlay) for each in plans}


@dataclass
class _Role:
    """The requests of a step's rows to a model."""

    spec: ModelSpec
    tokenizer: Tokenizer | None
    own: int
    per_row: int
    is_declared: bool
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    prefix: str | None = None
    characters: int = 0
    prompts: int = 0

    @property
    def shared(self) -> SharedPrefix | None:
        """What the rows' first prompts begin with; None if there is only one."""
        if self.prefix is None or self.prompts < 2:
            return None
        return SharedPrefix(len(self.prefix), self.characters / self.prompts)

    def prompt(self, request: Request) -> int:
        """The maximum number of tokens in a prompt."""
        if self.tokenizer is None or request.tools or any(images_in(message["content"]) for message in request.messages):
            return token_bound(request)[0]  # a tokenizer counts neither images nor tools
        messages = in_words(request.messages, request.schema) if request.schema else request.messages
        return self.tokenizer.count_prompt(messages)

    def text(self, text: str) -> int:
        """The maximum number of tokens in a text."""
        return self.tokenizer.count(text) if self.tokenizer else len(text.encode())

    def add(self, asked: Sequence[Request], row: str, whole: int) -> None:
        """Add a row that has made some requests and may make the others that it is allowed, after their answers."""
        if asked:
            text = "".join(part for message in asked[0].messages for part in texts_of(message["content"]))
            self.prefix = text if self.prefix is None else _common_beginning(self.prefix, text)
            self.characters += len(text)
            self.prompts += 1
        self.tokens_in += sum(map(self.prompt, asked))
        self.tokens_out += sum(self.spec.longest_answer(request.max_tokens) for request in asked)
        self.calls += max(self.per_row, len(asked))
        later = max(0, self.per_row - len(asked))
        if later:
            longest = self.spec.longest_answer(self.spec.max_tokens)
            answers = (self.per_row - 1) * longest * (1 if self.tokenizer else BYTES_PER_TOKEN)
            # What the operator declares (`prompt_bytes`) is all that there is besides the row.
            others = 0 if self.is_declared else whole + answers + max(map(self.prompt, asked), default=0)
            self.tokens_in += later * (self.text(row) + self.own + others + FRAME_TOKENS)
            self.tokens_out += later * longest


def _common_beginning(one: str, other: str) -> str:
    if other.startswith(one):  # nearly always, once some prompts have been seen
        return one
    return one[: next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))]


def _bounds(pipeline: Pipeline, step: Step, plan: StepPlan, overlay: Overlay) -> PromptBounds:
    """The bounds of a step from the prompts of its rows that no earlier run has finished."""
    code = code_of(full_name(step.operator)).code.values()
    own_texts = [*(text for text in code if text.startswith("builtins.")), step.params.model_dump_json()]
    roles = {}
    for role, per_row in step.operator.calls_per_row(step.params).items():
        spec = step.models[role].spec
        tokenizer = known_tokenizer(spec, step.models[role].weights)
        declared = step.operator.prompt_bytes(step.params)
        made = _Role(spec, tokenizer, 0, per_row, declared is not None)
        made.own = sum(map(made.text, own_texts)) if declared is None else declared
        made.own += made.text(spec.system or "")
        roles[role] = made
    job = job_of(pipeline, step, plan, overlay, "plan", Resources(num_cpus=1), {}, frozenset(), retry_rejects=False)
    listening = _Listening(step)
    operation = Operation(job, overlay, listening)
    whole = sum(each.memory for versions in job.inputs.values() for version in versions for each in version.data)
    scope = Scope(FileCollector(overlay))
    try:
        finished = Receipts.of(overlay.below, plan.base_key)
        left = (
            part for part in partitions(step, plan.inputs, overlay) if plan.status == "RUN" or not finished.read(part.digest)
        )
        asyncio.run(_count_all(operation, scope, left, listening, roles, whole))
    finally:
        scope.clear()
    return PromptBounds(
        calls=sum(each.calls for each in roles.values()),
        tokens=sum(each.tokens_in + each.tokens_out for each in roles.values()),
        cost_usd=sum(each.spec.cost(each.tokens_in, each.tokens_out) for each in roles.values()),
        shared={role: each.shared for role, each in roles.items() if each.shared is not None},
    )


class _Listening(Models):
    """Models that record requests and never answer."""

    def __init__(self, step: Step) -> None:
        self.asked: dict[str, list[Request]] = {}
        self._step = step

    def role(self, role: str) -> ChatModel | None:
        """See Models."""
        model = self._step.models.get(role)
        if model is None:
            return None
        client: Any = _Silent(model.spec, model.identity, self.asked.setdefault(role, []))
        return ChatModel(role, client)


class _AtOnce(ThreadPoolExecutor):
    """Calls functions at once, where they are given to a thread. So the number of turns that an operator takes to its first
    request does not depend on the machine.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ThreadPoolExecutor."""
        made = Future[Any]()
        try:
            made.set_result(fn(*args, **kwargs))
        except Exception as error:
            made.set_exception(error)
        return made


@dataclass(frozen=True)
class _Silent:
    """See ModelClient."""

    spec: ModelSpec
    identity: str
    requests: list[Request]
    notes: tuple[str, ...] = ()

    async def answer(self, requests: Sequence[Request]) -> NoReturn:
        self.requests.extend(requests)
        while True:
            await asyncio.Future[None]()


async def _count_all(
    operation: Operation,
    scope: Scope,
    parts: Iterable[Partition],
    listening: _Listening,
    roles: Mapping[str, _Role],
    whole: int,
) -> None:
    """Run the operator on each row up to its first requests; count these requests and those that may follow."""
    arguments = {**operation.whole_inputs(), **operation.arguments}
    asyncio.get_running_loop().set_default_executor(_AtOnce())
    for row in (row for part in parts for row in operation.rows(part).records):
        for requests in listening.asked.values():
            requests.clear()
        if await _ends_without_request(operation, arguments, row, scope, listening):
            continue
        text = json.dumps(row.model_dump(mode="json"), ensure_ascii=False)
        for role, counted in roles.items():
            counted.add(listening.asked.get(role, ()), text, whole)


async def _ends_without_request(
    operation: Operation, arguments: Mapping[str, Any], row: Record, scope: Scope, listening: _Listening
) -> bool:
    """Whether the operator needs no answer for a row. False if it fails or takes long before its first request."""
    context = operation.operator.context
    given = {**arguments, operation.stream: row}
    if context:
        given[context] = operation.context(scope, operation.seed_of(row), Tally(), [])

    async def run() -> None:
        async for _ in operation.operator.function(**given):
            pass

    task = asyncio.create_task(run())
    left = _FIRST_TURNS
    while left:
        await asyncio.sleep(0)
        left = min(left - 1, _TURNS) if any(listening.asked.values()) else left - 1
        if task.done():
            error = task.exception()
            return (error is None or isinstance(error, Reject)) and not any(listening.asked.values())
    task.cancel()
    await asyncio.wait([task])
    return False
