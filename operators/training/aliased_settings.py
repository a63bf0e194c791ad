"""Settings that also accept the names of a library and of other tools, and refuse two values for the same setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from engine.operator import did_you_mean
from operators.training import config_fields

Translation = Mapping[str, str]
"""Another name -> our name, or `lora.NAME` for a setting of the adapter."""

Place = tuple[str, ...]
"""The path of a setting: `("lora", "r")`."""


class Given(NamedTuple):
    """A setting as the user gave it.

    Attributes:
        place: the setting's path in our names or the library's.
        path: the path at which it was written, in the names used there.
        value: the value of the setting.
        written: the value as written, before translation.
    """

    place: Place
    path: Place
    value: Any
    written: Any

    @property
    def shown(self) -> str:
        """The setting as written: `lora.r: 4`."""
        return f"{'.'.join(self.path)}: {_short(self.written)}"


class AliasedSettings(BaseModel):
    """Settings with fields of their own, the fields of a library's configuration, and other names for both.

    A field that is not our own goes into `config`, under the library's name. All entries for the same setting are compared,
    wherever they are written and whatever their names; different values are an error.

    Attributes:
        configures: the name of the library's configuration.
        aliases: other names of our fields.
        owned: fields of the configuration that cannot be set -> why.
        parts: our fields that are settings themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    configures: ClassVar[config_fields.Config]
    aliases: ClassVar[Translation]
    owned: ClassVar[Mapping[str, str]]
    parts: ClassVar[Mapping[str, type[AliasedSettings]]] = {}
    _notes: list[str] = PrivateAttr(default_factory=list)

    config: dict[str, Any] = {}

    def notes(self) -> tuple[str, ...]:
        """How other names were understood, as texts for users."""
        return tuple(self._notes)

    @classmethod
    def accepted_names(cls) -> list[str]:
        """All names that can be set."""
        return [
            *cls.model_fields,
            *cls.aliases,
            *(name for name in config_fields.fields(cls.configures) if name not in cls.owned),
        ]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """The schema for editors, including the names of the library and of other trainers."""
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core))
        own = dict(schema["properties"])
        of_library = {name: each.schema for name, each in config_fields.fields(cls.configures).items() if name not in cls.owned}
        others = {name: {"description": f"another name of {place}"} for name, place in cls.aliases.items()}
        schema["properties"] = {**of_library, **others, **own}
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(given, Mapping):
            return handler(given)
        notes: list[str] = []
        placed = cls._distinct(cls._placed(given, (), notes))
        made = handler(_nested(placed))
        made.examine(placed)
        made._notes = notes
        return made

    @classmethod
    def translated(cls, name: str, value: Any) -> dict[str, Any]:
        """The meaning of an alias: our names (with dots for parts) and their values."""
        return {cls.aliases[name]: value}

    def examine(self, placed: Mapping[Place, Given]) -> None:
        """Refuse settings that cannot be combined; see `refuse`.

        Args:
            placed: the given settings, by place.
        """

    @classmethod
    def _placed(cls, given: Mapping[str, Any], path: Place, notes: list[str]) -> Iterator[Given]:
        """The given settings, one leaf at a time; appends to `notes` how other names were understood."""
        for name, value in given.items():
            yield from cls._one(name, value, (*path, name), notes)

    @classmethod
    def _one(cls, name: str, value: Any, path: Place, notes: list[str]) -> Iterator[Given]:
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        if name == "config" and isinstance(value, Mapping):
            for inner, each in value.items():
                if inner in config_fields.fields(cls.configures) and inner in {*cls.model_fields, *cls.aliases}:
                    yield from cls._one(inner, each, (*path, inner), notes)
                else:
                    cls._fits(inner, each, (*path, inner))
                    yield Given(("config", inner), (*path, inner), each, each)
        elif name in cls.parts and isinstance(value, Mapping):
            yield Given((name,), path, {}, value)  # present, even if empty
            for each in cls.parts[name]._placed(value, path, notes):
                yield each._replace(place=(name, *each.place))
        elif name in cls.model_fields:
            yield Given((name,), path, value, value)
        elif name in cls.aliases:
            yield from cls._alias(name, value, path, notes)
        elif name in config_fields.fields(cls.configures) or name in cls.owned:
            cls._fits(name, value, path)
            yield Given(("config", name), path, value, value)
        else:
            yield Given((name,), path, value, value)  # pydantic reports the unknown field

    @classmethod
    def _alias(cls, name: str, value: Any, path: Place, notes: list[str]) -> Iterator[Given]:
        try:
            meant = cls.translated(name, value)
        except ValueError as error:
            refuse(str(error), path, value)
        if any(place != name for place in meant):
            notes.append(f"{name}: {_short(value)} means " + ", ".join(f"{k}: {_short(v)}" for k, v in meant.items()))
        for place, each in meant.items():
            outer, _, inner = place.partition(".")
            part = cls.parts.get(outer)
            found: Iterator[Given]
            if part and inner:
                found = (leaf._replace(place=(outer, *leaf.place)) for leaf in part._one(inner, each, path, []))
            else:
                found = cls._one(outer, each, path, notes)
            for leaf in found:
                yield leaf._replace(written=value) if leaf.path == path else leaf

    @classmethod
    def _distinct(cls, given: Iterator[Given]) -> dict[Place, Given]:
        """The settings by place; refuses two different values for one setting."""
        placed: dict[Place, Given] = {}
        for each in given:
            first = placed.setdefault(each.place, each)
            if not _same(first.value, each.value):
                refuse(f"{first.shown} and {each.shown} give the same setting two values; remove one", each.path, each.value)
        for each in placed.values():
            outer = placed.get(each.place[:-1])
            if outer is not None and outer.value is None:
                refuse(f"{each.shown} contradicts {outer.shown}; remove one", each.path, each.value)
        return placed

    @classmethod
    def _fits(cls, name: str, value: Any, path: Place) -> None:
        """Refuse names and values that the library does not accept."""
        if name in cls.owned:
            refuse(f"{name} cannot be set: {cls.owned[name]}", path, value)
        known = config_fields.fields(cls.configures)
        if name not in known:
            hint = did_you_mean(name, known)
            refuse(f"{cls.configures} has no field {name!r}" + (f"; {hint}" if hint else ""), path, value)
        if trouble := known[name].trouble(value):
            refuse(f"{name} {trouble}", path, value)


def refuse(why: str, path: Place, value: Any) -> NoReturn:
    """Raise pydantic's error for the setting at a path."""
    error = PydanticCustomError("setting", "{why}", {"why": why})
    raise ValidationError.from_exception_data("settings", [InitErrorDetails(type=error, loc=path, input=value)])


def _nested(placed: Mapping[Place, Given]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for place, given in placed.items():
        inside = settings
        for outer in place[:-1]:
            inside = inside.setdefault(outer, {})
        if given.value == {} and isinstance(inside.get(place[-1]), dict):
            continue
        inside[place[-1]] = dict(given.value) if given.value == {} else given.value
    return settings


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if one == other:
        return True
    try:  # YAML reads 1e-4 as text
        return float(one) == float(other)
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
