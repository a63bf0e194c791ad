"""The command that takes a version out of the registry: export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.commands.shared import JsonOption, existing_registry, out, print_json, row_count


class To(StrEnum):
    """What `engine export` writes."""

    hf = "hf"
    jsonl = "jsonl"
    parquet = "parquet"


def export(
    target: Annotated[str, typer.Argument(metavar="NAME[@V]")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    to: Annotated[To, typer.Option("--to", help="A Hugging Face dataset (of a model: its files), JSON Lines, or Parquet.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote there.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Of an adapter: full weights with the adapter in them.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a version into a folder, with a card (README.md) that says what it holds, what it came from and how."""
    from engine.export.versions import export as write

    done = write(existing_registry(), target, to.value, folder, overwrite=overwrite, merge=merge)
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
    console.print(f"{manifest.ref} ({row_count(manifest.rows)}) is in {folder}: {len(done.files)} files, {size:,} bytes")
    for name, number in done.files.items():
        console.print(f"  {name}  {number:,}", soft_wrap=True)
    if done.format == "hf" and not manifest.rows:
        console.print("It has no rows: datasets.load_from_disk opens it, datasets.load_dataset opens nothing without rows.")
