"""An operator called on records in a test: `engine.testing`."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, ValidationError

from engine.errors import PipelineError
from engine.operator import (
    Batch,
    ChatModel,
    Completion,
    Context,
    Counters,
    Encoder,
    Grouped,
    Lookup,
    Metric,
    Params,
    Record,
    Reject,
    RequestError,
    StepError,
    Table,
    derived,
    operator,
)
from engine.testing import OperatorError, Rejected, ScriptedEncoder, ScriptedModel, run_operator


class Question(Record):
    text: str


class Answered(Question):
    answer: str


class Score(BaseModel):
    score: Annotated[int, Field(ge=1, le=5)]


@operator
async def short(question: Question, ctx: Context, *, length: int = 5) -> AsyncIterator[Question]:
    """Keep short questions."""
    if not question.text:
        raise Reject("it is empty")
    ctx.count("seen")
    if len(question.text) <= length:
        ctx.note("one was short")
        yield question


@operator
async def ask(question: Question, teacher: ChatModel, *, samples: int = 1) -> AsyncIterator[Answered]:
    """Ask a teacher."""
    for answer in await teacher.samples(f"Q: {question.text}", samples):
        yield Answered(text=question.text, answer=answer.text)


@operator
async def rate(question: Question, judge: ChatModel) -> AsyncIterator[Answered]:
    """Ask a judge."""
    answer = await judge.parse(question.text, Score)
    yield Answered(text=question.text, answer=str(answer.score))


class Ways(Params):
    ways: int = 2

    def problems(self, inputs: object) -> Iterator[str]:
        if self.ways < 2:
            yield f"ways: {self.ways} is too few"


@operator(outputs={"kept": "rows", "seen": "rows"})
def unseen(rows: Table[Record], known: Lookup[Record], params: Ways) -> Iterator[tuple[str, Record]]:
    """Divide rows."""
    texts = {row.text for row in known}  # type: ignore[attr-defined]
    for row in rows:
        yield ("seen" if row.text in texts else "kept"), row  # type: ignore[attr-defined]


@operator(outputs=Question)
def upper(rows: Batch[Question]) -> pa.Table:
    """Write in capitals."""
    import pyarrow.compute as pc

    return rows.set_column(rows.schema.get_field_index("text"), "text", pc.utf8_upper(rows["text"]))


QUESTIONS = [Question(text="1+1?"), Question(text="a long one"), Question(text="")]


def test_rows_rejects_counters_and_notes_are_returned() -> None:
    done = run_operator(short, QUESTIONS, with_={"length": 4})
    assert done.rows == [Question(text="1+1?")]
    assert done.rejects == (Rejected(Question(text=""), "it is empty"),)
    assert (done.filtered, done.metric("seen"), done.notes) == (1, 2, ("one was short",))
    with pytest.raises(KeyError, match="'sen', '' was not reported; reported: 'seen', ''"):
        done.metric("sen")


async def test_it_works_while_an_event_loop_is_running() -> None:
    assert run_operator(short, [{"text": "1+1?"}]).rows == [Question(text="1+1?")]


def test_rows_may_be_dicts_or_records_of_another_type_with_the_same_fields() -> None:
    given = [{"text": "a"}, Answered(text="b", answer="c")]
    assert run_operator(short, given).rows == [Question(text="a"), Question(text="b")]
    with pytest.raises(ValidationError, match="text"):
        run_operator(short, [{"txt": "a"}])


def test_a_scripted_model_answers_from_a_function() -> None:
    teacher = ScriptedModel(lambda prompt: "2" if "1+1" in prompt else "no")
    done = run_operator(ask, QUESTIONS[:2], models={"teacher": teacher})
    assert [row.answer for row in done.rows] == ["2", "no"]
    assert sorted(teacher.prompts) == ["Q: 1+1?", "Q: a long one"]
    assert done.sources["out"] == [(("question", 0),), (("question", 1),)]


def test_a_list_is_answered_in_order_and_a_list_of_a_function_by_sample() -> None:
    done = run_operator(ask, QUESTIONS[:1], with_={"samples": 2}, models={"teacher": ScriptedModel(["2", "3"])})
    assert [row.answer for row in done.rows] == ["2", "3"]
    teacher = ScriptedModel(lambda prompt: [f"{prompt} {number}" for number in "ab"])
    done = run_operator(ask, QUESTIONS[:2], with_={"samples": 2}, models={"teacher": teacher})
    assert [row.answer[-1] for row in done.rows] == ["a", "b", "a", "b"]


@pytest.mark.parametrize("answer", [{"score": 4}, Score(score=4), '{"score": 4}', Completion(text='{"score": 4}')])
def test_objects_are_answers_to_parse(answer: object) -> None:
    judge = ScriptedModel(answer)  # type: ignore[arg-type]
    assert run_operator(rate, QUESTIONS[:1], models={"judge": judge}).rows[0].answer == "4"
    assert judge.requests[0].schema is not None


def test_an_answer_that_does_not_validate_is_repaired_once_as_in_a_run() -> None:
    judge = ScriptedModel([{"score": 9}, {"score": 5}])
    assert run_operator(rate, QUESTIONS[:1], models={"judge": judge}).rows[0].answer == "5"
    assert "9" in str(judge.requests[1].messages)
    done = run_operator(rate, QUESTIONS[:1], models={"judge": ScriptedModel("nonsense")})
    assert "even after one repair attempt" in done.rejects[0].reason


def test_a_refused_request_rejects_the_row() -> None:
    done = run_operator(ask, QUESTIONS[:1], models={"teacher": ScriptedModel(RequestError("no"))})
    assert (done.rows, [each.reason for each in done.rejects]) == ([], ["no"])


def test_an_answer_that_was_cut_off_is_seen_as_such() -> None:
    @operator
    async def whole(question: Question, teacher: ChatModel) -> AsyncIterator[Question]:
        """Keep questions with whole answers."""
        if not (await teacher.chat(question.text)).truncated:
            yield question

    teacher = ScriptedModel(Completion(text="half", finish_reason="length"))
    assert run_operator(whole, QUESTIONS[:1], models={"teacher": teacher}).filtered == 1


def test_a_mistake_in_the_script_is_an_error_of_the_test() -> None:
    def script(prompt: str) -> str:
        raise ZeroDivisionError(prompt)

    with pytest.raises(ZeroDivisionError, match="Q: 1"):
        run_operator(ask, QUESTIONS[:1], models={"teacher": ScriptedModel(script)})
    with pytest.raises(AssertionError, match="the script has 1 answer, and there are more requests; asked: 'Q: a long one'"):
        run_operator(ask, QUESTIONS[:2], models={"teacher": ScriptedModel(["one"])})
    with pytest.raises(AssertionError, match=r"the script answered with 3 \(int\); expected a text"):
        run_operator(ask, QUESTIONS[:1], models={"teacher": ScriptedModel(lambda prompt: 3)})  # type: ignore[arg-type,return-value]


def test_inputs_given_whole_have_names() -> None:
    done = run_operator(unseen, QUESTIONS[:2], known=[Question(text="1+1?")])
    assert {name: [row.text for row in rows] for name, rows in done.outputs.items()} == {  # type: ignore[attr-defined]
        "kept": ["a long one"],
        "seen": ["1+1?"],
    }
    assert done.sources["seen"] == [(("rows", 0),)]
    with pytest.raises(ValueError, match="outputs kept, seen; use outputs"):
        _ = done.rows


def test_batches() -> None:
    done = run_operator(upper, [Question(text="a"), Question(text="b")])
    assert [row.text for row in done.rows] == ["A", "B"]
    assert done.sources["out"] == [(("rows", 0),), (("rows", 1),)]


def test_named_sources_are_returned() -> None:
    @operator
    def join(rows: Table[Question]) -> Iterator[Question]:
        """Join all rows."""
        yield derived(Question(text="".join(row.text for row in rows)), *rows)

    assert run_operator(join, QUESTIONS).sources["out"] == [(("rows", 0), ("rows", 1), ("rows", 2))]


def test_finish_is_called_with_the_counters() -> None:
    @operator
    async def count(question: Question, ctx: Context) -> AsyncIterator[Question]:
        """Count."""
        ctx.count("n", by=2)
        yield question

    @count.finish
    def total(counts: Counters) -> Iterator[Metric]:
        yield Metric(metric="half", value=counts["n", ""] / 2)

    assert run_operator(count, QUESTIONS).metric("half") == 3


def test_groups_and_the_seed() -> None:
    @operator
    def groups(rows: Grouped[Question], ctx: Context) -> Iterator[Question]:
        """Show groups."""
        yield Question(text=f"{[*rows.groups]} {ctx.random.random()}")

    first, again, other = (
        run_operator(groups, QUESTIONS, groups=given, seed=seed).rows[0].text
        for given, seed in (({"rows": [0, 0, 1]}, 1), ({"rows": [0, 0, 1]}, 1), (None, 2))
    )
    assert first == again
    assert first.startswith("[0, 0, 1] ")
    assert other.startswith("[0, 1, 2] ")
    assert other[10:] != first[10:]


def test_an_encoder() -> None:
    @operator
    async def near(question: Question, encoder: Encoder) -> AsyncIterator[Question]:
        """Show a vector."""
        [vector] = await encoder.embed([question.text])
        yield Question(text=str([float(each) for each in vector]))

    encoder = ScriptedEncoder(lambda text: [3, 4] if text else [0, 0])
    assert run_operator(near, QUESTIONS[:1], models={"encoder": encoder}).rows[0].text.startswith("[0.6")
    with pytest.raises(OperatorError, match="the vector of '' has length 0"):
        run_operator(near, QUESTIONS[2:], models={"encoder": encoder})


def test_an_exception_of_the_operator_names_its_line_and_row() -> None:
    @operator
    async def broken(question: Question) -> AsyncIterator[Question]:
        """Fail."""
        yield question
        raise KeyError("gone")

    with pytest.raises(OperatorError, match=r"test_run_operator.py:\d+: operator broken raised KeyError on row 0") as caught:
        run_operator(broken, QUESTIONS)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_row_that_is_changed_is_an_error_of_the_code_also_after_an_answer() -> None:
    @operator
    async def changing(question: Question, asked: ChatModel) -> AsyncIterator[Question]:
        """Change the row."""
        question.text = (await asked.chat("What?")).text  # type: ignore[misc]
        yield question

    why = (
        r"test_run_operator.py:\d+: operator changing raised FrozenInstanceError on row 0 of 'question': "
        r"a row of type Question cannot be changed; make a copy: `row.model_copy\(update={'text': ...}\)`"
    )
    with pytest.raises(OperatorError, match=why):
        run_operator(changing, QUESTIONS[:1], models={"asked": ScriptedModel("This.")})


def test_a_step_error_is_raised_unchanged() -> None:
    @operator
    def refuse(rows: Table[Question]) -> Iterator[Question]:
        """Refuse."""
        raise StepError("no such thing")
        yield

    with pytest.raises(StepError, match="no such thing"):
        run_operator(refuse, QUESTIONS)


def test_what_is_yielded_is_checked() -> None:
    @operator
    async def wrong(question: Question) -> AsyncIterator[Question]:
        """Yield another type."""
        yield Metric(metric="m", value=1)  # type: ignore[misc]

    with pytest.raises(OperatorError, match="yielded a Metric to 'out', which takes Question"):
        run_operator(wrong, QUESTIONS)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: run_operator(ask, QUESTIONS), "operator ask needs a model in the role 'teacher'"),
        (lambda: run_operator(ask, QUESTIONS, models={"techer": ScriptedModel("x")}), "did you mean 'teacher'"),
        (lambda: run_operator(ask, QUESTIONS, models={"teacher": ScriptedEncoder(len)}), "give it a ScriptedModel"),
        (lambda: run_operator(unseen, QUESTIONS), "operator unseen needs the input 'known'"),
        (lambda: run_operator(unseen, QUESTIONS, knwn=QUESTIONS), "did you mean 'known'"),
        (
            lambda: run_operator(unseen, [], known=QUESTIONS),
            "'rows' takes records of any one type; it got nothing",
        ),
        (lambda: run_operator(unseen, QUESTIONS, known=QUESTIONS, with_={"ways": 1}), "unseen: ways: 1 is too few"),
    ],
)
def test_a_wrong_call_says_what_to_do(call: object, text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        call()  # type: ignore[operator]


def test_parameters_are_validated() -> None:
    with pytest.raises(ValidationError, match="lenth"):
        run_operator(short, QUESTIONS, with_={"lenth": 3})
    assert run_operator(unseen, QUESTIONS[:1], known=QUESTIONS, with_=Ways(ways=3)).filtered == 0


def test_nothing_is_left_on_the_disk(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(workdir))

    @operator
    async def log(question: Question, ctx: Context, teacher: ChatModel) -> AsyncIterator[Question]:
        """Use the folders of the context."""
        ctx.log.info("hello")
        (ctx.scratch / "file").write_text("x")
        await teacher.chat("x")
        yield question

    run_operator(log, QUESTIONS, models={"teacher": ScriptedModel("y")})
    assert list(workdir.iterdir()) == []
