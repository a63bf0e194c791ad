"""The card of a dataset, as `engine export` writes it next to the rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow.parquet as pq

from engine.export.card import Data, card
from engine.page.sessions import Reader
from registry import Manifest

_GRAPH = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Card:
    """A card: its metadata in YAML, and its text in Markdown, without the drawing of the lineage."""

    front: str
    text: str


def dataset_card(reader: Reader, manifest: Manifest) -> Card:
    """The card that an export in Parquet would have."""
    schema = pq.ParquetFile(reader.registry.store.open(manifest.data[0].sha256)).schema_arrow
    written = card(reader.registry, manifest, Data(schema, "data/train-*.parquet", manifest.bytes, "parquet"))
    _, front, text = written.split("---\n", 2)
    return Card(front, _GRAPH.sub("", text))
