"""Type expressions: `str`, `list[Ticket]`, `float?`, `low | medium | high`.

type   = union ["?"]
union  = item ("|" item)*        several items: each is a word
item   = "(" type ")" | "list" "[" type "]" | "dict" "[" "str" "," type "]" | NAME | WORD | 'quoted word'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from engine.credentials import redacted
from engine.errors import EngineError, did_you_mean
from registry.records.described import SCALARS, DescribedType

NAMES = ("str", "int", "float", "bool", "datetime")
"""The scalars that a pipeline file can name."""

_TOKENS = re.compile(r"""\s*(?:(?P<mark>[|?()\[\],])|'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<word>[^|?()\[\],'"]+))""")
_MEANT = {
    "string": "str", "text": "str", "integer": "int", "number": "float", "double": "float", "boolean": "bool",
    "array": "list[...]", "list": "list[...]", "dict": "dict[str, ...]", "date": "datetime", "object": "a type under types:",
    "any": "a type under types:", "json": "str",
}  # fmt: skip


_FIELD_KEYS = {"type", "description"}
_SHOWN = 100


class TypeExpressionError(EngineError):
    """A text is not a type; says why, and what to write."""


class FieldError(EngineError):
    """A field is not described as one can be.

    Args:
        text: what is wrong.
        at: where, below the field.
        hint: what to write.
    """

    def __init__(self, text: str, at: tuple[str, ...], hint: str = "") -> None:
        super().__init__(text)
        self.at = at
        self.hint = hint


class FieldText(NamedTuple):
    """A field as YAML describes it.

    Attributes:
        type: a type expression, or the fields of a struct, which are described in the same way.
        description: the description for users; empty if there is none.
        at: where the type is, below the field.
    """

    type: str | Mapping[str, Any]
    description: str
    at: tuple[str, ...]


def read_field(value: Any) -> FieldText:
    """A field's type and description: `int`, `{type: int, description: ...}`, or fields, `{a: int, b: str}`.

    Raises:
        FieldError: it is none of these.
    """
    description = ""
    at: tuple[str, ...] = ()
    if isinstance(value, dict) and "type" in value and value.keys() <= _FIELD_KEYS:
        description = value.get("description") or ""
        if not isinstance(description, str):
            raise FieldError("a description must be text", ("description",))
        value, at = value["type"], ("type",)
    if not isinstance(value, str | dict):
        hint = "write list[...] in quotes" if isinstance(value, list) else "a word that YAML reads as a value needs quotes"
        raise FieldError(f"{redacted(repr(value))[:_SHOWN]} is not a type", at, hint)
    return FieldText(value, description, at)


class _Text:
    """A word of a closed set, as opposed to a type."""

    def __init__(self, text: str, *, quoted: bool) -> None:
        self.text = text
        self.quoted = quoted


def parse_type(text: str, named: Callable[[str], DescribedType | None], known: Callable[[], list[str]]) -> DescribedType:
    """The type that an expression means.

    Args:
        text: the expression.
        named: the type of that name in the file or in a package; None if there is none.
        known: the names of all of these, to find the one that was meant.

    Raises:
        TypeExpressionError: it is not a type.
    """
    return _Parser(text, named, known).whole()


class _Parser:
    def __init__(self, text: str, named: Callable[[str], DescribedType | None], known: Callable[[], list[str]]) -> None:
        self._text = text
        self._named = named
        self._known = known
        self._tokens = self._split(text)
        self._place = 0

    def _split(self, text: str) -> list[str | _Text]:
        tokens: list[str | _Text] = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            found = _TOKENS.match(text, place)
            if found is None:
                raise TypeExpressionError(f"{text!r} has a quote that is not closed")
            place = found.end()
            if found["mark"]:
                tokens.append(found["mark"])
            elif found["word"] is not None:
                if found["word"].strip():
                    tokens.append(_Text(found["word"].strip(), quoted=False))
            else:
                tokens.append(_Text(found["single"] if found["single"] is not None else found["double"], quoted=True))
        return tokens

    def whole(self) -> DescribedType:
        found = self._type()
        if self._place < len(self._tokens):
            raise self._wrong(f"after the type comes {self._shown()}")
        return found

    def _type(self) -> DescribedType:
        items = [self._item()]
        while self._take("|"):
            items.append(self._item())
        made = self._words(items) if len(items) > 1 else self._single(items[0])
        if self._take("?"):
            if len(items) > 1:
                raise self._wrong("`?` after the last word could belong to that word alone; write (a | b)?")
            made = made.or_null()
        return made

    def _item(self) -> DescribedType | _Text:
        if self._take("("):
            inner = self._type()
            self._expect(")")
            return inner
        if self._place >= len(self._tokens):
            raise self._wrong("a type is missing")
        token = self._tokens[self._place]
        if isinstance(token, str):
            raise self._wrong(f"there is {token!r} where a type is expected")
        self._place += 1
        if token.text == "list" and self._take("["):
            item = self._type()
            self._expect("]")
            return DescribedType(kind="list", item=item)
        if token.text == "dict" and self._take("["):
            key = self._type()
            self._expect(",")
            value = self._type()
            self._expect("]")
            if key != DescribedType(kind="str"):
                raise self._wrong("the keys of a dict are str")
            return DescribedType(kind="dict", item=value)
        return token

    def _single(self, item: DescribedType | _Text) -> DescribedType:
        if isinstance(item, DescribedType):
            return item
        if item.quoted:
            return DescribedType(kind="words", words=(item.text,))
        if item.text in NAMES:
            return DescribedType.model_validate({"kind": item.text})
        if found := self._named(item.text):
            return found
        meant = _MEANT.get(item.text.lower())
        hint = f"write {meant}" if meant else did_you_mean(item.text, [*NAMES, *self._known()])
        raise TypeExpressionError(
            f"there is no type {item.text!r}; " + (hint or f"the types are {', '.join(NAMES)}, list[...]")
        )

    def _words(self, items: list[DescribedType | _Text]) -> DescribedType:
        words: list[str] = []
        for item in items:
            if isinstance(item, DescribedType) or (not item.quoted and item.text in SCALARS):
                shown = item if isinstance(item, DescribedType) else item.text
                raise self._wrong(
                    f"`|` separates words, but {shown} is a type; a field has one type (`?` after it allows null)"
                )
            if not item.quoted and item.text.lower() in ("none", "null"):
                raise self._wrong("write `?` after a type for a value that may be null")
            if item.text in words:
                raise self._wrong(f"the word {item.text!r} is listed twice")
            words.append(item.text)
        if all(
            isinstance(item, _Text) and not item.quoted and re.fullmatch(r"-?(0|[1-9]\d{0,17})", item.text) for item in items
        ):
            return DescribedType(kind="words", words=tuple(map(int, words)))
        return DescribedType(kind="words", words=tuple(words))

    def _take(self, mark: str) -> bool:
        if self._place < len(self._tokens) and self._tokens[self._place] == mark:
            self._place += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._wrong(f"{mark!r} is missing")

    def _shown(self) -> str:
        token = self._tokens[self._place]
        return repr(token if isinstance(token, str) else token.text)

    def _wrong(self, why: str) -> TypeExpressionError:
        return TypeExpressionError(f"{self._text!r} is not a type: {why}")
