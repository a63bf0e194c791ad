"""Broken, huge or malicious pipeline files: each is rejected quickly, with the position, and without showing secrets."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError

from engine.errors import PipelineError
from engine.operator.templates.prompts import render
from engine.pipeline.check import check
from engine.spec.yaml_source import MAX_BYTES, MAX_NODES, parse

REST = "datasets: {rows: {type: MathProblem, path: rows.jsonl}}\nsteps: {once: {op: dedup, in: rows, with: {method: exact}}}\n"
GOOD = f"name: demo\n{REST}"
MODEL = "models: {t: {provider: openai, model: m, base_url: 'http://127.0.0.1:9/v1', %s}}\n"
ASK = "steps: {ask: {op: regenerate_cot, in: rows, models: {teacher: t}, with: {%s}}}\n"
ROWS = "name: demo\ndatasets: {rows: {type: MathProblem, path: rows.jsonl}}\n"


@pytest.fixture(autouse=True)
def _rows(workdir: Path) -> None:
    Path("rows.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')


def found(text: str, settings: list[str] | None = None) -> str:
    """The messages of a check, which must be quick."""
    Path("p.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(PipelineError) as wrong:
        check(Path("p.yaml"), settings)
    assert time.process_time() - started < 30  # generous: the bombs take minutes where they go off
    return str(wrong.value)


def body(value: str) -> str:
    return ROWS + MODEL % f"extra_body: {{x: {value}}}" + ASK % ""


def prompt(value: str) -> str:
    return ROWS + MODEL % "max_tokens: 9" + ASK % f"prompt: {value}"


REFUSED = {
    "aliases": ("a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 12)}]\n" for n in range(9)) + GOOD, "too large"),
    "merge keys": ("m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12)) + GOOD, "too large"),
    "a cycle": ("x: &m [*m]\n" + GOOD, "p.yaml:1:4: this value contains an alias of itself"),
    "deep lists": ("x: " + "[" * 50_000 + "]" * 50_000 + "\n" + GOOD, "p.yaml:1:5"),
    "deep mappings": ("x: " + "{a: " * 20_000 + "1" + "}" * 20_000 + "\n" + GOOD, "p.yaml:1:"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(900)) + GOOD, "p.yaml:51:51"),
    "deep with a surrogate pair": ('e: "\\ud83d\\ude00"\nx: ' + "[" * 9000 + "]" * 9000 + "\n" + GOOD, "p.yaml:2:5"),
    "many values": ("x: [" + "1, " * (MAX_NODES * 2) + "1]\n" + GOOD, "p.yaml:1:"),
    "many bytes": ("x: '" + "a" * MAX_BYTES + "'\n" + GOOD, "p.yaml:1:1: the file has"),
    "many unknown keys": (GOOD + "".join(f"k{n}: 1\n" for n in range(2000)), "and 1,900 more problems"),
    "many steps": (ROWS + "steps:\n" + "".join(f"  s{n}: {{op: dedup, in: rows}}\n" for n in range(1500)), "at most 1000"),
    "unclosed parameters": (f"params: {{a: 1}}\n{GOOD}".replace("rows.jsonl", "'" + "${params." * 50_000 + "'"), "is not closed"),
    "parameters that multiply": (
        f"params: {{a: '{'A' * 500_000}'}}\n{GOOD}".replace("rows.jsonl", "'" + "${params.a}" * 20_000 + "'"),
        "parameters make the pipeline larger than",
    ),
    "an unknown long parameter": (GOOD.replace("rows.jsonl", "'${params." + "b" * 200_000 + "}'"), "no parameter named 'bbb"),
    "a huge number": ("seed: " + "9" * 400 + "\n" + GOOD, "p.yaml:1:7: the number does not fit into 64 bits"),
    "a huge hexadecimal number": ("seed: 0x" + "F" * 100_000 + "\n" + GOOD, "p.yaml:1:7: the number does not fit"),
    "a number of many digits": ("params: {a: " + "9" * 9000 + "}\n" + GOOD, "p.yaml:1:13: not valid YAML: the number does not fit"),
    "a limit beyond 64 bits": (GOOD.replace("path:", f"limit: {2**64}, path:"), "p.yaml:2:45: the number does not fit"),
    "a Python object": ("x: !!python/object/apply:os.system [true]\n" + GOOD, "p.yaml:1:4: not valid YAML: the tag"),
    "binary data": ("params: {a: !!binary aGk=}\n" + GOOD, "p.yaml:1:13: YAML reads aGk= as binary data"),
    "a set": ("x: !!set {a, b}\n" + GOOD, "p.yaml:1:4: not valid YAML: the tag"),
    "a list as a parameter": ("params: {a: [1]}\n" + GOOD, "p.yaml:1:13: params.a: give a string, a number, true, false or null"),
    "a control character in a comment": (GOOD + "# \x1b[31mred\x1b[0m\n", "p.yaml:4:3: YAML does not allow the character U+001B"),
    "a character after astral ones": ("name: demo # \U0001f600\U0001f600 \x07\n" + REST, "p.yaml:1:17: YAML does not allow the character U+0007"),
    "no character at all": (GOOD + "# \ufffe\n", "p.yaml:4:3: YAML does not allow the character U+FFFE"),
    "half a pair in a prompt": (prompt('"\\ud83d {{ question }}"'), "p.yaml:4:82: an unpaired surrogate"),
    "half a pair in a key": ('"\\udc00": 1\n' + GOOD, "p.yaml:1:1: an unpaired surrogate"),
    "half a pair in a name": ('name: "a\\ud800"\n' + REST, "p.yaml:1:7: an unpaired surrogate"),
    "half a pair in a path": (GOOD.replace("rows.jsonl", '"r\\ud800.jsonl"'), "p.yaml:2:44: an unpaired surrogate"),
    "half a pair in a stop": (ROWS + MODEL % 'stop: ["\\udfff"]' + ASK % "", "an unpaired surrogate"),
    "half a pair in extra_body": (body('["\\ud800"]'), "an unpaired surrogate"),
    "pairs the wrong way round": (prompt('"\\ude00\\ud83d {{ question }}"'), "an unpaired surrogate"),
    "a date": (body("2024-02-03"), "YAML reads 2024-02-03 as a date, which JSON does not have"),
    "a time": (body(f"[{dt.datetime(2024, 2, 3, 4).isoformat()}]"), "YAML reads 2024-02-03T04:00:00 as a time"),
    "no number": (body(".nan"), ".nan is not a finite number"),
    "infinity": (body("{y: -.inf}"), "-.inf is not a finite number"),
    "an infinite time-out": (ROWS + MODEL % "timeout: .inf" + ASK % "", ".inf is not a finite number"),
    "an infinite time-out as text": (ROWS + MODEL % "timeout: 1e999" + ASK % "", "timeout: must be a finite number"),
    "an infinite limit": (ROWS + MODEL % "limits: {tokens_per_minute: '1e999'}" + ASK % "", "tokens_per_minute: must be a finite number"),
    "an infinite parameter": (GOOD.replace("method: exact", "threshold: 1e999"), "threshold"),
    "two documents": (GOOD + "---\n" + GOOD, "p.yaml:4:1: the file contains several YAML documents"),
    "a tab": ("name: demo\n\tx: 1\n", "p.yaml:2:1: not valid YAML"),
    "a NUL in a path": (GOOD.replace("rows.jsonl", '"a\\0b"'), "p.yaml:2:44: "),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_rejected_with_the_position(case: tuple[str, str]) -> None:
    text, words = case
    said = found(text)
    assert words in said
    assert "p.yaml:" in said
    assert len(said) < 20_000
    said.encode()


@pytest.mark.parametrize(
    "text", ["2024-01-01", ".nan", '"\\ud800"', "[" * 99, "&a [*a]", "9" * 30, "!!binary aGk=", "a\x1b", "[1]", "{a: 1}"]
)
def test_settings_of_the_command_line_have_the_same_limits(text: str) -> None:
    found(f"params: {{a: 1}}\n{GOOD}", [f"a={text}"])


def test_a_value_outside_json_is_reported_once() -> None:
    assert found("seed: .inf\n" + GOOD).count("p.yaml:1:7") == 1


def test_whole_surrogate_pairs_become_characters() -> None:
    source = parse('a: "\\ud83d\\ude00 x"\n"\\ud83d\\ude00": [é, "\\U0001F600"]\n', "p.yaml")
    assert source.data == {"a": "😀 x", "😀": ["é", "😀"]}
    assert not source.problems
    Path("p.json").write_text('{"name": "demo", "params": {"mark": "\\ud83d\\ude00"}, ' + '"datasets": {"rows": {"type": "MathProblem", "path": "rows.jsonl"}}, "steps": {"once": {"op": "dedup", "in": "rows"}}}')  # fmt: skip
    assert check(Path("p.json")).spec.params["mark"] == "😀"


def test_both_yaml_parsers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x {b: [1, 2.5, true, ~, 'é😀'], <<: {c: 1}}\n😀: *x\nd: |\n  long\n  text\n"
    fast = parse(text, "p.yaml")
    monkeypatch.setattr("engine.spec.yaml_source._FastLoader", None)
    assert parse(text, "p.yaml") == fast


SECRET = "hunter2hunter2"
KEY = "sk-proj-" + "a1B2" * 8
PATHS = [
    f"https://me:{SECRET}@example.com/rows.jsonl",
    f"https://{SECRET}@example.com/rows.jsonl",
    f"s3://AKIDEXAMPLE:{SECRET}@bucket/rows.jsonl",
    f"ftp://me:{SECRET}@example.com/rows.jsonl",
    f"https://example.com/rows.jsonl?token={SECRET}",
    f"https://example.com/rows.jsonl?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}",
    f"https://acc.blob.core.windows.net/c/rows.jsonl?sv=2024&sig={SECRET}",
    f"https://example.com/rows.jsonl?a=1&api%5Fkey={SECRET}",
    f"https://example.com/rows.jsonl#access_token={SECRET}",
    f"simplecache::https://me:{SECRET}@example.com/rows.jsonl",
    f"zip://rows.jsonl::https://example.com/a.zip?key={SECRET}",
    f"https://example.com/rows.jsonl?x={KEY}",
]
MODELS = [
    f"base_url: 'https://me:{SECRET}@example.com/v1'",
    f"base_url: 'https://{SECRET}@example.com/v1'",
    f"base_url: 'https://example.com/v1?api-key={SECRET}'",
    f"base_url: 'https://example.com/v1?key={SECRET}'",
    f"base_url: 'https://example.com/{KEY}/v1'",
    f"extra_body: {{api_key: {SECRET}}}",
    f"extra_body: {{headers: {{Authorization: Bearer {SECRET}}}}}",
    f"extra_body: {{a: [{{proxy: 'http://me:{SECRET}@proxy:1'}}]}}",
    f"extra_body: {{a: [{{client-secret: {SECRET}}}]}}",
    f"extra_body: {{x: {KEY}}}",
    f"extra_body: {{aws_secret_access_key: {SECRET}}}",
    f"system: 'use {KEY}'",
    f"api_key_env: {KEY}",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_secret_in_a_path_is_refused_and_never_shown(path: str) -> None:
    said = found(GOOD.replace("rows.jsonl", f"'{path}'"))
    assert "p.yaml:2:44: " in said
    assert "environment variable" in said
    assert SECRET not in said
    assert KEY not in said
    said = found(f"params: {{p: x}}\n{GOOD}".replace("rows.jsonl", "'${params.p}'"), [f"p={path}"])
    assert SECRET not in said
    assert KEY not in said


@pytest.mark.parametrize("setting", MODELS)
def test_a_secret_in_a_model_is_refused_and_never_shown(setting: str) -> None:
    said = found(ROWS + f"models: {{t: {{provider: openai, model: m, {setting}}}}}\n" + ASK % "")
    assert "p.yaml:3:" in said
    assert "environment variable" in said
    assert SECRET not in said
    assert KEY not in said


@pytest.mark.parametrize(
    "setting",
    [
        "base_url: 'https://example.com/v1?api-version=2024-10-21'",
        "extra_body: {top_k: 20, max_tokens_per_image: 3, tokenizer: x, stop_token_ids: [1], bos_token: '<s>', key: 1}",
        "extra_body: {guided_json: {properties: {token: {type: string}, password: {type: string}}}}",
        "extra_body: {chat_template_kwargs: {enable_thinking: false}, reasoning_effort: low, user: me@example.com}",
    ],
)
def test_values_that_are_not_secrets_are_accepted(setting: str) -> None:
    Path("p.yaml").write_text(ROWS + f"models: {{t: {{provider: openai, model: m, {setting}}}}}\n" + ASK % "")
    check(Path("p.yaml"))


PROMPTS = {
    "no variable": ("Solve it.", "uses none of its variables (question)"),
    "single braces": ("Solve {question}", "write {{ question }} instead of {question}"),
    "single braces beside a variable": ("{{ question }} { question }", "write {{ question }} instead of {question}"),
    "a shell variable": ("Solve ${question}", "write {{ question }} instead of {question}"),
    "only a comment": ("{# {{ question }} #}", "uses none of its variables"),
    "a random choice": ("{{ [question, 1] | random }}", "`random` would make each run different"),
    "random text": ("{{ question }}{{ lipsum() }}", "the prompt uses lipsum"),
    "an unknown filter": ("{{ question | shuffle }}", "not a valid template"),
    "another template": ("{% include '/etc/passwd' %}{{ question }}", "cannot include other templates"),
    "deep": ("{{ " + "(" * 3000 + "question" + ")" * 3000 + " }}", "nested too deeply"),
}


@pytest.mark.parametrize("case", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_with_a_likely_mistake_is_refused(case: tuple[str, str]) -> None:
    template, words = case
    assert words in found(prompt(f'"{template}"'))


@pytest.mark.parametrize(
    "template",
    [
        "{{ question }} in \\boxed{answer}",
        "{{question}}",
        "{% if question %}x{% endif %} {a}",
        "{{ '{question}' }} {{ question }}",
    ],
)
def test_a_prompt_with_other_braces_is_accepted(template: str) -> None:
    Path("p.yaml").write_text(prompt(f"'{template}'".replace("'{question}'", "''{question}''")))
    check(Path("p.yaml"))


@pytest.mark.parametrize(
    "bomb", ["{{ 9 ** 999 ** 999 ** 999 }}", "{{ 'x' * 10 ** 11 }}", "{{ [1] * 99999999999 }}", "{{ 'x' | center(10 ** 12) }}"]
)
def test_a_prompt_that_is_a_bomb_is_not_evaluated_by_check(bomb: str) -> None:
    template = f"{bomb} {{{{ question }}}}"
    Path("p.yaml").write_text(prompt(f'"{template}"'))
    check(Path("p.yaml"))
    if "center" not in bomb:
        with pytest.raises(SecurityError, match="at most"):
            render(template, question="q")


def test_a_prompt_prints_only_text_and_the_same_each_time() -> None:
    template = "{{ question * 3 }} {{ 2 ** 8 * 1.5 * 100000 }} {{ [1, 'a'] }} {{ none }} {{ question | upper }}"
    assert render(template, question="q") == "qqq 38400000.0 [1, 'a'] None Q"
    with pytest.raises(TypeError, match="a template prints a builtin_function_or_method"):
        render("{{ question.upper }}", question="q")
