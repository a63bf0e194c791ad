"""Errors of the registry. All of them are RegistryErrors, with a message for the user."""

from __future__ import annotations

from typing import Literal


class RegistryError(Exception):
    """Base class. The message says what is wrong, and what to do if the registry knows."""


class CorruptError(RegistryError):
    """A stored file does not contain what was written."""


class MissingError(CorruptError):
    """A stored object is missing."""


class MismatchError(CorruptError):
    """The catalog contradicts the manifests. Rebuilding it repairs that."""


class LockedError(RegistryError):
    """Another process held the registry's lock, or had its DuckDB file open, for too long."""


class UnreachableError(RegistryError):
    """A folder at a URL cannot be used."""


class StaleError(RegistryError):
    """The DuckDB file must be rebuilt: it is missing, has another layout, or its last writer died during a commit."""


class DamagedError(StaleError):
    """The DuckDB file must be rebuilt: it does not contain what was written."""


class UnfitError(RegistryError):
    """The catalog's tables cannot store a value: a number is too large for its column, or a text is not Unicode."""


class InvalidRequestError(RegistryError):
    """The request is wrong; the registry is fine."""


class QueryError(InvalidRequestError):
    """A query was refused, or DuckDB could not run it."""


class UnknownRunError(QueryError):
    """A run that the registry does not have."""


class UnknownVersionError(QueryError, KeyError):
    """The registry has no dataset, model, calibration or report of this name, or no version of this number."""

    __str__ = Exception.__str__  # KeyError would put the message in quotes


class LimitError(QueryError):
    """A query exceeded its limit of time or memory."""

    def __init__(self, message: str, limit: Literal["time", "memory"]) -> None:
        super().__init__(message)
        self.limit = limit


class IncompatibleError(InvalidRequestError):
    """Rows of a version cannot be read as a record type. The message lists the fields and the reasons."""


class UnsupportedTypeError(InvalidRequestError):
    """A field of a record has a type that cannot be stored."""


def is_interruption(error: BaseException) -> bool:
    """Whether an error is a Ctrl-C that came while DuckDB ran a query: it then raises this instead of KeyboardInterrupt."""
    return type(error) is RuntimeError and str(error) == "Query interrupted"
