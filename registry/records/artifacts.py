"""Records with files: models and reports."""

from __future__ import annotations

from typing import ClassVar, Literal

from registry.records.record import Record


class StoredFile(Record):
    """A file in the object store, as listed in the row of an artifact."""

    name: str
    sha256: str
    bytes: int


class Artifact(Record):
    """A record with files: a version of artifacts has one row and the files that it lists."""

    files: list[StoredFile] = []  # noqa: RUF012  (records are frozen)


class Model(Artifact):
    """A trained model: a LoRA adapter on `base_model`, or full weights.

    Args:
        base_model: the model that the training started from, as written in the pipeline.
        format: `adapter` (peft) or `full` (a Hugging Face model folder).
        files: the model's folder, file by file.
        config: the resolved training settings, as JSON.
    """

    registry_kind: ClassVar[str] = "model"

    base_model: str
    format: Literal["adapter", "full"]
    config: str = "{}"


class Report(Artifact):
    """The findings of a run, for people to read.

    Args:
        title: one line.
        text: Markdown; images have the same names as in `files`: `![accuracy](accuracy.png)`.
        files: images and tables.
    """

    registry_kind: ClassVar[str] = "report"

    title: str
    text: str
