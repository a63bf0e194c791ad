"""Templates over rows of any type: checked against the fields, filled for a row, and bounded whatever they compute."""

from __future__ import annotations

import datetime as dt

import pytest

from engine.operator import Record, Reject, fill, template_problem

SQUARED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set it = namespace(text=question) %}{% for i in range(60) %}{% set it.text = it.text %s it.text %}{% endfor %}"


class Source(Record):
    """An object inside a row."""

    url: str
    year: int | None = None


class Asked(Record):
    """Rows with plain fields."""

    question: str
    persona: str | None = None
    tags: list[str] = []
    when: dt.datetime | None = None
    source: Source | None = None
    others: list[Source] = []


ROW = Asked(question="Why?", tags=["a", "b"], when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))


def problem(text: str) -> str:
    found = template_problem(text, Asked)
    assert found, text
    return found


def test_a_template_uses_the_fields_of_the_row() -> None:
    text = "{{ question }} [{{ persona }}] {% for tag in tags %}{{ loop.index }}/{{ loop.length }} {{ tag }} {% endfor %}{{ when }}"
    assert template_problem(text, Asked) is None
    assert fill(text, ROW) == "Why? [] 1/2 a 2/2 b 2026-01-02T00:00:00+00:00"
    assert fill('{{ row["question"] }}', ROW) == "Why?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Say {{ questoin }}", "Asked has no field 'questoin'; did you mean 'question'?"),
        ("Say {{ row.questoin }}", "Asked has no field 'questoin'; did you mean 'question'?"),
        ('Say {{ row["questoin"] }}', "Asked has no field 'questoin'; did you mean 'question'?"),
        ("Say {{ zzz }}", "Asked has no field 'zzz'; available: others, persona, question, source, tags, when"),
        ("Say {question}", "write {{ question }} instead of {question}, which is sent literally"),
        (
            "Say hello",
            "it is the same for every row, because it uses no field of the row (question, persona, tags, when, source, others)",
        ),
        ("Say {{ question", "not a valid template: unexpected end of template"),
        ("{% include 'x' %}{{ question }}", "a prompt cannot include other templates"),
        ("{{ question | nosuch }}", "No filter named 'nosuch'"),
        ("{{ source.yaer }}", "an object of the row has no field 'yaer'; did you mean 'year'?"),
        ("{{ row.source['yaer'] }}", "an object of the row has no field 'yaer'; did you mean 'year'?"),
        ("{% for each in others %}{{ each.uri }}{% endfor %}", "an object of the row has no field 'uri'; did you mean 'url'?"),
        ("{{ question.value }}", "it looks up 'value' in a text, which has no fields"),
        (
            "{% for i in range(1000000000) %}{{ question }}{% endfor %}",
            "a range in a template may have at most 100,000 numbers",
        ),
        ("{{ range(10**30) }} {{ question }}", "a range in a template may have at most 100,000 numbers"),
        ("{{ tags.first }}", "it looks up 'first' in a list, which has no fields"),
        ("{{ when.hours }}", "it looks up 'hours' in a time, which has no fields"),
    ],
)
def test_what_is_wrong_with_a_template_is_known_before_it_runs(text: str, said: str) -> None:
    assert said in problem(text)


@pytest.mark.parametrize(
    "text",
    [
        SQUARED,
        "{% for i in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
        pytest.param(
            "{% for x in range(999) recursive %}{% if loop.depth < 4 %}{{ loop(range(999)) }}{% endif %}{% endfor %}",
            marks=pytest.mark.attack,
        ),
        pytest.param(
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
            marks=pytest.mark.attack,
        ),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        DOUBLED.replace("%s", "~"),
        DOUBLED.replace("%s", "+"),
        "{% set x %}{% for i in range(99999) %}{{ question * 999 }}{% endfor %}{% endset %}",
        "{% for i in range(99999) %}" + "a" * 999 + "{% endfor %}",
        "{{ question * 9999999 }}",
        "{{ question | center(999999999) }}",
        "{{ question.ljust(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ (question * 9999) | replace('', question * 9999) }}",
        "{{ (question * 9999).replace('', question * 9999) }}",
    ],
)
def test_a_template_that_runs_too_long_is_an_error_instead_of_a_hang(text: str) -> None:
    found = problem(text + "{{ question }}")
    assert "at most" in found or "without end" in found
    with pytest.raises(Reject):
        fill(text + "{{ question }}", ROW)


def test_a_template_that_fails_for_a_row_rejects_it() -> None:
    assert template_problem("{{ tags[5] }}", Asked) is None
    with pytest.raises(Reject, match="the template fails for this row: UndefinedError: list object has no element 5"):
        fill("{{ tags[5] }}", ROW)
    with pytest.raises(Reject, match="ZeroDivisionError"):
        fill("{{ 1 / (tags | length - 2) }}", ROW)


@pytest.mark.parametrize(
    "text",
    [
        "{{ source.url }} {{ source.get('more') }} {% for name, value in source.items() %}{{ name }}{{ value }}{% endfor %}",
        "{{ tags[7] }} {{ question.split('#')[1] }} {{ question.upper() }} {{ when.year }}",
        "{% if source %}{{ source.url }}{% endif %}{% for each in others %}{{ each.year }}{% endfor %}",
    ],
)
def test_a_template_may_use_what_only_some_rows_lack(text: str) -> None:
    assert template_problem(text, Asked) is None
