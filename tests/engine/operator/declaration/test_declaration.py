"""A wrong declaration of an operator is an error that names its file and line, and what was expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from engine.operator import DeclarationError, Operator

HEAD = """\
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, Field

from engine.operator import *
from engine.operator import Grouped, Lookup, Params


class Word(Record):
    text: str


class Other(Record):
    number: int


class Limit(Params):
    limit: int = 1


"""

Load = Callable[[str], dict[str, Any]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Executes a module that begins with HEAD."""

    def execute(text: str) -> dict[str, Any]:
        file = tmp_path / "my_ops.py"
        file.write_text(HEAD + dedent(text))
        scope: dict[str, Any] = {"__name__": "my_ops"}
        module = ModuleType("my_ops")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "my_ops", module)
        scope = vars(module)
        exec(compile(file.read_text(), str(file), "exec"), scope)
        return scope

    return execute


def row(signature: str, body: str = "yield word", head: str = "@operator", returns: str = "AsyncIterator[Word]") -> str:
    """An operator on rows."""
    return f"{head}\nasync def op({signature}) -> {returns}:\n    {body}\n"


WRONG = {
    "an argument without an annotation": (
        row("word"),
        r"operator op: 'word' has no annotation; expected a record type, Batch\[...\], Table\[...\]",
    ),
    "a plain argument that is not keyword-only": (
        row("word: Word, limit: int = 3"),
        r"'limit' is annotated int; expected .* plain parameters go after a `\*`",
    ),
    "a name that is not imported": (
        row("word: Wrod"),
        "an annotation names 'Wrod', which is not imported",
    ),
    "arguments by star": (row("word: Word, *more: Word"), r"it takes \*more; expected each input and parameter by its name"),
    "an unknown kind of role": (
        row("word: Word, teacher: ChatModel | Encoder"),
        r"'teacher' is annotated .*ChatModel.*; expected .*ChatModel, Encoder",
    ),
    "a role with a default": (
        row("word: Word, teacher: ChatModel = None"),
        "'teacher' is filled by the engine but has a default; remove the default",
    ),
    "a role that may be None, but nothing says when": (
        row("word: Word, judge: ChatModel | None"),
        "'judge' may be None, but nothing says when; expected a method `roles` of its Params",
    ),
    "two classes of parameters": (
        row("word: Word, one: Limit, two: Limit"),
        "it takes two classes of parameters, one: Limit and two: Limit; expected one",
    ),
    "a class of parameters and keyword-only ones": (
        row("word: Word, params: Limit, *, more: int = 1"),
        "its parameters are the fields of Limit, but also more; expected one class or keyword-only arguments",
    ),
    "parameters that do not derive from Params": (
        "class Plain(BaseModel):\n    limit: int = 1\n\n\n" + row("word: Word, params: Plain"),
        "'params' is annotated Plain; a class of parameters must derive from engine.operator.Params",
    ),
    "a mutable default": (
        row("word: Word, *, names: list[str] = []"),
        "the default of 'names' is a list, which all calls would share; use a tuple or None, or make the parameters a subclass",
    ),
    "a parameter of a type that pydantic does not know": (
        row("word: Word, *, thing: pa.Table"),
        "its keyword-only parameters cannot be read: .*pyarrow",
    ),
    "two contexts": (row("word: Word, ctx: Context, more: Context"), "it takes a Context twice: ctx and more"),
    "no input": (row("ctx: Context", "yield Word(text='')"), "it has no required input"),
    "two inputs row by row": (
        row("word: Word, other: Other"),
        r"word and other are both read row by row; expected one such input, and Table\[...\] for the others",
    ),
    "a table without its type": (
        row("words: Table"),
        r"'words' is annotated Table; expected Table\[...\] with the record type",
    ),
    "a table of something else": (row("words: Table[str]"), "'words' is a table of str; expected a record type"),
    "an input with a default": (row("word: Word = None"), "'word' is an input with a default"),
    "an optional table without a default": (
        row("word: Word, others: Table[Other] | None"),
        r"'others' is optional; expected others: .*Table.* = None",
    ),
    "a function on rows that is no generator": (
        "@operator\nasync def op(word: Word) -> AsyncIterator[Word]:\n    return word\n",
        r"it works on rows but is an async function without `yield`; expected an async generator",
    ),
    "a function on rows that is not async": (
        "@operator\ndef op(word: Word) -> Iterator[Word]:\n    yield word\n",
        r"it works on rows but is a generator; expected an async generator \(`async def` with `yield`\)",
    ),
    "a function on batches that yields": (
        "@operator(outputs=Word)\ndef op(words: Batch[Word]) -> pa.Table:\n    yield words\n",
        "it works on batches but is a generator; expected a plain function that returns an Arrow table",
    ),
    "a function on whole inputs that returns": (
        "@operator\ndef op(words: Table[Word]) -> Iterator[Word]:\n    return iter(words)\n",
        "it works on whole inputs but is a function without `yield`; expected a generator",
    ),
    "a class": ("@operator\nclass Op:\n    pass\n", "@operator is for functions; this is a class"),
    "a parameter without an annotation": (
        row("word: Word, *, limit=3"),
        "the parameter 'limit' has no annotation; expected its type, such as `limit: int`",
    ),
    "keyword arguments of any name": (row("word: Word, **more: int"), r"it takes \*\*more; expected each input and parameter"),
    "a default of another type": (
        row("word: Word, *, limit: int = 'ten'"),
        "the default of 'limit' does not fit: 'ten'; must be a whole number",
    ),
    "a default out of bounds": (
        "class P(Params):\n    limit: Annotated[int, Field(ge=1)] = 0\n\n\n" + row("word: Word, params: P"),
        "the default of 'limit' does not fit: 0; must be greater than or equal to 1",
    ),
    "a default template with an unknown variable": (
        row("word: Word, *, prompt: Annotated[str, template('text')] = '{{ txet }}'"),
        "the default of 'prompt' does not fit: '{{ txet }}'; the prompt uses txet; it may use text",
    ),
    "a function on batches without outputs": (
        "@operator\ndef op(words: Batch[Word]) -> pa.Table:\n    return words\n",
        r"it works on batches and does not say what its rows are; expected @operator\(outputs=RECORD\)",
    ),
    "no return annotation": (
        "@operator\nasync def op(word: Word):\n    yield word\n",
        r"its output cannot be read from the return annotation, which is missing; expected AsyncIterator\[RECORD\]",
    ),
    "a return annotation that is no iterator": (
        row("word: Word", returns="Word"),
        r"its return annotation is Word; expected AsyncIterator\[...\] with what it yields",
    ),
    "several outputs by the return annotation only": (
        row("word: Word", returns="AsyncIterator[tuple[str, Word]]"),
        r"its output cannot be read from the return annotation, which is tuple\[str, my_ops.Word\]; expected",
    ),
    "another type than that of the output": (
        row("word: Word", head="@operator(outputs=Other)"),
        "outputs= says Other, and its return annotation yields Word; they must agree",
    ),
    "records where there are several outputs": (
        row("word: Word", head='@operator(outputs={"a": Word, "b": Word})'),
        r"it has the outputs a, b, and its return annotation yields Word; expected tuple\[str, Word\]",
    ),
    "texts": (
        row("word: Word", head="@operator(outputs=Word)", returns="AsyncIterator[str]"),
        "yields str; expected a record type",
    ),
    "an output that is not declared": (
        row(
            "word: Word",
            head='@operator(outputs={"good": Word, "bad": Word})',
            returns='AsyncIterator[tuple[Literal["god"], Word]]',
        ),
        "its return annotation names the output 'god'; outputs= has good, bad",
    ),
    "no outputs": (row("word: Word", head="@operator(outputs={})"), "outputs= is empty; expected at least one output"),
    "an output with a dot": (
        row("word: Word", head='@operator(outputs={"a.b": Word})'),
        "outputs= has the name 'a.b'; expected",
    ),
    "an output that is no record type": (
        row("word: Word", head='@operator(outputs={"a": int})'),
        "output 'a' is int; expected a record type or the name of an input",
    ),
    "an output like an input that does not exist": (
        row("word: Word", head='@operator(outputs={"kept": "wrod"})'),
        "output 'kept' has the type of the input 'wrod', but there is no such input; did you mean 'word'",
    ),
    "an output of any type": (
        row("word: Word", head="@operator(outputs=Record)"),
        "the output 'out' is Record; expected a record type, the name of an input, or parameters",
    ),
    "named inputs beside another one": (
        row("word: Word, others: Mapping[str, Table[Word]]"),
        "'others' gets the inputs that a pipeline names; expected no other input beside it",
    ),
    "distinct roles that do not exist": (
        row("word: Word, teacher: ChatModel", head='@operator(distinct=[("teacher", "juge")])'),
        "distinct= names the role 'juge', but there is no such argument; available: teacher",
    ),
    "distinct roles that are no pairs": (
        row("word: Word, teacher: ChatModel", head='@operator(distinct=["teacher"])'),
        r"distinct= has 'teacher'; expected pairs of roles, such as \('policy', 'judge'\)",
    ),
    "a method that is a number": (
        "class P(Params):\n    calls = 1\n",
        r"P.calls is of type int; expected a method, `def calls\(self\)`",
    ),
    "a parameter with the name of a method": (
        "class P(Params):\n    calls: int = 1\n",
        r"P.calls is of type int; expected a method, `def calls\(self\)`",
    ),
    "a parameter with the name of a method and no default": (
        "class P(Params):\n    roles: list[str]\n",
        "P has a parameter named 'roles', and Params has a method of that name; rename the parameter",
    ),
    "a method that is a property": (
        "class P(Params):\n    @property\n    def notes(self):\n        return []\n",
        r"P.notes is of type property; expected a method, `def notes\(self\)`",
    ),
    "a method with too few arguments": (
        "class P(Params):\n    def problems(self):\n        return []\n",
        r"P.problems takes \(self\); expected `def problems\(self, inputs\)`",
    ),
    "a method with too many arguments": (
        "class P(Params):\n    def calls(self, rows):\n        return {}\n",
        r"P.calls takes \(self, rows\); expected `def calls\(self\)`",
    ),
    "a method with a misspelled name": (
        "class P(Params):\n    def capabilites(self):\n        return {}\n",
        "P.capabilites: the engine calls no method of this name; did you mean 'capabilities'?",
    ),
    "a method with letters in the wrong order": (
        "class P(Params):\n    def clals(self):\n        return {}\n",
        "P.clals: .* did you mean 'calls'?",
    ),
    "a class method with a misspelled name": (
        "class P(Params):\n    @classmethod\n    def accepted_name(cls):\n        return ['a']\n",
        "P.accepted_name: .* did you mean 'accepted_names'?",
    ),
    "a method in camel case": (
        "class P(Params):\n    def promptBytes(self):\n        return 1\n",
        "P.promptBytes: .* did you mean 'prompt_bytes'?",
    ),
    "a method that is async": (
        "class P(Params):\n    async def calls(self):\n        return {}\n",
        r"P.calls is async; expected a plain method, `def calls\(self\)`",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_declaration_names_its_place_and_what_was_expected(load: Load, text: str, expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected) as error:
        load(text)
    line = int(re.match(r"\S*my_ops\.py:(\d+): ", str(error.value))[1])
    assert HEAD.count("\n") < line <= (HEAD + text).count("\n")


def test_a_class_of_parameters_may_have_methods_and_fields_of_its_own(load: Load) -> None:
    text = (
        "class P(Params):\n    role: str = 'teacher'\n    cells: int = 1\n\n"
        "    def rules(self):\n        return [self.role]\n\n"
        "    def votes(self):\n        return self.cells\n\n"
        "    def calls_of(self, row):\n        return 2\n\n"
        "    @property\n    def expected(self):\n        return 3\n\n"
        "    def _notes(self):\n        return 4\n"
    )
    params = load(text)["P"]()
    assert (params.rules(), params.votes(), params.calls_of(0), params.expected, params._notes()) == (["teacher"], 1, 2, 3, 4)


FINISH = (
    'from engine.operator import Counters\n\n\n@operator(outputs={"a": Word, "b": Other})\n'
    "async def op(word: Word, ctx: Context, *, unit: str = 'm') -> AsyncIterator[tuple[str, Word]]:\n    yield 'a', word\n\n\n"
)
WRONG_FINISH = {
    "no counters": ("def f() -> Iterator[Metric]:\n    yield", "it takes no counters; expected `def NAME"),
    "an unknown parameter": (
        "def f(counts: Counters, *, size: str) -> Iterator[Metric]:\n    yield",
        "the operator has no parameter 'size'; it has unit",
    ),
    "parameters as one class that the operator does not have": (
        "def f(counts: Counters, params: Limit) -> Iterator[Metric]:\n    yield",
        "it takes params in addition to the counters; expected",
    ),
    "no return annotation": ("def f(counts: Counters):\n    yield", "its return annotation is missing; expected Iterator"),
    "rows of an output without its name": (
        "def f(counts: Counters) -> Iterator[Metric | tuple[str, Other]]:\n    yield",
        r"its return annotation has tuple\[str, my_ops.Other\]; expected Iterator\[Metric\]",
    ),
    "an output that does not exist": (
        'def f(counts: Counters) -> Iterator[tuple[Literal["c"], Other]]:\n    yield',
        "the operator has no output 'c'; it has a, b",
    ),
    "an async function": (
        "async def f(counts: Counters) -> Iterator[Metric]:\n    yield",
        "a finish function is a plain function",
    ),
    "a second one": (
        "def f(counts: Counters) -> Iterator[Metric]:\n    yield\n\n\n@op.finish\n"
        "def g(counts: Counters) -> Iterator[Metric]:\n    yield",
        r"operator op has a finish function, \S*my_ops.py:\d+",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG_FINISH.values(), ids=WRONG_FINISH)
def test_a_wrong_finish_function_names_its_place_and_what_was_expected(load: Load, text: str, expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected) as error:
        load(f"{FINISH}@op.finish\n{text}\n")
    assert re.match(r"\S*my_ops\.py:\d+: ", str(error.value))


def finished(load: Load, body: str) -> Any:
    text = f'def f(counts: Counters, *, unit: str) -> Iterator[Metric | tuple[Literal["b"], Other]]:\n    {body}\n'
    op = load(f"{FINISH}@op.finish\n{text}\n")["op"]
    assert isinstance(op, Operator)
    return op.finished({("n", ""): 2}, op.params())


def test_a_finish_function_yields_metrics_and_rows(load: Load) -> None:
    found = finished(load, "yield Metric(metric=unit, slice='', value=counts['n', '']); yield 'b', Other(number=2)")
    assert [(each.metric, each.value) for each in found.metrics] == [("m", 2)]
    assert [each.number for each in found.rows["b"]] == [2]
    assert list(found.rows) == ["b"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("yield 1", r"f yielded 1; expected a Metric, or \('b', Other\)"),
        ("yield 'a', Word(text='')", r"f yielded \('a', .*\); expected a Metric, or \('b', Other\)"),
        ("yield 'b', Word(text='')", "f yielded a Word to 'b', which is Other"),
        ("yield counts['m', '']", "f raised KeyError"),
    ],
)
def test_a_finish_function_that_yields_something_else_is_named(load: Load, body: str, expected: str) -> None:
    with pytest.raises(DeclarationError, match=rf"my_ops\.py:\d+: {expected}"):
        finished(load, body)


QUESTIONS = {
    "calls": "calls_per_row",
    "roles": "used_roles",
    "capabilities": "capabilities",
    "prompt_bytes": "prompt_bytes",
    "device_count": "device_count",
    "notes": "notes",
}


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("calls", "return 1 / (self.limit - 1)", r"P.calls raised ZeroDivisionError: .* \(parameters: \{'limit': 1\}\)"),
        ("calls", "return 3", "P.calls returns 3; expected a dict from roles to numbers of calls"),
        ("calls", "return {'techer': 1}", "P.calls names the role 'techer', .* did you mean 'teacher'"),
        ("calls", "return {'teacher': -1}", "P.calls returns .*; expected whole numbers of calls, 0 or more"),
        ("roles", "return 'teacher'", "P.roles returns 'teacher'; expected a set of roles, or None"),
        ("roles", "return {'judge'}", "P.roles names the role 'judge', which operator op does not have"),
        (
            "roles",
            "return set()",
            "P.roles leaves out 'teacher', which is annotated ChatModel; expected teacher: ChatModel | None",
        ),
        ("capabilities", "return {'teacher': ['logprob']}", "P.capabilities returns .*; expected lists of n, logprobs"),
        ("capabilities", "return {'teacher': 'n'}", "P.capabilities returns .*; expected lists of n, logprobs"),
        ("prompt_bytes", "return 1.5", "P.prompt_bytes returns 1.5; expected a whole number of bytes, or None"),
        ("device_count", "return 0", "P.device_count returns 0; expected a whole number, 1 or more"),
        ("notes", "return 'one text'", "P.notes returns 'one text'; expected texts in a list"),
    ],
)
def test_a_method_of_parameters_that_raises_or_returns_the_wrong_type_is_named(
    load: Load, method: str, body: str, expected: str
) -> None:
    text = f"class P(Params):\n    limit: int = 1\n\n    def {method}(self):\n        {body}\n\n\n"
    op = load(text + row("word: Word, teacher: ChatModel, params: P"))["op"]
    line = (HEAD + text).splitlines().index(f"    def {method}(self):") + 1
    with pytest.raises(DeclarationError, match=expected) as error:
        getattr(op, QUESTIONS[method])(op.params(limit=1))
    assert re.search(rf"my_ops\.py:({line}|{line + 1}): ", str(error.value))


def test_problems_are_texts(load: Load) -> None:
    text = "class P(Params):\n    def problems(self, inputs):\n        yield 1\n\n\n"
    op = load(text + row("word: Word, params: P"))["op"]
    with pytest.raises(DeclarationError, match=r"my_ops\.py:\d+: P.problems returns \[1\]; expected texts"):
        op.problems(op.params(), {})


def test_defaults_of_a_declaration(load: Load) -> None:
    op = load(row("word: Word, teacher: ChatModel, encoder: Encoder, *, limit: int = 3"))["op"]
    params = op.params()
    assert (op.name, op.shape, list(op.outputs), op.encoders) == ("op", "row", ["out"], ("encoder",))
    assert op.used_roles(params) == ("teacher", "encoder")
    assert op.calls_per_row(params) == {"teacher": 1}
    assert op.arguments(params) == {"limit": 3}
    assert (op.capabilities(params), op.prompt_bytes(params), op.device_count(params), op.notes(params)) == ({}, None, 1, ())


def test_tables_can_be_lookups_grouped_or_optional(load: Load) -> None:
    op = load(
        "@operator\nasync def op(word: Word, a: Lookup[Other], b: Grouped[Word], c: Lookup[Record] | None = None"
        ") -> AsyncIterator[Word]:\n    yield word\n"
    )["op"]
    assert {name: (port.lookup, port.grouped, port.optional, port.open) for name, port in op.inputs.items()} == {
        "word": (False, False, False, False),
        "a": (True, False, False, False),
        "b": (False, True, False, False),
        "c": (True, False, True, True),
    }
    assert op.required == ("word", "a", "b")
