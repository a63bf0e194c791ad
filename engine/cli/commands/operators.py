"""Commands about the parts of pipelines: ops, schema."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.commands.shared import JsonOption, out, print_json, say
from engine.errors import PipelineError, Problem


def ops(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An operator's name, or its full name package:name.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the operators, or describe one of them. The description has its documentation, inputs, outputs and parameters."""
    from engine.cli.operator_view import operator_document, print_operator, print_operators
    from engine.packages.catalogue import catalogue

    operators = catalogue().operators
    if name is not None:
        try:
            operator = operators[name]
        except KeyError as error:
            raise PipelineError([Problem(f"no operator named {name!r}", hint=operators.hint(name))]) from error
        if json:
            print_json(operator_document(operator))
        else:
            print_operator(operator, out())
        return
    for broken in catalogue().load_all():
        say(f"warning: {broken}")
    if json:
        print_json([operator_document(each) for each in operators.values()])
    else:
        print_operators(operators.items(), out())


def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from engine.packages.catalogue import catalogue
    from engine.pipeline.json_schema import pipeline_schema

    for broken in catalogue().load_all():
        say(f"warning: {broken}")
    print_json(pipeline_schema())
