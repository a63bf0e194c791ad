"""Checks the datasets of a pipeline file: their types, their files and first rows, generators, and registry versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, did_you_mean
from engine.fingerprint.code import code_of_function
from engine.packages.catalogue import Catalogue
from engine.pipeline.generator_settings import setting_problems
from engine.pipeline.graph import Source
from engine.pipeline.lookups import find, installed
from engine.pipeline.references import References
from engine.sources.exclusions import Exclusions
from engine.sources.files.locations import FORMATS, SourceFile, find_files
from engine.sources.images import folder_of_images
from engine.sources.inferred_types import inferred_type
from engine.sources.ingest import head_problems, identity, source_key
from engine.sources.recognition import named_format, possible_fields
from engine.spec.pipeline_spec import DatasetSpec, PipelineSpec
from engine.spec.read import SHOWN_VALUE
from engine.spec.variant_names import split_name
from engine.spec.yaml_source import Loc, YamlSource
from registry import Record
from registry.errors import UnsupportedTypeError
from registry.records.described import described
from registry.records.schema import missing_fields

if TYPE_CHECKING:
    from registry.query.look_ups import LookUps


@dataclass(frozen=True)
class Datasets:
    """The datasets of one pipeline. Problems are added to the source.

    Args:
        spec: the pipeline, all variants written out.
        source: the pipeline's file.
        base_dir: the folder of the file.
        look_ups: in the registry; None if there is none.
        catalogue: the definitions of packages.
        types: the types that the file describes.
        references: resolves references to the registry.
        excluded: rows to leave out.
        seeds: the seeds of the datasets whose seed varies.
    """

    spec: PipelineSpec
    source: YamlSource
    base_dir: Path
    look_ups: LookUps | None
    catalogue: Catalogue
    types: Mapping[str, type[Record]]
    references: References
    excluded: Exclusions
    seeds: Mapping[str, int]

    def source_of(self, name: str) -> Source | None:
        """A dataset as the pipeline reads it; None if the type of its rows is not known."""
        spec, loc = self.spec.datasets[name], ("datasets", name)
        before = len(self.source.problems)
        files = [] if spec.path is None else self._files(spec.path, (*loc, "path"))
        record = self._record(name, spec, loc, files)
        if record is None:
            return None
        try:
            named_format(spec, record)
        except EngineError as error:
            self.source.problem(str(error), (*loc, "format"))
        for column, target in spec.rename.items():
            if target not in possible_fields(record):
                hint = did_you_mean(target, record.model_fields)
                self.source.problem(f"{record.type_name()} has no field {target!r}", (*loc, "rename", column), hint)
        for field in spec.defaults.keys() - record.model_fields.keys():
            hint = did_you_mean(field, record.model_fields)
            self.source.problem(f"{record.type_name()} has no field {field!r}", (*loc, "defaults", field), hint, key=True)
        self._images(spec, record, loc)
        if spec.path is not None:
            if files and len(self.source.problems) == before:
                self._head(name, spec, record, files)
        elif spec.generator is not None:
            self._generator(name, spec, record, loc)
        elif spec.hf is not None:
            installed(self.source, "hf", ["datasets"], (*loc, "hf"))
        elif spec.registry is not None:
            self._registry_dataset(spec, record, loc)
        return Source(name, spec, record)

    def _images(self, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        """Check that the fields with images can hold references to them, and that their folder exists."""
        for place, name in enumerate(spec.images):
            at = (*loc, "images", place)
            field = described(record).field(name)
            if field is None:
                self.source.problem(f"{record.type_name()} has no field {name!r}", at, did_you_mean(name, record.model_fields))
                continue
            kind = field.type.item if field.type.kind == "list" else field.type
            if kind is None or kind.kind != "str":
                hint = "a row refers to its images: declare the field as str, or as list[str] for several"
                self.source.problem(f"images: field {name!r} of {record.type_name()} is {field.type}", at, hint)
        folder = folder_of_images(spec, self.base_dir, None)
        if folder is not None and not folder.is_dir():
            places = dict.fromkeys(str(place) for place in (Path.cwd(), self.base_dir.absolute()))
            hint = f"relative paths are looked up in {' and in '.join(places)}"
            self.source.problem(f"there is no folder {folder}", (*loc, "image_folder"), hint)

    def _record(self, name: str, spec: DatasetSpec, loc: Loc, files: list[SourceFile]) -> type[Record] | None:
        """The type of a dataset's rows; None if it is not known, which is reported."""
        if spec.type is None:
            return self._inferred(name, spec, loc, files)
        if spec.type in self.source.broken or (spec.type in self.spec.types and spec.type not in self.types):
            return None  # the type's own problem is reported
        if found := self.types.get(spec.type):
            return found
        meant = did_you_mean(spec.type, self.spec.types)
        return find(self.source, self.catalogue.records, spec.type, "record type", (*loc, "type"), meant)

    def _inferred(self, name: str, spec: DatasetSpec, loc: Loc, files: list[SourceFile]) -> type[Record] | None:
        if spec.registry is not None:
            link = self.references.registry_link(spec.registry, spec.registry, (*loc, "registry"))
            found = self.references.record(link) if link else None
            if isinstance(found, str):
                self.source.problem(f"{spec.registry}: {found}", (*loc, "registry"), "give the dataset a type")
            return None if isinstance(found, str) else found
        if spec.path is None:
            what = "from a hub" if spec.hf else "that a generator makes"
            self.source.problem(f"a dataset {what} needs a type", loc, "add type: with the record type of its rows")
            return None
        if not files:
            return None
        try:
            return inferred_type(split_name(name)[1], spec, files).record()
        except (EngineError, UnsupportedTypeError) as error:
            self.source.problem(str(error), (*loc, "path"))
            return None

    def _files(self, path: str, loc: Loc) -> list[SourceFile]:
        """The files of a dataset; none if something is wrong with them, which is reported."""
        try:
            found = find_files(path, self.base_dir)
        except (EngineError, OSError, ValueError) as error:
            why = f"cannot look up {path:.{SHOWN_VALUE}}: {getattr(error, 'strerror', None) or error}"
            self.source.problem(str(error) if isinstance(error, EngineError) else why, loc)
            return []
        if not found:
            if Path(path).is_dir():
                self.source.problem(f"{path} is a folder", loc, f"name its files, for example {path.rstrip('/')}/*.jsonl")
            elif "://" in path:
                self.source.problem(f"there is no file {path:.{SHOWN_VALUE}}", loc)
            else:
                places = dict.fromkeys(str(place) for place in (Path.cwd(), self.base_dir.absolute()))
                self.source.problem(
                    f"there is no file {path:.{SHOWN_VALUE}}", loc, f"relative paths are looked up in {' and in '.join(places)}"
                )
        for file in found:
            if file.format is None:
                endings = f"supported endings: .{', .'.join(FORMATS)} (optionally with .gz, .bz2, .xz, .zst)"
                self.source.problem(f"unknown format of {file.name}", loc, endings)
        return [] if any(file.format is None for file in found) else found

    def _head(self, name: str, spec: DatasetSpec, record: type[Record], files: list[SourceFile]) -> None:
        """Check the first rows of a dataset's files. A run reads all rows."""
        try:
            for problem in head_problems(name, spec, record, files, self.base_dir):
                self.source.problem(problem.message, ("datasets", name, "path"), problem.hint)
        except EngineError as error:
            self.source.problem(str(error), ("datasets", name, "path"))

    def _registry_dataset(self, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        if spec.limit or spec.rename or spec.defaults:
            self.source.problem("limit, rename and defaults do not apply to a registry version, which is used unchanged", loc)
        link = self.references.registry_link(str(spec.registry), str(spec.registry), (*loc, "registry"))
        if link is None:
            return
        for why in missing_fields(record, dict(link.fields)):
            self.source.problem(f"{spec.registry} is {link.type}, not {record.type_name()}: {why}", (*loc, "registry"))

    def _generator(self, dataset: str, spec: DatasetSpec, record: type[Record], loc: Loc) -> None:
        name, _, task = (spec.generator or "").partition("/")
        generator = find(self.source, self.catalogue.generators, name, "generator", (*loc, "generator"))
        if generator is None:
            return
        if not installed(self.source, name, code_of_function(generator.function, name).required, (*loc, "generator")):
            return
        for text in setting_problems(generator, task, spec.with_, lambda: self._in_registry(dataset, spec, record)):
            self.source.problem(text, (*loc, "with") if spec.with_ else (*loc, "generator"))

    def _in_registry(self, dataset: str, spec: DatasetSpec, record: type[Record]) -> bool:
        """Whether the registry has the rows of a dataset, so that the generator's package need not be loaded."""
        excluded = self.excluded.get(f"{self.spec.name}/{dataset}", frozenset())
        known = identity(spec, record, self.base_dir, self.seeds.get(dataset, self.spec.seed), excluded)
        return bool(known and self.look_ups and self.look_ups.has_step(source_key(known)))
