"""The command line: parse arguments, call the library, print. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import csv
import os
import signal
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from engine.problems import EngineError, PipelineError, Problem, did_you_mean

app = typer.Typer(
    name="engine",
    help="Author YAML pipelines for LLM post-training data, run them, and query their lineage with SQL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

PipelineArg = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A YAML file, or the name of a pipeline that comes along.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one of the file's params.")]
SelectOption = Annotated[list[str] | None, typer.Option("--select", metavar="STEP", help="Only this step and what it needs.")]
ForceOption = Annotated[list[str] | None, typer.Option("--force", metavar="STEP", help="Run this step though it hits.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """How `engine sql` prints rows."""

    table = "table"
    csv = "csv"
    json = "json"


class _Settings:
    registry = Path(".engine")
    debug = False


def main() -> NoReturn:
    """The entry point: runs a command and turns errors into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    _Settings.debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; finished work is kept")
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


@app.callback()
def _options(
    registry: Annotated[
        Path | None,
        typer.Option("--registry", metavar="DIR", help="The registry's folder (or ENGINE_REGISTRY).", show_default=".engine"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    _Settings.registry = registry or Path(os.environ.get("ENGINE_REGISTRY") or ".engine")
    _Settings.debug = debug or _Settings.debug


@app.command()
def check(pipeline: PipelineArg, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a pipeline: its keys, types, parameters, files and models. Nothing is started."""
    checked = _check(pipeline, set_)
    if json:
        _print_json({"pipeline": checked.spec.name, "steps": list(checked.steps), "problems": []})
    else:
        _out().print(f"{pipeline} is fine: {len(checked.steps)} steps, {len(checked.sources)} external datasets.")


@app.command()
def plan(
    pipeline: PipelineArg,
    set_: SetOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    why: Annotated[bool, typer.Option("--why", help="Say for each step that runs what changed.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a run would do: hits, steps to run, rows, and upper bounds of calls, tokens and price."""
    from engine.plan import make_plan
    from engine.report import plan_rows, print_plan

    checked = _check(pipeline, set_)
    chosen, forced = _steps(checked, select, "--select"), _steps(checked, force, "--force")
    made = make_plan(checked, _registry(), select=chosen, force=forced, why=why)
    if json:
        _print_json(plan_rows(made))
    else:
        print_plan(made, _out())


@app.command()
def run(
    pipeline: PipelineArg,
    set_: SetOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    json: JsonOption = False,
) -> None:
    """Run a pipeline; what is there already is not made again."""
    from engine.output import stderr_console
    from engine.progress import progress_on
    from engine.report import print_run, run_document
    from engine.run import run as run_pipeline

    checked = _check(pipeline, set_)
    chosen, forced = _steps(checked, select, "--select"), _steps(checked, force, "--force")
    registry = _registry()
    with progress_on(stderr_console()) as observer:
        result = run_pipeline(checked, registry, observer, select=chosen, force=forced)
    if json:
        _print_json(run_document(result))
    else:
        print_run(result, str(_Settings.registry), _out())
    if _Settings.debug and result.trace:
        _say(result.trace)
    if result.state != "succeeded":
        raise typer.Exit(130 if result.state == "interrupted" else 1)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; `-` reads it from stdin.")],
    format: Annotated[Format, typer.Option("--format", help="How to print the rows.")] = Format.table,
    json: JsonOption = False,
) -> None:
    """Query the registry (read-only). Views: datasets, versions, runs, step_runs, lineage, row_lineage, llm_calls,
    rejects, metrics; table functions: upstream('N@V'), downstream('N@V'), trace('N@V', row); each dataset by its name."""
    from engine.output import grid, records

    text = sys.stdin.read() if query == "-" else query
    with _reading().session() as session:
        answer = session.ask(text)
    if json or format is Format.json:
        _print_json(records(answer))
    elif format is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows([_csv_cell(value) for value in row] for row in answer.rows)
    else:
        _out().print(grid(answer.columns, answer.rows))
        _out().print(f"({len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'})")


@app.command()
def ls(json: JsonOption = False) -> None:
    """List datasets, models and calibrations with their latest versions."""
    _table("select name, kind, type, latest_version, rows, updated_at from datasets", json, empty="The registry is empty.")


@app.command()
def runs(json: JsonOption = False) -> None:
    """List runs, the newest first."""
    registry = _reading()
    registry.catalog.mark_dead_runs()
    _table("select * from runs order by started_at desc", json, empty="Nothing ran yet.")


@app.command()
def show(target: Annotated[str, typer.Argument(metavar="NAME[@V]")], json: JsonOption = False) -> None:
    """Show a version: its type and fields, what it was made from, by which step and run, and its metrics."""
    from engine.output import grid

    registry = _reading()
    with registry.session() as session:
        name, version = session.resolve(target)
        versions = session.ask("select version from versions where name = ? order by 1", [name]).rows
    manifest = registry.manifest(name, version)
    if json:
        _print_json(manifest.model_dump(mode="json"))
        return
    console = _out()
    console.print(f"{manifest.ref}  {manifest.kind} of {manifest.type}, {manifest.rows} rows, {manifest.bytes:,} bytes")
    made = f"read as {manifest.step!r}" if manifest.op == "source" else f"made by step {manifest.step!r} ({manifest.op})"
    console.print(f"{made} in run {manifest.run_id}, {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    console.print(f"content {manifest.content_id}")
    console.print(f"step key {manifest.step_key}")
    for title, refs in (("from", manifest.inputs), ("by model", manifest.models)):
        for ref in refs:
            console.print(f"{title} {ref}")
    console.print(f"versions {', '.join(str(number) for (number,) in versions)}")
    console.print()
    console.print(grid(["field", "type"], manifest.fields.items()))
    if manifest.metrics:
        console.print()
        console.print(grid(["metric", "slice", "value"], [[m.metric, m.slice, m.value] for m in manifest.metrics]))


@app.command()
def head(
    target: Annotated[str, typer.Argument(metavar="NAME[@V]")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show the first rows of a version."""
    from engine.output import cell_text

    with _reading().session() as session:
        name, version = session.resolve(target)
        table = session.table(f"{name}@{version}")
    found = table.slice(0, rows).to_pylist()
    if json:
        _print_json(found)
        return
    console = _out()
    console.print(f"{name}@{version}: {min(rows, table.num_rows)} of {table.num_rows} rows")
    for row in found:
        console.print(f"\nrow {row.pop('row')}")
        for key, value in row.items():
            if value is not None:
                console.print(f"  {key}: {cell_text(value, 400)}", soft_wrap=True)


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    json: JsonOption = False,
) -> None:
    """List the operators, or show one: inputs, outputs, parameters, documentation."""
    from engine.operators import catalogue
    from engine.output import grid
    from engine.report import operator_document, print_operator

    known = catalogue().operators
    if name is not None and name not in known:
        raise PipelineError([Problem(f"no operator named {name!r}", hint=did_you_mean(name, known))])
    if name is not None:
        if json:
            _print_json(operator_document(known[name]))
        else:
            print_operator(known[name], _out())
        return
    operators = [known[each] for each in sorted(known)]
    if json:
        _print_json([operator_document(each) for each in operators])
        return
    rows = [
        [
            each.name,
            ", ".join(port.record.type_name() for port in each.inputs.values()),
            ", ".join(sorted({record.type_name() for record in each.outputs.values()})),
            ", ".join(each.roles),
            each.doc.partition("\n")[0],
        ]
        for each in operators
    ]
    _out().print(grid(["operator", "in", "out", "models", ""], rows))


@app.command()
def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    from engine.schema import pipeline_schema

    _print_json(pipeline_schema())


@app.command()
def rebuild() -> None:
    """Make registry.duckdb again from the manifests and run journals."""
    count = _reading().catalog.rebuild()
    _out().print(f"rebuilt from {count} manifests")


# -- shared by the commands -----------------------------------------------------------------------------------------


def _registry() -> Any:
    from registry import Registry

    return Registry(_Settings.registry)


def _reading() -> Any:
    registry = _registry()
    if not registry.exists:
        raise PipelineError(
            [
                Problem(
                    f"there is no registry at {_Settings.registry}",
                    hint="run a pipeline first, or name another: engine --registry DIR ...",
                )
            ]
        )
    return registry


def _check(pipeline: str, settings: list[str] | None) -> Any:
    from engine.check import check as check_file

    registry = _registry()
    if not registry.exists:
        return check_file(_find_pipeline(pipeline), settings)
    with registry.session() as session:
        return check_file(_find_pipeline(pipeline), settings, session)


def _find_pipeline(name: str) -> Path:
    """A file; or, for a bare name, a pipeline that comes with the engine."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = {Path(str(each)).stem: Path(str(each)) for each in files("pipelines").iterdir() if str(each).endswith(".yaml")}
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(path.stem, shipped, f"pipelines that come along, to be run by name: {', '.join(sorted(shipped))}")
    raise PipelineError([Problem(f"there is no file {name}", hint=hint)])


def _steps(checked: Any, names: list[str] | None, option: str) -> set[str]:
    for name in names or []:
        if name not in checked.steps:
            raise PipelineError([Problem(f"{option} {name}: no such step", hint=did_you_mean(name, checked.steps))])
    return set(names or [])


def _table(query: str, json: bool, empty: str) -> None:
    from engine.output import grid, records

    registry = _registry()
    if not registry.exists:
        registry = _reading()
    with registry.session() as session:
        answer = session.ask(query)
    if json:
        _print_json(records(answer))
    elif not answer.rows:
        _out().print(empty)
    else:
        _out().print(grid(answer.columns, answer.rows))


def _csv_cell(value: Any) -> Any:
    from engine.output import cell_text, plain

    return cell_text(value, None) if isinstance(value, list | dict) else plain(value)


def _out() -> Any:
    from engine.output import stdout_console

    return stdout_console()


def _print_json(value: Any) -> None:
    from engine.output import as_json

    print(as_json(value))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _explain(error: Exception) -> int:
    """Print an error for people; the exit code says whether the pipeline (2) or the work (1) was at fault."""
    from registry import CorruptError, LockedError, QueryError, UnsupportedTypeError

    if _Settings.debug:
        traceback.print_exc()
    show: Callable[[], str] | None = getattr(error, "format_message", None)
    if show is not None:  # the parser's own errors
        _say(f"error: {show()}\n(engine --help lists commands and options)")
        return 2
    if isinstance(error, PipelineError):
        count = len(error.problems)
        _say(f"error: {error}" if count == 1 else f"{count} problems:\n{error}")
        return 2
    if isinstance(error, QueryError | UnsupportedTypeError):
        _say(f"error: {error}")
        return 2
    if isinstance(error, EngineError | CorruptError | LockedError):
        _say(f"error: {error}")
        return 1
    _say(f"error: {type(error).__name__}: {error}")
    _say("(this is a bug in the engine or an operator; `engine --debug ...` shows where)")
    return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
