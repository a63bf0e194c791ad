"""Counts the rows that a trainer's steps actually saw, which may be fewer than it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROW = "row"
"""The column of a trainer's dataset with each row's number in the operator's input."""


def counting(trainer: type[Any], seen: Callable[[int], None]) -> type[Any]:
    """A Transformers trainer class that calls `seen` with the number of each row in a training step.

    It counts where the loss is computed, because the data loader reads ahead and the last batches may not be used. The dataset
    must have the column ROW, and the trainer's collator must be wrapped by `with_rows`.
    """

    class Counting(trainer):  # type: ignore[misc]
        """Keeps the row numbers in the batch until the training step."""

        _signature_columns: list[str]

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if ROW not in self._signature_columns:
                self._signature_columns = [*self._signature_columns, ROW]

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            for row in inputs.pop(ROW).tolist():
                seen(row)
            return super().training_step(model, inputs, *rest, **named)

    return Counting


def with_rows(collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A collator that adds the row numbers to the batch."""

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch = collator(examples)
        batch[ROW] = torch.tensor([example[ROW] for example in examples])
        return batch

    return collate
