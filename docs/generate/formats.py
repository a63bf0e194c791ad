"""The reference of formats: in which forms rows of each record type are read and written."""

from __future__ import annotations

from docs.generate.markdown import code, generated, table
from engine.operator.row_formats import OWN, formats_of
from engine.packages.catalogue import catalogue
from registry import Record

_INTRODUCTION = """
A dataset of one of these types recognises the forms in which others publish such rows, and converts them:

```yaml
datasets:
  chats: {type: SFTExample, path: sharegpt.jsonl}                    # `engine plan` says: format: sharegpt
  pairs: {type: PreferencePair, path: pairs.jsonl, format: hh}       # or name it
```

* **Which one.** The first 20 rows decide. Rows that have the type's own fields are taken as they are (`format: own`). Only
  `gsm8k` comes before that, if every answer ends with `#### ...`. Otherwise it is the format that most of them fit. If two
  fit as many, `engine check` lists them, and `format:` has to name one. `rename` is applied before this, `defaults` after
  it.
* **What is left out.** Fields that a format does not use are left out at every depth, and `engine plan` and the summary of a
  run list those that have values: `fields left out: messages[].audio (3)`.
* **What is refused.** A row that cannot be converted is an error that names the place, such as `messages[1].content[0]`.
  Images and sounds are refused, because the texts would mean something else without them. `on_error: skip` turns such rows
  into rejects.
* **What changes.** The format, with the code that reads it, is part of the source's identity. Naming the format that would
  be recognised anyway changes nothing.

Conversations are divided like this: the last turn, which must be the assistant's, is the completion, and all turns before it
are the prompt. In the format `openai`, `weight: 0` marks turns of the assistant that are not learned; the completion then
begins after the last of them. Of preferences without a prompt, the turns that both conversations begin with are the prompt.

`engine export NAME@V --to FORMAT DIR` writes those that have *yes* under *export*: JSON Lines, for `verl` Parquet. A row
that the format cannot express stops the export with its number and the reason, such as a conversation of several turns in
`alpaca`.
"""

_NOTES = """
## Notes on formats

* **openai.** Text parts of a content are joined. `developer` is read as `system`, and the older `function_call` as a tool
  call. `reasoning_content`, `reasoning` and `thinking` are read as `thinking`, which is written as `reasoning_content`.
  `tools` are kept as JSON text; of preferences they are in `input`.
* **sharegpt.** Calls of tools have no ids: a turn `function_call` comes before its `observation`. Speakers must take turns,
  because LLaMA-Factory leaves out rows where they do not.
* **alpaca.** `instruction` and `input` are joined by a new line, as in LLaMA-Factory. An export has everything in
  `instruction`.
* **trl.** Texts become one turn each. Exports have the arguments of tool calls as objects, as chat templates want them, and
  `tools` as JSON text, which TRL's trainers read. Load them with `Dataset.from_list(rows, on_mixed_types="use_json")`:
  otherwise calls of different tools get each other's arguments.
* **trl_implicit.** Of two texts, the words that both begin with are the prompt.
* **ultrafeedback.** The completion with the highest score is chosen, the one with the lowest is rejected; of equal ones, the
  first. A row whose completions all have one score is refused.
* **verl.** `data_source`, by which verl chooses the reward function, is the row's `source` (of a Question: `group`), or else
  the name of the dataset. For SFT, rows have `messages`.

## LLaMA-Factory

An export in `alpaca` or `sharegpt` needs an entry in `dataset_info.json`, with the name of the file as `file_name`:
"""

_SYSTEM = '"system": "system"'
_ASKED = f'{_SYSTEM}, "prompt": "instruction", "query": "input"'
_PAIR = '"chosen": "chosen", "rejected": "rejected"'
_TURNS = '"formatting": "sharegpt"'
_LLAMA_FACTORY = [
    ["alpaca", "SFTExample", f'"columns": {{{_ASKED}, "response": "output"}}'],
    ["alpaca", "PreferencePair", f'"ranking": true, "columns": {{{_ASKED}, {_PAIR}}}'],
    ["alpaca", "LabelledExample", f'"columns": {{{_ASKED}, "response": "output", "kto_tag": "kto_tag"}}'],
    ["sharegpt", "SFTExample", _TURNS],
    ["sharegpt", "PreferencePair", f'{_TURNS}, "ranking": true, "columns": {{"messages": "conversations", {_PAIR}}}'],
    ["sharegpt", "LabelledExample", f'{_TURNS}, "columns": {{"messages": "conversations", "kto_tag": "kto_tag"}}'],
]

_OWN = """
## Your own types

Your own record types can have formats, too: `@formats` and `RowFormat` in `engine.operator`, described in
[Writing operators](../writing-operators.md#formats).
"""


def page() -> str:
    """The page as Markdown."""
    records = sorted(catalogue().records.values(), key=lambda each: each.type_name())
    own = [each for each in records if each.__module__.split(".")[0] == "operators" and formats_of(each)]
    head = generated("Formats", "operators/formats and docs/generate/formats.py")
    entries = table(["export", "of", "entry"], [[name, of, code(entry)] for name, of, entry in _LLAMA_FACTORY])
    return "\n".join([head, _INTRODUCTION, *map(_section, own), _NOTES, entries, _OWN.rstrip() + "\n"])


def _section(record: type[Record]) -> str:
    fields = ", ".join(name for name, info in record.model_fields.items() if info.is_required())
    rows = [[code(OWN), fields, ""]]
    for name, each in formats_of(record).items():
        if each.read:
            rows.append([code(name), each.looks, "yes" if each.write else ""])
        else:
            rows.append([code(name), f"only written: {each.looks}", "yes"])
    return f"## {record.type_name()}\n\n{table(['`format:`', 'a row has', 'export'], rows)}"
