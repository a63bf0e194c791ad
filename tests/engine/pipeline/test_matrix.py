"""A matrix varies parameters: what depends on them is in the graph once for each combination, everything else once."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.pipeline.graph import Pipeline
from tests.engine.pipeline.test_check import place
from tests.engine.run_pipelines import words

GRID = """\
name: demo
params: {mark: "!", teacher: a, at: 2}
matrix: {at: [1, 2], teacher: [a, b]}
models:
  teacher: {provider: openai, model: "${params.teacher}", base_url: "http://127.0.0.1:9/v1"}
datasets:
  words: {type: Word, path: words.jsonl}
steps:
  loud: {op: shout, in: words, with: {mark: "${params.mark}"}}
  cut: {op: by_length, in: loud, with: {at: "${params.at}"}}
  said: {op: ask, in: loud}
  all: {op: joined, in: [cut.long, said]}
"""


@pytest.fixture(autouse=True)
def data(workdir: Path) -> Path:
    words("ant", "bear")
    return workdir


def checked(text: str, settings: list[str] | None = None, matrix: list[str] | None = None) -> Pipeline:
    Path("p.yaml").write_text(dedent(text))
    return check(Path("p.yaml"), settings, matrix=matrix)


def problems(text: str, settings: list[str] | None = None, matrix: list[str] | None = None) -> list[str]:
    with pytest.raises(PipelineError) as wrong:
        checked(text, settings, matrix)
    return [str(problem) for problem in wrong.value.problems]


def test_a_step_has_a_variant_for_each_combination_of_what_it_depends_on() -> None:
    pipeline = checked(GRID)
    assert set(pipeline.steps) == {
        "loud",
        "at=1/cut",
        "at=2/cut",
        "teacher=a/said",
        "teacher=b/said",
        *(f"at={at},teacher={teacher}/all" for at in (1, 2) for teacher in "ab"),
    }
    assert pipeline.variants == ("at=1,teacher=a", "at=1,teacher=b", "at=2,teacher=a", "at=2,teacher=b")
    assert set(pipeline.sources) == {"words"}
    last = pipeline.steps["at=2,teacher=b/all"]
    assert [link.name for link in last.inputs["words"]] == ["at=2/cut", "teacher=b/said"]
    assert {name: step.models["teacher"].identity for name, step in pipeline.steps.items() if step.models} == {
        "teacher=a/said": "a",
        "teacher=b/said": "b",
    }
    assert pipeline.output_name("at=1/cut", "long") == "demo/at=1/cut.long"


def test_numbers_have_the_same_name_however_they_are_written() -> None:
    text = """\
        name: demo
        params: {share: 0.5}
        matrix: {share: [1e-5, 2.0e-5, 0.00003, .5]}
        datasets: {words: {type: Word, path: words.jsonl}}
        steps: {a: {op: shout, in: words, with: {mark: "${params.share}!"}}}
        """
    assert list(checked(text).steps) == ["share=1e-05/a", "share=2e-05/a", "share=3e-05/a", "share=0.5/a"]
    assert list(checked(text, matrix=["share=1e-5,2e-5"]).steps) == ["share=1e-05/a", "share=2e-05/a"]


def test_texts_that_a_name_cannot_have_become_their_beginning_and_a_digest() -> None:
    text = """\
        name: demo
        params: {mark: "!"}
        matrix: {mark: ["Qwen/Qwen3-8B", "registry:p/x@1", "", "é?", null, true, "a..b", a.b]}
        datasets: {words: {type: Word, path: words.jsonl}}
        steps: {a: {op: shout, in: words, with: {mark: "x${params.mark}"}}}
        """
    names = [variant.removeprefix("mark=") for variant in checked(text).variants]
    digested = ["Qwen-Qwen3-8B~a82fd547", "registry-p-x-1~2698d814", "~e3b0c442", "~a345ee13"]
    assert names == [*digested, "null", "true", "a-b~f62b4241", "a.b"]


def test_what_changes_no_result_makes_no_variants() -> None:
    text = GRID.replace("in: loud}\n  all", 'in: loud, resources: {num_cpus: "${params.at}"}, max_reject_ratio: 0.5}\n  all')
    assert [name for name in checked(text).steps if name.endswith("said")] == ["teacher=a/said", "teacher=b/said"]


def test_a_reference_can_be_what_varies() -> None:
    words("cat", file="cats.jsonl")
    text = """\
        name: demo
        params: {animal: words}
        matrix: {animal: [words, cats]}
        datasets:
          words: {type: Word, path: words.jsonl}
          cats: {type: Word, path: cats.jsonl}
          again: {type: Word, path: "${params.animal}.jsonl"}
        steps:
          a: {op: shout, in: "${params.animal}"}
          b: {op: shout, in: again}
        """
    pipeline = checked(text)
    assert set(pipeline.sources) == {"words", "cats", "animal=words/again", "animal=cats/again"}
    assert {name: step.needs for name, step in pipeline.steps.items()} == {
        "animal=words/a": {"words"},
        "animal=cats/a": {"cats"},
        "animal=words/b": {"animal=words/again"},
        "animal=cats/b": {"animal=cats/again"},
    }


def test_the_seed_can_vary() -> None:
    text = """\
        name: demo
        params: {seed: 0}
        seed: "${params.seed}"
        matrix: {seed: [1, 2]}
        datasets: {words: {type: Word, path: words.jsonl}}
        steps: {a: {op: shout, in: words}}
        """
    pipeline = checked(text)
    assert {name: pipeline.seed_of(name) for name in pipeline.steps} == {"seed=1/a": 1, "seed=2/a": 2}
    assert set(pipeline.sources) == {"words"}, "reading a file draws nothing"
    found = problems(text.replace("[1, 2]", "[1, x]"))
    assert len(found) == 1, found
    assert "seed: must be a whole number" in found[0]


def test_mistakes_in_a_matrix_have_a_place() -> None:
    text = GRID.replace("{at: [1, 2], teacher: [a, b]}", "{att: [1], teacher: [], at: 2}")
    assert problems(text) == [
        f"{place(text, 'att')}: no parameter named 'att'\n    did you mean 'at'?",
        f"{place(text, '[]')}: matrix.teacher: give a list of values\n    for example teacher: [1, 2]",
        f"{place(text, '2}', 1)}: matrix.at: give a list of values\n    for example at: [1, 2]",
    ]
    text = GRID.replace("[1, 2], teacher: [a, b]", "[1, '1', [2], '${params.mark}'], teacher: [a, A]")
    assert [line.partition(" matrix.")[2].partition("\n")[0] for line in problems(text)] == [
        "at: two values have the label '1'",
        "at: a value must be a string, a number, true, false or null",
        "at: a value cannot refer to other parameters",
        "teacher: two values have the label 'A'",
    ]
    text = GRID.replace("matrix: {", "matrix: {mark: ['!'], ").replace("${params.mark}", "!")
    [problem] = problems(text)
    assert problem.startswith(f"{place(text, 'mark', 1)}: the matrix varies mark, but no result depends on it")
    text = GRID.replace("matrix: {", "exclude: '${params.mark}'\nmatrix: {mark: ['!'], ")
    assert any("the matrix varies mark, and exclude must be the same in all variants" in each for each in problems(text))


def test_a_large_matrix_is_refused() -> None:
    text = GRID.replace("at: [1, 2]", f"at: {list(range(101))}")
    [problem] = [each for each in problems(text) if "variants" in each]
    assert problem.startswith(f"{place(text, 'matrix')}: the matrix has 202 variants")


def test_a_value_that_does_not_fit_is_reported_at_its_use_once() -> None:
    text = GRID.replace("at: [1, 2]", "at: [1, two]")
    assert problems(text) == [
        f"{place(text, chr(34) + '${params.at}')}: parameter 'at' of by_length: must be a whole number (given: 'two')"
    ]
    text = GRID.replace("in: loud}\n", "in: lod}\n")
    assert problems(text) == [f"{place(text, 'lod}')}: no dataset or step 'lod'\n    did you mean 'loud'?"]


def test_options_replace_values_of_the_matrix() -> None:
    assert checked(GRID, matrix=["at=3", "teacher=b,c"]).variants == ("at=3,teacher=b", "at=3,teacher=c")
    assert problems(GRID, settings=["at=3"]) == [
        "--set at: the matrix of the pipeline varies at\n    write --matrix at=VALUE for one of the variants"
    ]
    assert problems(GRID, matrix=["att=3"]) == ["--matrix att=3: no parameter named 'att'\n    did you mean 'at'?"]
    assert problems(GRID, matrix=["at"]) == ["--matrix at: use the form --matrix NAME=VALUE,VALUE"]
    assert problems(GRID, matrix=["at=1,1"])[0].startswith("--matrix at: two values have the label '1'")
    assert checked(GRID, settings=["mark='?'"]).steps["loud"].params.mark == "?"  # type: ignore[attr-defined]


def test_models_that_steps_train_belong_to_their_variant() -> None:
    text = """\
        name: demo
        params: {lr: 0.1}
        matrix: {lr: [0.5, 1e-5]}
        models:
          student: {provider: transformers, model: smollm2-135m-instruct}
          tuned: {provider: transformers, model: "step:sft"}
        datasets: {rows: {type: SFTExample, path: rows.jsonl}, problems: {type: MathProblem, path: problems.jsonl}}
        steps:
          sft: {op: train_sft, in: rows, with: {learning_rate: "${params.lr}"}}
          before: {op: evaluate_math, in: problems}
          after: {op: evaluate_math, in: problems, models: {student: tuned}}
        """
    turn = '[{"role": "user", "content": "Hi"}]'
    Path("rows.jsonl").write_text(f'{{"prompt": {turn}, "completion": {turn.replace("user", "assistant")}}}\n')
    Path("problems.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    pipeline = checked(text)
    assert set(pipeline.steps) == {"before", "lr=0.5/sft", "lr=0.5/after", "lr=1e-05/sft", "lr=1e-05/after"}
    made = {name: step.models["student"].made_by for name, step in pipeline.steps.items()}
    assert {name: link.name for name, link in made.items() if link} == {
        "lr=0.5/after": "lr=0.5/sft",
        "lr=1e-05/after": "lr=1e-05/sft",
    }


def test_the_model_of_a_step_can_be_what_varies() -> None:
    model = '{provider: openai, model: MODEL, base_url: "http://127.0.0.1:9/v1"}'
    text = f"""\
        name: demo
        params: {{who: small}}
        matrix: {{who: [small, large]}}
        models: {{small: {model.replace("MODEL", "s")}, large: {model.replace("MODEL", "l")}}}
        datasets: {{words: {{type: Word, path: words.jsonl}}}}
        steps: {{said: {{op: ask, in: words, models: {{teacher: "${{params.who}}"}}}}}}
        """
    found = {name: step.models["teacher"].identity for name, step in checked(text).steps.items()}
    assert found == {"who=small/said": "s", "who=large/said": "l"}
    assert any("no model is named 'huge'" in each for each in problems(text, matrix=["who=small,huge"]))


def test_a_matrix_over_many_steps_is_refused() -> None:
    many = "\n".join(f"  s{number}: {{op: shout, in: words, with: {{mark: 'x${{params.at}}'}}}}" for number in range(60))
    text = f"""\
name: demo
params: {{at: 1}}
matrix: {{at: {list(range(100))}}}
datasets: {{words: {{type: Word, path: words.jsonl}}}}
steps:
{many}
"""
    [problem] = problems(text)
    assert problem.startswith(f"{place(text, 'matrix')}: the matrix makes 6,000 steps")
