"""The SQL reference lists exactly the existing views, table functions and columns, and the queries in the docs run."""

from __future__ import annotations

import re
import shlex

import pytest

from registry import QueryError, Registry
from tests.docs.pages import ROOT, engine_lines
from tests.registry.catalog.test_catalog import three_generations

pytestmark = pytest.mark.proof

PAGE = (ROOT / "docs" / "reference" / "sql.md").read_text()
FUNCTIONS = {"upstream": "upstream('p/b@1')", "downstream": "downstream('p/b@1')", "trace": "trace('p/c@1', 0)"}


def documented(section: str) -> dict[str, list[tuple[str, str]]]:
    """Heading -> (column, type) of a section of the page."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return {
        heading: re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", body, re.MULTILINE)
        for heading, body in re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    }


def test_every_view_is_documented_with_its_columns(registry: Registry) -> None:
    three_generations(registry)
    with registry.session() as session:
        views = re.findall(r"^create view (\w+)", (ROOT / "registry" / "sql" / "views.sql").read_text(), re.MULTILINE)
        found = {view: [row[:2] for row in session.ask(f"describe {view}").rows] for view in views}
    assert documented("Views") == found


def test_every_table_function_is_documented_with_its_columns(registry: Registry) -> None:
    three_generations(registry)
    with registry.session() as session:
        found = {name: [row[:2] for row in session.ask(f"describe from {call}").rows] for name, call in FUNCTIONS.items()}
    assert documented("Table functions") == found


def queries() -> list[str]:
    """The queries of all `engine sql` lines."""
    lines = [shlex.split(line, comments=True) for _, line in engine_lines()]
    return sorted({words[2] for words in lines if words[1] == "sql"})


@pytest.mark.parametrize("query", queries())
def test_a_query_runs(query: str, registry: Registry) -> None:
    """Versions are replaced with one that exists. The only mistake in a query on a dataset is that the dataset does not exist."""
    three_generations(registry)
    query = re.sub(r"'[\w/.-]+@\d+'(, \d+)?", lambda found: "'p/c@1'" + (", 0" if found[1] else ""), query)
    with registry.session() as session:
        if re.search(r'"[\w-]+/', query):
            with pytest.raises(QueryError, match="no dataset, model, calibration or report named"):
                session.ask(query)
        else:
            session.ask(query)
