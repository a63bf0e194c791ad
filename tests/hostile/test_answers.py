"""Whatever a server sends, the result is the answer, a rejected row or the end of the step; errors are clear and hide the key."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.llm.chat import CallLog, ChatModel, current_log
from engine.llm.client import ModelClient
from engine.llm.journal.answers import Journal
from engine.llm.limits.governor import Governor
from engine.llm.providers import chat_completions
from engine.llm.providers.failures import error_inside, failure, retry_after
from engine.llm.providers.openai import OpenAIProvider
from engine.llm.providers.redaction import redact
from engine.llm.types.completions import MOST_TOKENS, Completion
from engine.llm.types.errors import EndpointError, ModelError, RequestError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from registry import Registry
from tests.engine.run_pipelines import ask, run_text, words
from tests.hostile.server import KEY, MODES, TEXT, HostileServer

Outcomes = dict[str, Completion | Exception]


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    """The server, for all tests of this file."""
    with HostileServer() as server:
        yield server


@pytest.fixture(scope="module")
def outcomes(hostile: HostileServer, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcome of one question in each mode; all are asked at the same time, with one retry."""

    async def one(name: str, journal: Journal) -> Completion | Exception:
        current_log.set(CallLog())
        spec = ModelSpec.model_validate(
            {
                "provider": "openai",
                "model": name,
                "base_url": hostile.base_url,
                "api_key_env": "HOSTILE_KEY",
                "retries": 1,
                "timeout": 0.5 if name == "silence" else 60,
                "max_tokens": 64,
            }
        )
        model = ModelClient(spec, name, journal, Governor(spec), lambda: OpenAIProvider(spec, journal))
        try:
            return await ChatModel("teacher", model).chat("What is 3 + 4?", **MODES[name].needs)
        except Exception as error:
            return error
        finally:
            await model.close()

    async def all_of_them() -> list[Completion | Exception]:
        journal = Journal(tmp_path_factory.mktemp("journal"))
        try:
            return await asyncio.gather(*[one(name, journal) for name in MODES])
        finally:
            journal.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOSTILE_KEY", KEY)
        return dict(zip(MODES, asyncio.run(all_of_them()), strict=True))


@pytest.mark.parametrize("name", MODES)
def test_each_mode_of_the_server_has_the_expected_outcome(outcomes: Outcomes, hostile: HostileServer, name: str) -> None:
    mode, outcome = MODES[name], outcomes[name]
    if mode.outcome == "answer":
        assert isinstance(outcome, Completion), outcome
        assert outcome.text == mode.words
        assert outcome.truncated == name.startswith("cut-off")
        assert 0 <= outcome.tokens_in <= MOST_TOKENS
        assert 0 <= outcome.tokens_out <= MOST_TOKENS
        assert (outcome.logprobs is not None) == bool(mode.needs)
    else:
        assert isinstance(outcome, {"reject": RequestError, "stop": EndpointError}[mode.outcome]), repr(outcome)
        assert mode.words in str(outcome)
        assert len(str(outcome)) < 1500
    if mode.asked is not None:
        assert hostile.asked[name] == mode.asked


@pytest.mark.parametrize("name", MODES)
def test_no_error_repeats_the_key_in_any_spelling(outcomes: Outcomes, name: str) -> None:
    seen: BaseException | None = outcomes[name] if isinstance(outcomes[name], Exception) else None
    while seen is not None:  # also in the causes, because tracebacks show them
        _has_no_part_of_the_key(str(seen))
        seen = seen.__cause__ or seen.__context__


def _has_no_part_of_the_key(text: str) -> None:
    for form in (KEY, base64.b64encode(KEY.encode()).decode()[:-4], KEY.encode().hex()):
        for start in range(len(form) - 12):
            assert form[start : start + 12].lower() not in text.lower()


def test_there_are_many_modes() -> None:
    assert len(MODES) >= 60


STORED = ["usage-2-to-the-64", "usage-negative", "nul-in-the-answer", "refused-with-half-a-pair", "echo-in-an-answer", "deep"]


@pytest.mark.usefixtures("in_process")
def test_a_registry_with_answers_of_a_hostile_server_is_readable(
    hostile: HostileServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_KEY", KEY)
    words("a", "b")
    names = STORED
    models, steps = {}, {}
    for number, name in enumerate(names):
        models[f"m{number}"] = {
            "provider": "openai",
            "model": name,
            "base_url": hostile.base_url,
            "api_key_env": "HOSTILE_KEY",
            "price": {"input": 1.0, "output": 2.0},
            "max_tokens": 64,
            "retries": 0,
        }
        steps[f"s{number}"] = {"op": "ask", "in": "words", "models": {"teacher": f"m{number}"}, "max_reject_ratio": 1.0}
    document = {
        "name": "demo",
        "datasets": {"words": {"type": "Word", "path": "words.jsonl"}},
        "models": models,
        "steps": steps,
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    counted = dict(ask(registry, "select step, rejected from step_runs"))
    assert counted == {f"s{place}": 0 if MODES[name].outcome == "answer" else 2 for place, name in enumerate(names)}
    [(least, most)] = ask(registry, "select min(tokens_in), max(tokens_in) from llm_calls")
    assert 0 <= least <= most <= MOST_TOKENS
    registry.catalog.rebuild()
    assert ask(registry, "select count(*) from step_runs") == [(len(names),)]
    for file in Path(registry.location).rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


# -- any JSON at all -------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(), st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([2**62, 2**63, -1, 10**400, float("inf")])
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["stop", "length", "error", "text"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["content", "message", "code", "error", "type", "text", "token", "logprob"]), inner),
    ),
    max_leaves=8,
)
messages = st.one_of(anything, st.fixed_dictionaries({"content": anything}, optional={"refusal": anything}))
tokens = st.one_of(
    anything,
    st.fixed_dictionaries({"token": anything, "logprob": st.one_of(numbers, anything)}, optional={"top_logprobs": anything}),
)
choices = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"message": messages, "finish_reason": anything},
        optional={"logprobs": st.one_of(anything, st.fixed_dictionaries({"content": st.lists(tokens)})), "error": anything},
    ),
)
usages = st.one_of(anything, st.fixed_dictionaries({"prompt_tokens": numbers, "completion_tokens": numbers}))
answers = st.one_of(
    anything,
    st.fixed_dictionaries({"choices": st.one_of(anything, st.lists(choices, max_size=4))}, optional={"usage": usages}),
)


@given(answer=answers, samples=st.integers(1, 3), logprobs=st.booleans())
@settings(max_examples=150)
def test_any_json_becomes_storable_answers_or_a_model_error(answer: Any, samples: int, logprobs: bool) -> None:
    sampling = {"max_tokens": 64, **({"logprobs": 2} if logprobs else {})}
    requests = [Request("e", "m", (), sampling, sample) for sample in range(samples)]
    try:
        found = chat_completions.completions(answer, requests, 1.0).completions
    except ModelError as error:
        str(error).encode()  # it contains no unpaired surrogate
        paid = getattr(error, "completion", None)
        found = [paid] if paid else []
    for each in found:
        assert Completion.model_validate_json(each.model_dump_json(exclude_defaults=True)) == each
        assert 0 <= each.tokens_in <= MOST_TOKENS
        assert 0 <= each.tokens_out <= MOST_TOKENS
        assert each.finish_reason in {"stop", "length", "tool_calls", "refusal", "content_filter", "error", "unknown"}


SPEC = ModelSpec.model_validate({"provider": "openai", "model": "m"})


@given(answer=anything, status=st.integers(300, 599), after=st.one_of(st.text(max_size=20), st.floats().map(str)))
@settings(max_examples=100)
def test_any_json_as_an_error_is_classified(answer: Any, status: int, after: str) -> None:
    error_inside(answer)
    error = failure(status, json.dumps(answer), {"Retry-After": after, "Location": after}, SPEC)
    assert isinstance(error, ModelError)
    str(error).encode()
    seconds = retry_after({"Retry-After": after})
    assert seconds is None or 0 <= seconds <= 86_400


SPELLINGS = [
    str,
    lambda part: "".join(f"\\u{ord(each):04X}" for each in part),
    lambda part: "".join(f"%{ord(each):02x}" for each in part),
    lambda part: "".join(f"&#x{ord(each):x};" for each in part),
    lambda part: part.replace("/", "\\/").replace("+", "\\u002b"),
    str.swapcase,
]


@given(
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40),
    around=st.tuples(st.text(max_size=10), st.text(max_size=10)),
    pieces=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(SPELLINGS)), min_size=1, max_size=8),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_a_key_is_hidden_however_its_pieces_are_spelt(key: str, around: tuple[str, str], pieces: list[Any]) -> None:
    spelt, start = "", 0
    for length, spell in pieces:
        spelt += spell(key[start : start + length])
        start += length
    spelt += key[start:]
    if any(mark in key for mark in "\\%&"):
        spelt = key  # a key that looks like an escape is hidden as it is
    shown = redact(f"{around[0]}<{spelt}>{around[1]}", key)
    assert key.lower() not in shown.lower()
    assert spelt not in shown


@pytest.mark.parametrize("text", ["the key is wrong", "Incorrect API key provided", "100% of it & more \\o/ %zz &nosuch;", ""])
def test_text_without_the_key_is_unchanged(text: str) -> None:
    assert redact(text, KEY) == text


@pytest.fixture
async def journal(workdir: Path) -> AsyncIterator[Journal]:
    """A separate journal."""
    made = Journal(workdir / "journal")
    yield made
    made.close()


@pytest.mark.parametrize(
    "bad",
    [
        Completion.model_construct(text="\ud800"),
        Completion.model_construct(text=TEXT, latency_ms=float("nan")),
        Completion.model_construct(text=TEXT, tokens_in=2**63, tokens_out=0),
        Completion.model_construct(text=TEXT, finish_reason="\udfff", tokens_in=0, tokens_out=0),
    ],
)
async def test_the_journal_keeps_only_what_it_can_read_back(journal: Journal, bad: Completion) -> None:
    with pytest.raises(RequestError, match="cannot be stored"):
        await journal.put("k", bad)
    assert await journal.get("k") is None
