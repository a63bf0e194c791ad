"""A version in a registry: its rows in the form that a program wants."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from engine.api import html
from engine.cli.output import cell_text
from engine.errors import EngineError
from engine.printable import row_count
from registry import Manifest, Metric, Model, Record, Registry
from registry.counted import counted

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import polars as pl
    import pyarrow as pa

R = TypeVar("R", bound=Record)

_SHOWN_ROWS = 5


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A version of a dataset, model, calibration or report. It never changes.

    Nothing is read until rows are asked for, and everything that is read is verified against its SHA-256: a damaged or
    missing object raises CorruptError. Nothing is kept: each call reads the rows again.
    """

    _registry: Registry = field()
    _manifest: Manifest = field()

    @property
    def ref(self) -> str:
        """The version as `NAME@V`."""
        return str(self._manifest.ref)

    @property
    def name(self) -> str:
        """The name without the number."""
        return self._manifest.name

    @property
    def version(self) -> int:
        """The number of the version."""
        return self._manifest.version

    @property
    def kind(self) -> str:
        """`dataset`, `model`, `calibration` or `report`."""
        return self._manifest.kind

    @property
    def type(self) -> str:
        """The name of the record type of its rows."""
        return self._manifest.type

    @property
    def fields(self) -> MappingProxyType[str, str]:
        """The fields of a row and their types, in words."""
        return MappingProxyType(self._manifest.fields)

    @property
    def content_id(self) -> str:
        """The hash of its rows: two versions with the same rows have the same."""
        return self._manifest.content_id

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the step that made it. Only the first output of a step has them."""
        return self._manifest.metrics

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema. It is read from the first object."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._registry.store.open(self._manifest.data[0].sha256)) as first:
            return first.schema_arrow

    def __len__(self) -> int:
        return self._manifest.rows

    # -- rows -----------------------------------------------------------------------------------------------------------

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table, in order."""
        import pyarrow as pa

        with self._registry.catalog.reading():  # the version is not removed meanwhile
            return pa.concat_tables([self._registry.store.read_table(data.sha256) for data in self._manifest.data])

    def pandas(self, dtype_backend: Literal["pyarrow", "numpy"] = "pyarrow") -> pd.DataFrame:
        """All rows as a pandas DataFrame.

        Args:
            dtype_backend: `pyarrow` for columns of pandas.ArrowDtype, which use the memory of the Arrow table; `numpy` for
                NumPy's types and Python objects, which are copies.

        Raises:
            EngineError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise _not_installed("pandas", "pandas") from error
        if dtype_backend not in ("pyarrow", "numpy"):
            raise ValueError(f"dtype_backend is {dtype_backend!r}; expected 'pyarrow' or 'numpy'")
        frame: pd.DataFrame = self.arrow().to_pandas(types_mapper=pd.ArrowDtype if dtype_backend == "pyarrow" else None)
        return frame

    def polars(self) -> pl.DataFrame:
        """All rows as a Polars DataFrame. Numbers stay where they are in the Arrow table; for texts, Polars makes views.

        Raises:
            EngineError: Polars is not installed.
        """
        try:
            import polars as pl
        except ModuleNotFoundError as error:
            raise _not_installed("polars", "polars") from error
        frame = pl.from_arrow(self.arrow(), rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def hf(self) -> datasets.Dataset:
        """All rows as a Hugging Face Dataset on the memory of the Arrow table. Its fingerprint follows from the content id.

        Raises:
            EngineError: the package `datasets` is not installed.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise _not_installed("datasets", "posttrain-engine[sources]") from error
        return datasets.Dataset(datasets.table.InMemoryTable(self.arrow()), fingerprint=self.content_id[:16])

    @overload
    def records(self) -> Iterator[Record]: ...

    @overload
    def records(self, record: builtins.type[R]) -> Iterator[R]: ...

    def records(self, record: builtins.type[Record] | None = None) -> Iterator[Record]:
        """The rows as validated records, read object by object.

        Args:
            record: the record type (default: the installed one of the version's type name if it has these fields, else one
                with the fields of the version).

        Raises:
            IncompatibleError: the rows cannot be read as the record type.
        """
        return self._registry.records(self.ref, record or self._own_type())

    def head(self, rows: int = _SHOWN_ROWS) -> list[dict[str, Any]]:
        """The first rows as dicts. Only the objects that contain them are read."""
        found: list[dict[str, Any]] = []
        for data in self._manifest.data:
            if len(found) >= rows:
                break
            found += self._registry.store.read_table(data.sha256).slice(0, rows - len(found)).to_pylist()
        return found

    # -- files ----------------------------------------------------------------------------------------------------------

    def path(self) -> Path:
        """The folder with the files of a model on this machine, verified. Do not change it: it is a cache.

        An adapter's folder has only the adapter; `export` writes one that has everything to load it.

        Raises:
            EngineError: this is not a model, or not a single one.
        """
        from engine.llm.weights import ModelWeights, materialise

        if self.kind != Model.registry_kind:
            raise EngineError(f"{self.ref} is a {self.kind}; only a model has a folder of files")
        models: list[Model] = list(islice(self.records(Model), 2))
        if len(models) != 1:
            raise EngineError(f"{self.ref} has {counted(len(self), 'model')}, so it cannot be one folder")
        weights = ModelWeights(source="registry", location=self.ref, identity=f"registry:{self.content_id}", model=models[0])
        return materialise(weights, self._registry.store)

    def export(
        self, folder: str | Path, to: Literal["hf", "jsonl", "parquet"] = "hf", *, overwrite: bool = False, merge: bool = False
    ) -> Path:
        """Write it into a new or empty folder, with a card, like `engine export`; returns the folder.

        Args:
            folder: where to write.
            to: `hf` for a Hugging Face dataset, or a model's folder that can be loaded; `jsonl`; `parquet`.
            overwrite: replace the files of an earlier export.
            merge: for an adapter: merge it into its base model and write full weights.
        """
        from engine.export.versions import export

        return export(self._registry, self.ref, to, Path(folder), overwrite=overwrite, merge=merge).folder

    # -- shown ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {kind}" for name, kind in self.fields.items())
        return f"<{self._summary}; {cell_text(fields, 300)}>"

    def _repr_html_(self) -> str:
        first = self.head()
        note = f"the first {row_count(len(first))} of {len(self):,}" if len(first) < len(self) else ""
        return html.table(self._summary, list(first[0]) if first else list(self.fields), first, note)

    @property
    def _summary(self) -> str:
        return f"{self.ref}: {self.kind} of {self.type}, {row_count(len(self))}"

    def _own_type(self) -> builtins.type[Record]:
        from engine.packages.catalogue import catalogue
        from engine.pipeline.references import record_of

        # Manifests sort the fields by name; the columns are in the order of the type.
        fields = self._manifest.fields
        declared = [name for name in self.schema.names if name in fields]
        return record_of(self.type, {name: fields[name] for name in [*declared, *fields]}, catalogue().records)


def _not_installed(module: str, package: str) -> EngineError:
    return EngineError(f"{module} is not installed: pip install '{package}'")
