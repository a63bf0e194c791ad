"""If packages are missing, the check says which, where they are needed, and how to install them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.pipeline.packages import EXTRAS, how_to_install, missing

PYPROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
MODULES = {"markdown-it-py": "markdown_it"}
ROWS = '{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}\n'


def modules(requirements: list[str]) -> set[str]:
    """The modules of requirements, including those of the extras that they name."""
    found = set()
    for requirement in requirements:
        if inner := re.fullmatch(r"posttrain-engine\[(.*)\]", requirement):
            found |= {name for extra in inner[1].split(",") for name in modules(PYPROJECT["optional-dependencies"][extra])}
        else:
            name = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
            found.add(MODULES.get(name, name.replace("-", "_")))
    return found


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("engine.pipeline.packages.is_installed", lambda module: module not in names)


def problem(text: str) -> str:
    Path("rows.jsonl").write_text(ROWS)
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as failed:
        check(Path("p.yaml"))
    return str(failed.value)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_what_the_check_expects_of_it(extra: str) -> None:
    assert modules(PYPROJECT["optional-dependencies"][extra]) - {"ray"} == EXTRAS[extra]
    assert not EXTRAS[extra] & modules(PYPROJECT["dependencies"])


def test_all_has_every_extra() -> None:
    assert modules(PYPROJECT["optional-dependencies"]["all"]) - {"ray"} == set().union(*EXTRAS.values())


def test_an_operator_without_its_packages_is_a_problem_with_its_position(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, "peft", "torch", "trl")
    text = "name: p\nmodels: {student: {provider: openai, model: m}}\ndatasets: {rows: {type: SFTExample, path: rows.jsonl}}\n"
    said = problem(f"{text}steps:\n  tune: {{op: train_sft, in: rows, models: {{student: student}}}}\n")
    assert "p.yaml:5:14: train_sft needs the packages peft, torch, trl, which are not installed" in said
    assert "pip install 'posttrain-engine[train]'" in said


def test_a_local_model_a_hub_and_a_generator_name_their_extras(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "torch", "datasets", "reasoning_gym")
    said = problem(
        "name: p\nmodels: {teacher: {provider: transformers, model: smollm2-135m-instruct}}\n"
        "datasets:\n  a: {type: MathProblem, hf: some/set}\n  b: {type: MathProblem, generator: reasoning_gym/chain_sum}\n"
        "steps:\n  s: {op: regenerate_cot, in: [a, b]}\n"
    )
    assert "p.yaml:2:30: provider transformers needs the package torch, which is not installed" in said
    assert "pip install 'posttrain-engine[local]'" in said
    assert "hf needs the package datasets" in said
    assert "reasoning_gym needs the package reasoning_gym" in said
    assert said.count("pip install 'posttrain-engine[sources]'") == 2


def test_how_to_install() -> None:
    assert how_to_install(["matplotlib"]) == "pip install 'posttrain-engine[reports]'"
    assert how_to_install(["torch", "trl"]) == "pip install 'posttrain-engine[train]'"
    assert how_to_install(["acme"]) == "pip install acme"
    assert missing(["json", "nowhere_at_all"]) == ["nowhere_at_all"]
