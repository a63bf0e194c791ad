"""The command `export`: writes a version into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.commands.shared import Context, JsonOption, VersionArg, existing_registry, out, print_json
from engine.printable import row_count
from registry.counted import counted


def export(
    context: Context,
    target: VersionArg,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hf|jsonl|parquet|label-studio|FORMAT",
            help="A Hugging Face dataset (for a model: its files), JSON Lines, Parquet, tasks for Label Studio, or a format of "
            "the rows' type: openai, sharegpt, alpaca, trl, verl.",
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier export.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="For an adapter: merge it into its base model and write full weights.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Export a version into a folder. Adds a card (README.md) that describes its contents and where they come from."""
    from engine.export.versions import export as write

    done = write(existing_registry(context), target, to, folder, overwrite=overwrite, merge=merge)
    manifest = done.manifest
    if json:
        print_json(
            {
                "name": manifest.name,
                "version": manifest.version,
                "content_id": manifest.content_id,
                "format": done.format,
                "rows": manifest.rows,
                "folder": str(folder),
                "files": done.files,
            }
        )
        return
    size = sum(done.files.values())
    console = out()
    console.print(
        f"{manifest.ref} ({row_count(manifest.rows)}) is in {folder}: {counted(done.files, 'file')}, {counted(size, 'byte')}"
    )
    for name, number in done.files.items():
        console.print(f"  {name}  {number:,}", soft_wrap=True)
    if done.format == "hf" and not manifest.rows:
        console.print("It has no rows, so datasets.load_dataset fails; open it with datasets.load_from_disk.")
