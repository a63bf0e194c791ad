"""All problems of a pipeline are reported at once, with positions and hints, before anything starts."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.pipeline.graph import Pipeline
from tests.engine import run_pipelines

GOOD = """\
name: demo
params: {limit: 3, path: data.jsonl}
models:
  teacher: {provider: openai, model: m, base_url: "http://127.0.0.1:9/v1"}
  student: {provider: openai, model: m}
datasets:
  problems: {type: MathProblem, path: "${params.path}", limit: "${params.limit}"}
steps:
  cot: {op: regenerate_cot, in: problems, with: {attempts: 2}}
  rows: {op: to_sft, in: [cot.solved, cot.unsolved]}
"""


@pytest.fixture(autouse=True)
def data(workdir: Path) -> Path:
    (workdir / "data.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    return workdir


def checked(text: str, settings: list[str] | None = None) -> Pipeline:
    Path("p.yaml").write_text(dedent(text))
    return check(Path("p.yaml"), settings)


def problems(text: str, settings: list[str] | None = None) -> list[str]:
    with pytest.raises(PipelineError) as wrong:
        checked(text, settings)
    return [str(problem) for problem in wrong.value.problems]


def place(text: str, needle: str, occurrence: int = 0) -> str:
    """file:line:col of a text."""
    at = -1
    for _ in range(occurrence + 1):
        at = text.index(needle, at + 1)
    line = text.count("\n", 0, at) + 1
    return f"p.yaml:{line}:{at - text.rfind(chr(10), 0, at)}"


@pytest.mark.parametrize(
    ("setting", "old", "new", "expected"),
    [
        ("limit=abc", "", "", "datasets.problems.limit: must be a whole number (given: 'abc')"),
        ("limit=2.5", "", "", "datasets.problems.limit: must be a whole number (given: 2.5)"),
        ("limit=-1", "", "", "datasets.problems.limit: must be greater than or equal to"),
        ("path=[a, b]", "", "", "datasets.problems.path: must be text"),
        ("limit=x", "limit}", "limit} no", "datasets.problems.limit: must be a whole number (given: 'x no')"),
        (
            "limit=abc",
            "attempts: 2",
            'attempts: "${params.limit}"',
            "parameter 'attempts' of regenerate_cot: must be a whole number (given: 'abc')",
        ),
        ("limit=abc", "model: m}", 'model: m, timeout: "${params.limit}"}', "models.student.timeout: must be a number (given: 'abc')"),
    ],
)  # fmt: skip
def test_a_parameter_of_the_wrong_type_is_named_with_what_is_wrong(setting: str, old: str, new: str, expected: str) -> None:
    text = GOOD.replace(old, new) if old else GOOD
    name = "path" if setting.startswith("path") else "limit"
    [found] = [each for each in problems(text, [setting]) if expected in each]
    assert found.endswith(f"\n    it comes from params.{name}, which --set can change")


def test_a_value_of_the_wrong_type_has_no_hint_when_it_is_written_there() -> None:
    text = GOOD.replace("attempts: 2", "attempts: two")
    assert problems(text) == [
        f"{place(text, 'two')}: parameter 'attempts' of regenerate_cot: must be a whole number (given: 'two')"
    ]


def test_a_good_pipeline_is_typed_and_ordered() -> None:
    pipeline = checked(GOOD)
    assert list(pipeline.steps) == ["cot", "rows"]
    assert pipeline.sources["problems"].spec.limit == 3
    assert pipeline.steps["cot"].params.attempts == 2  # type: ignore[attr-defined]
    assert [link.label for link in pipeline.steps["rows"].inputs["solution"]] == ["cot.solved", "cot.unsolved"]
    assert pipeline.output_name("cot", "solved") == "demo/cot.solved"
    assert pipeline.output_name("rows", "out") == "demo/rows"


def test_settings_override_params_and_keep_their_types() -> None:
    assert checked(GOOD, ["limit=1"]).sources["problems"].spec.limit == 1
    [unknown] = problems(GOOD, ["limt=1"])
    assert "--set limt=1" in unknown
    assert "did you mean 'limit'?" in unknown
    assert "use the form --set name=value" in problems(GOOD, ["limit"])[0]
    assert "limit" in problems(GOOD, ["limit=many"])[0]


CASES = {
    "an unknown key": ("in: problems, with", "inn: x, in: problems, with", "inn: x", ["unknown key 'inn'", "did you mean 'in"]),
    "an unknown top-level key": ("steps:", "stepz: {}\nsteps:", "stepz", ["unknown key 'stepz'", "did you mean 'steps'?"]),
    "an unknown operator": ("regenerate_cot", "regenerate_cott", "regenerate_cott", ["no operator", "did you mean 'regenerate_cot'?"]),
    "an unknown parameter": ("attempts: 2", "attempt: 2", "attempt: 2", ["no parameter 'attempt'", "did you mean 'attempts'?"]),
    "a parameter of the wrong type": ("attempts: 2", "attempts: two", "two", ["'attempts'", "whole number", "'two'"]),
    "a parameter out of range": ("attempts: 2", "attempts: 0", "0}", ["'attempts'", "greater than or equal to 1"]),
    "an unknown record type": ("MathProblem", "MathProblm", "MathProblm", ["MathProblm", "did you mean 'MathProblem'?"]),
    "a missing file": ("path: data.jsonl", "path: nothere.jsonl", '"${params.path}"', ["there is no file nothere.jsonl"]),
    "an unknown reference": ("[cot.solved, ", "[cot.solvd, ", "cot.solvd", ["no output 'solvd'", "did you mean 'solved'?"]),
    "an unknown step": ("[cot.solved, ", "[kot.solved, ", "kot.solved", ["no dataset or step 'kot.solved'", "did you mean 'cot.solved'?"]),
    "an output that must be named": ("[cot.solved, ", "[cot, ", "cot, cot.unsolved", ["several outputs", "cot.solved, cot.unsolved"]),
    "a wrong type on an edge": (
        "[cot.solved, ",
        "[problems, ",
        "problems, cot.uns",
        ["to_sft needs MathSolution as 'solution', but problems is MathProblem", "field 'solution' (str) is missing"],
    ),
    "a missing model": ("teacher: {", "techer: {", "regenerate_cot", ["needs a model as 'teacher'", "did you mean 'techer'?"]),
    "an unknown role": ("with: {attempts: 2}", "models: {judge: teacher}", "judge: t", ["no role 'judge'"]),
    "a missing key": ("{op: to_sft, in", "{in", "{in", ["op", "required"]),
    "a bad provider": ("provider: openai, model: m, base", "provider: opnai, model: m, base", "opnai", ["provider", "'openai', "]),
    "an unknown parameter of the file": ('"${params.limit}"', '"${params.limt}"', '"${params.limt}"', ["no parameter named 'limt'"]),
    "two sources": ("limit: \"${params.limit}\"", "hf: x/y", "{type", ["exactly one of path, hf, generator, registry"]),
    "a bad name": ("  cot: {", "  Cot: {", "Cot: {", ["'Cot' is not a valid name", "lower-case"]),
    "a bad address": ("http://127.0.0.1:9/v1", "localhost:9", '"localhost:9"', ["http://"]),
    "a prompt with an unknown variable": (
        "attempts: 2",
        'prompt: "{{ qestion }}"',
        '"{{ qestion }}"',
        ["uses qestion", "may use question"],
    ),
    "a prompt that does not parse": ("attempts: 2", 'prompt: "{% if %}"', '"{% if %}"', ["not a valid template"]),
    "a bad generator": (
        'path: "${params.path}", limit: "${params.limit}"',
        "generator: reasoning_gym/chain_sums",
        "reasoning_gym",
        ["no task 'chain_sums'", "did you mean 'chain_sum'?"],
    ),
    "a generator's bad setting": (
        'path: "${params.path}", limit: "${params.limit}"',
        "generator: reasoning_gym/chain_sum, with: {min_trms: 2}",
        "{min_trms",
        ["min_trms"],
    ),
    "an unknown field in rename": ("limit: \"${params.limit}\"", "rename: {q: qestion}", "qestion", ["no field 'qestion'", "'question'?"]),
    "no registry": ("in: problems", 'in: "registry:a/b@1"', '"registry', ["there is no registry yet"]),
    "a file of unknown format": ("path: data.jsonl", "path: p.yaml", '"${params.path}"', ["unknown format of"]),
    "a missing folder for a model": ("provider: openai, model: m, base_url: \"http://127.0.0.1:9/v1\"", "provider: transformers, model: ./no", "./no", ["no folder ./no"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_problem_is_reported_with_its_position(case: tuple[str, str, str, list[str]]) -> None:
    old, new, where, words = case
    text = GOOD.replace(old, new)
    assert text != GOOD
    found = problems(text)
    matching = [problem for problem in found if all(word in problem for word in words)]
    assert matching, found
    assert matching[0].startswith(place(text, where) + ": "), (matching[0], place(text, where))


def test_a_duplicate_key_is_a_problem() -> None:
    text = GOOD + "  cot: {op: to_sft, in: problems}\n"
    [duplicate, *_] = [problem for problem in problems(text) if "duplicate" in problem]
    assert duplicate.startswith(place(text, "  cot:", 1).replace(":1:", ":1:").rpartition(":")[0])
    assert "the first one is on line 9" in duplicate


def test_a_cycle_is_shown() -> None:
    text = """\
        name: demo
        steps:
          a: {op: to_sft, in: b}
          b: {op: to_sft, in: a}
        """
    assert any("cycle: " in problem and "->" in problem for problem in problems(text))


def test_an_unset_key_is_a_problem_of_a_run_only_and_its_value_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("model: m, base_url", "model: m, api_key_env: MY_TEST_KEY, base_url")
    monkeypatch.delenv("MY_TEST_KEY", raising=False)
    checked(text)
    with pytest.raises(PipelineError, match="MY_TEST_KEY is not set") as wrong:
        check(Path("p.yaml"), keys=True)
    assert str(wrong.value).startswith(place(text, "MY_TEST_KEY"))
    monkeypatch.setenv("MY_TEST_KEY", "sk-secret")
    assert "sk-secret" not in repr(check(Path("p.yaml"), keys=True))


def test_all_problems_are_reported_at_once() -> None:
    text = """\
        name: demo
        extra: 1
        models:
          teacher: {provider: openai, model: m, temprature: 1, limits: {concurency: 3}}
        datasets:
          problems: {type: MathProblem, path: nothere.jsonl}
        steps:
          cot: {op: regenerate_cot, in: problems, with: {attempts: two}}
          rows: {op: to_sft, in: problems}
          other: {op: nonsense, in: rows}
          broken: {in: cot.solved}
          after: {op: to_sft, in: broken}
          cot: {op: to_sft}
        """
    found = "\n".join(problems(text))
    for words in (
        "unknown key 'extra'",
        "unknown key 'temprature'",
        "unknown key 'concurency'",
        "no file nothere.jsonl",
        "'attempts'",
        "field 'solution' (str) is missing",
        "no operator named 'nonsense'",
        "steps.broken.op: required",
        "duplicate key 'cot'",
    ):
        assert words in found, found
    assert "no dataset or step 'broken'" not in found


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "the file is empty"),
        (b"- a\n", "a pipeline must be a mapping"),
        (b"name: [", "not valid YAML"),
        (b"name: \xff\n", "p.yaml:1:7: the file is not UTF-8"),
        (b"name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        (b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8)), "too large"),
        (b"x" * (2 << 20), "bytes; the limit is"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_pipeline_is_rejected(raw: bytes, words: str) -> None:
    Path("p.yaml").write_bytes(raw)
    with pytest.raises(PipelineError, match=words):
        check(Path("p.yaml"))


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(PipelineError, match=r"cannot read nothere\.yaml"):
        check(Path("nothere.yaml"))


def test_a_budget_without_a_price_is_rejected(workdir: Path) -> None:
    run_pipelines.words("a")
    text = "{name: p, models: {teacher: {provider: openai, model: m, %s}}, datasets: {w: {type: Word, path: words.jsonl}}, steps: {s: {op: ask_once, in: w}}}"
    Path("p.yaml").write_text(text % "budget_usd: 5")
    with pytest.raises(PipelineError, match="budget_usd needs a price"):
        check(Path("p.yaml"))
    Path("p.yaml").write_text(text % "api_key_env: sk-secret-123")
    with pytest.raises(PipelineError, match="give the name of the environment variable") as wrong:
        check(Path("p.yaml"))
    assert "sk-secret" not in str(wrong.value)


HEADS = {
    "a row that does not fit": ("data.jsonl", '{"question": "1+1"}', "", ["data.jsonl:1: not a MathProblem: answer is missing; the row has question"]),
    "a column that is not there": ("data.csv", "question,answer\n1,2\n", "rename: {quetsion: source}", ["no column 'quetsion'", "did you mean 'question'?"]),
    "one in a file of a few lines": ("data.jsonl", '{"question": "1", "answer": "2"}', "rename: {frage: source}", ["no column 'frage'"]),
    "a file without rows": ("data.csv", "question,answer\n", "", ["dataset 'problems' is empty: data.csv has no rows", "allow_empty: true"]),
    "no JSON": ("data.json", "[", "", ["data.json: not JSON"]),
    "no Parquet": ("data.parquet", "PAR1", "", ["data.parquet: not a readable Parquet file"]),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADS.values(), ids=HEADS)
def test_problems_in_the_first_rows_are_reported_with_their_position(case: tuple[str, str, str, list[str]]) -> None:
    name, content, more, words = case
    Path(name).write_text(content)
    text = GOOD.replace('limit: "${params.limit}"', more or "limit: 3").replace("data.jsonl", name)
    [problem] = problems(text)
    assert problem.startswith(place(text, '"${params.path}"') + ": ")
    assert all(word in problem for word in words), problem


def test_check_reads_no_more_than_the_head_of_a_file() -> None:
    good, bad = '{"question": "1+1", "answer": "2"}\n', "oops\n"
    Path("data.jsonl").write_text(good * 20 + bad)
    text = GOOD.replace('limit: "${params.limit}"', "rename: {rare: source}")
    checked(text)  # a later row may have the column
    checked(text.replace("rename: {rare: source}", "on_error: skip"))
    Path("data.jsonl").write_text(good * 3 + bad)
    checked(GOOD)  # the limit of 3 leaves the bad row out


def test_hints_are_correct() -> None:
    [parameter, role] = problems(GOOD.replace("with: {attempts: 2}", "models: {zzz: teacher}, with: {qqq: 2}"))
    assert "has no parameter 'qqq'\n    available: attempts, prompt" in parameter + role
    assert "has no role 'zzz'\n    available: teacher" in parameter + role
    [nothing] = problems(GOOD.replace("[cot.solved, cot.unsolved]}", "[cot.solved], models: {zzz: teacher}}"))
    assert "to_sft has no models" in nothing
