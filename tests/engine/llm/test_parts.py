"""Parts of messages and answers other than text: images, and the model's reasoning."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from engine.llm.chat import current_log
from engine.llm.journal.serialization import decode_answer, encode_answer
from engine.llm.limits.estimates import TOKENS_PER_IMAGE, token_bound
from engine.llm.types.completions import Completion
from engine.llm.types.errors import RequestError
from engine.llm.types.requests import Request, as_messages, without_data
from tests.chat_server import ChatServer, completion, error
from tests.engine.conftest import Make

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
SEEN = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]


class Kind(BaseModel):
    """The kind of thing that an image shows."""

    kind: str


async def test_images_are_sent_as_parts_of_a_message(model: Make, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: "a cat"
    assert (await model().chat(SEEN)).text == "a cat"
    assert (await model().chat(SEEN)).text == "a cat"
    [sent] = chat_server.requests
    assert sent["messages"] == SEEN


async def test_a_schema_in_words_is_added_to_a_message_with_images(model: Make, chat_server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> Any:
        return error(400, "response_format is not supported") if "response_format" in body else completion('{"kind": "cat"}')

    chat_server.reply = reply
    assert (await model().parse(SEEN, Kind)).kind == "cat"
    text, image, words = chat_server.requests[-1]["messages"][0]["content"]
    assert [text, image] == SEEN[0]["content"]
    assert "JSON Schema" in words["text"]


def test_the_keys_of_texts_are_those_of_earlier_versions() -> None:
    made = Request("http://x/v1", "m", as_messages("hello"), {"temperature": 0.0, "seed": None})
    assert made.key == "f6cdecf3fc842b4ab6c6512f4787f2e0c4ecf40959ccad352d714f8103b6f115"


def test_a_part_that_is_neither_text_nor_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither a text nor an image part"):
        as_messages([{"role": "user", "content": [{"type": "input_audio"}]}])


def test_an_image_is_shown_by_its_digest_and_bounded_in_tokens() -> None:
    [shown] = without_data(as_messages(SEEN))
    assert shown["content"][1]["image_url"]["url"].startswith("data:image/png;base64,sha256:")
    assert "aGVsbG8" not in json.dumps(shown)
    made = Request("http://x/v1", "m", as_messages(SEEN), {"max_tokens": 7})
    assert token_bound(made) == (16 + len("What is this?") + TOKENS_PER_IMAGE, 7)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_beside_an_answer_is_kept(model: Make, chat_server: ChatServer, name: str) -> None:
    def reply(body: dict[str, Any]) -> Any:
        answer = completion("4")
        answer["choices"][0]["message"][name] = "2 and 2 \udc00"
        return answer

    chat_server.reply = reply
    first = await model().chat("2 + 2?")
    assert (first.text, first.reasoning) == ("4", "2 and 2 \ufffd")
    assert await model().chat("2 + 2?") == first
    assert len(chat_server.requests) == 1


async def test_reasoning_that_is_not_text_is_ignored(model: Make, chat_server: ChatServer) -> None:
    answer = completion("4")
    answer["choices"][0]["message"]["reasoning"] = {"steps": 2}
    chat_server.reply = lambda body: answer
    assert (await model().chat("2 + 2?")).reasoning is None


def test_answers_without_reasoning_are_stored_as_before() -> None:
    assert encode_answer(Completion(text="4")) == '{"text":"4"}'
    found = decode_answer('{"text":"4"}')
    assert found
    assert found.reasoning is None


def one_at_a_time(*answers: str | None) -> Any:
    """Replies without support for `n`; None is an answer that a filter stopped."""
    left = list(answers)

    def reply(body: dict[str, Any]) -> Any:
        if "n" in body:
            return error(400, "n is not supported")
        text = left.pop(0)
        return completion(text or "x", finish_reason="stop" if text else "content_filter")

    return reply


async def test_a_sample_that_fails_does_not_cost_the_others(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = one_at_a_time("a", None, "c", "b")
    one = model(temperature=1)
    first, failed, third = await one.each_sample("q", 3)
    assert isinstance(first, Completion)
    assert "content filter" in str(failed)
    assert isinstance(third, Completion)
    assert [first.text, third.text] == ["a", "c"]
    assert [call.call_id for call in current_log.get().calls] == [one._request("q", n, None, {}).key for n in (0, 1, 2)]
    asked = len(chat_server.requests)
    again = await one.each_sample("q", 3)
    assert [each.text for each in again if isinstance(each, Completion)] == ["a", "b", "c"]
    assert len(chat_server.requests) == asked + 1


async def test_samples_that_are_all_refused_are_one_error(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = lambda body: error(400, "the prompt is too long")
    with pytest.raises(RequestError, match="too long"):
        await model(temperature=1).each_sample("q", 3)
    assert len(chat_server.requests) == 2, "once, and once without `n`"


async def test_objects_are_sampled_and_repaired_one_by_one(model: Make, chat_server: ChatServer) -> None:
    chat_server.reply = one_at_a_time('{"kind": "cat"}', "a dog", '{"kind": "fox"}', "two dogs")
    cat, wrong, fox = await model(temperature=1).parse_each("q", Kind, 3)
    assert [cat[0].kind, fox[0].kind] == ["cat", "fox"] if isinstance(cat, tuple) and isinstance(fox, tuple) else False
    assert "the answer is not a valid Kind, even after one repair attempt" in str(wrong)
