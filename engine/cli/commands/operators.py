"""Commands on what pipelines can be made of: ops, schema."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.commands.shared import JsonOption, out, print_json
from engine.errors import PipelineError, Problem, did_you_mean


def ops(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    json: JsonOption = False,
) -> None:
    """List the operators, or show one: inputs, outputs, parameters, documentation."""
    from engine.cli.output import grid
    from engine.cli.run_view import operator_document, print_operator
    from engine.operator.catalogue import catalogue

    known = catalogue().operators
    if name is not None and name not in known:
        raise PipelineError([Problem(f"no operator named {name!r}", hint=did_you_mean(name, known))])
    if name is not None:
        if json:
            print_json(operator_document(known[name]))
        else:
            print_operator(known[name], out())
        return
    operators = [known[each] for each in sorted(known)]
    if json:
        print_json([operator_document(each) for each in operators])
        return
    rows = [
        [
            each.name,
            ", ".join("any type" if port.open else port.record.type_name() for port in each.inputs.values()),
            ", ".join(sorted({"the same" if name in each.like else r.type_name() for name, r in each.outputs.items()})),
            ", ".join(each.roles),
            each.doc.partition("\n")[0],
        ]
        for each in operators
    ]
    out().print(grid(["operator", "in", "out", "models", ""], rows))


def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from engine.pipeline.json_schema import pipeline_schema

    print_json(pipeline_schema())
