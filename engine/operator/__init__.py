"""What an author of operators needs. An operator is a decorated function whose signature says everything.

    from collections.abc import AsyncIterator
    from engine.operator import Record, operator

    class Problem(Record):
        question: str

    @operator
    async def shorter_than(problem: Problem, *, length: int = 200) -> AsyncIterator[Problem]:
        \"\"\"Keep problems whose question has fewer characters than `length`.\"\"\"
        if len(problem.question) < length:
            yield problem

The operator's name is the function's name, its docstring is the page of `engine ops NAME`, and its keyword-only arguments are
the parameters under `with:` in a pipeline. Operators are found in every module of a package in the entry-point group
`engine.operators`; a module is imported when a pipeline uses something that it defines.

**Shapes.** The inputs decide how the operator gets its rows:

* *row*: one argument is a record type. An async generator is called for each row and yields any number of records.
* *batch*: one argument is `Batch[X]`. A plain function gets an Arrow table with the column `_row` (the row's number in the
  input) and returns a table. If it keeps `_row` (one number for each row, or a list of numbers where it joins rows), the
  lineage of each row is known. Its output is declared with `outputs=`; where there are several, it returns a dict of tables.
* *whole*: all inputs are tables. A generator, async or not, is called once.

Inputs that are needed whole are `Table[X]`, also in addition to a row or a batch. `Lookup[X]` is a table that other rows are
only compared with: its rows without an output count as unused, not as filtered. `Grouped[X]` is a table whose `groups` number
the rows by the source row they come from, so that paraphrases stay on one side of a split. `Table[X] | None = None` may be left
out in a pipeline. `Record` in place of X takes rows of any type. `Mapping[str, Table[X]]` takes any number of inputs, which the
pipeline names.

**Outputs.** One output is read from the return annotation, `AsyncIterator[X]` or `Iterator[X]`. Several are declared:
`@operator(outputs={"solved": Solution, "unsolved": Solution})`; the operator yields `(output, record)`. The name of an input in
place of a type, `outputs={"kept": "rows"}`, means rows of that input's type. `Record` in place of a type means that it follows
from the parameters: their method `outputs` returns it, with types made by `extended` and `narrowed`. `outputs={"*": "rows"}`
means any number of outputs, which the method `output_names` of the parameters names.

**Models.** An argument annotated `ChatModel` or `Encoder` is a role; its name is the key under `models:` in a pipeline.
`await teacher.chat(prompt)` returns a `Completion` (`.text`, `.truncated`, `.reasoning`), `teacher.samples(prompt, 9)` several,
`teacher.parse(prompt, Verdict)` a validated pydantic object. `each_sample` and `parse_each` return several, in which a sample
that fails is a `RequestError`. A prompt is a text, or messages, whose contents may have images (`ctx.image`). `chat`, `samples`
and `each_sample` take `tools`, which `as_tools` reads.
`await encoder.embed(texts)` returns unit vectors. A role that only some parameters need is `ChatModel | None`, and
`Params.roles` says which are needed. `distinct=[("policy", "judge")]` warns users when one model fills both roles. An uncaught
`RequestError` rejects the row.

**Parameters.** Keyword-only arguments are enough where parameters are data. A class derived from `Params` (a frozen pydantic
model) takes their place where something follows from them; the operator takes it as one argument, `params: MyParams`. Its
methods and their defaults are documented there: `roles`, `calls`, `capabilities`, `prompt_bytes`, `problems`, `outputs`,
`device_count`, `expected_model`, `notes`, `review`, `accepted_names`. They change no row: editing one does not make a step run
again. A prompt is `Annotated[str | None, template("question")]`, filled with `render`. Where the rows are of any type, a
template's variables are the row's fields: `template_problem` checks it in `problems`, and `fill` fills it. `fields_of` reads
fields that a parameter describes as `types:` does; with the mark `FieldTypes`, it can name types.

**SQL.** `bind_expressions` and `bind_query` check SQL of a pipeline and return its types; `evaluate` and `run_query` run it.
DuckDB is confined to the rows that it is given. Wrong SQL is a `SqlError`, which belongs in `problems`.

**Reviews.** An argument annotated `Reviews` gets the decisions of people about the rows of the only input, a `Table[X]`. The
method `review` of the parameters says what they are asked. The step waits until enough rows are decided: the run ends, and the
next one continues.

**Context.** An argument annotated `Context` has seeded randomness, counters, reports, notes, scratch and checkpoint folders.
`ctx.count("solved", by=1)` is summed over all rows; the view `metrics` has the sums.

**Finish.** `@NAME.finish` decorates a function that is called once, after a step's last row, with the counters: it yields
`Metric`s, such as shares with intervals, and rows of outputs that are made from counters.

**Lineage.** It is recorded automatically for rows that come one at a time, and for rows of a table that are yielded as they
are or as copies (`row.model_copy(update=...)`). For a new record made from rows of tables or from answers, name them:
`yield derived(Pair(...), chosen, rejected)`. What is not named is recorded as unknown.

**Formats.** `@formats("my_operators.formats")` above a record type names a module whose constant `FORMATS` has `RowFormat`s:
forms in which others publish such rows. Datasets of the type recognise them, and `engine export --to` writes them.

**Errors.** `raise Reject("why")` rejects the row; `ctx.reject("why")` rejects one of the outputs of a row;
`ctx.reject("why", row=3)` rejects a row of a batch, and `ctx.reject("why", row=table.ref(3))` one of a whole input.
`raise StepError("why")` fails the step. A wrong declaration is a `DeclarationError` that names its file and line.

An operator never opens the registry, reads the clock, or draws unseeded random numbers. Imports that take long go inside the
function. Files of an artifact (`Model`, `Report`) come from `ctx.keep(folder)`, which returns `StoredFile`s.
"""

from engine.errors import StepError, did_you_mean, wrong_value
from engine.llm.chat import ChatModel
from engine.llm.encoder import Encoder
from engine.llm.types.capability import Capability
from engine.llm.types.completions import Completion
from engine.llm.types.errors import RequestError
from engine.llm.types.tools import as_tools
from engine.llm.types.tools import name_of as tool_name
from engine.operator.context import Context, Reject
from engine.operator.declaration.decorator import operator
from engine.operator.declaration.operator import Operator
from engine.operator.declaration.params import Params
from engine.operator.field_expressions import FieldTypes, field_problems, fields_of
from engine.operator.generators import Generator
from engine.operator.reviews import Reviews
from engine.operator.row_formats import Place, RowFormat, formats
from engine.operator.sql import (
    BoundQuery,
    SqlError,
    bind_expressions,
    bind_query,
    evaluate,
    lineage_gap,
    run_query,
)
from engine.operator.tables import Batch, Grouped, Lookup, Table
from engine.operator.templates.prompts import Prompt, Template, render, template
from engine.operator.templates.row_templates import fill, plain, row_name, template_problem
from engine.operator.types import Calls, Capabilities, Counters, DeclarationError, InputTypes, Output, OutputTypes, Roles, Wrong
from engine.provenance import RowRef, derived
from registry import Decision, Metric, Model, Record, Report, ReviewTask, StoredFile
from registry.records.described import (
    Described,
    DescribedField,
    DescribedType,
    described,
    extended,
    field_name_problem,
    narrowed,
)
from registry.reviews.outcomes import Outcome

__all__ = [
    "Batch",
    "BoundQuery",
    "Calls",
    "Capabilities",
    "Capability",
    "ChatModel",
    "Completion",
    "Context",
    "Counters",
    "Decision",
    "DeclarationError",
    "Described",
    "DescribedField",
    "DescribedType",
    "Encoder",
    "FieldTypes",
    "Generator",
    "Grouped",
    "InputTypes",
    "Lookup",
    "Metric",
    "Model",
    "Operator",
    "Outcome",
    "Output",
    "OutputTypes",
    "Params",
    "Place",
    "Prompt",
    "Record",
    "Reject",
    "Report",
    "RequestError",
    "ReviewTask",
    "Reviews",
    "Roles",
    "RowFormat",
    "RowRef",
    "SqlError",
    "StepError",
    "StoredFile",
    "Table",
    "Template",
    "Wrong",
    "as_tools",
    "bind_expressions",
    "bind_query",
    "derived",
    "described",
    "did_you_mean",
    "evaluate",
    "extended",
    "field_name_problem",
    "field_problems",
    "fields_of",
    "fill",
    "formats",
    "lineage_gap",
    "narrowed",
    "operator",
    "plain",
    "render",
    "row_name",
    "run_query",
    "template",
    "template_problem",
    "tool_name",
    "wrong_value",
]
