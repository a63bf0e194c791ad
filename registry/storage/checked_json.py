"""JSON documents with their own checksum, and the canonical JSON that is hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from registry.errors import CorruptError
from registry.storage import plain_files
from registry.storage.files import durable_write


def write_checked_json(target: Path, document: Any) -> None:
    """Write JSON durably together with its SHA-256."""
    durable_write(target, checked_json(document))


def read_checked_json(path: Path) -> Any:
    """Read what write_checked_json wrote; raises CorruptError when a byte changed, FileNotFoundError when it is missing."""
    return parse_checked_json(plain_files.read(path), str(path))


def checked_json(document: Any) -> bytes:
    """A document with its SHA-256, as the bytes of a file: the canonical JSON of {"body": document, "sha256": ...}."""
    body = canonical_json(document)
    return b'{"body":%b,"sha256":"%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def parse_checked_json(data: bytes, where: str) -> Any:
    """The document in the bytes that checked_json returned; raises CorruptError, naming `where`, when a byte changed."""
    try:
        envelope = json.loads(data)
        if envelope["sha256"] == json_digest(envelope["body"]):
            return envelope["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # not even JSON: damaged all the same
    raise CorruptError(f"{where} is damaged: its checksum does not match")


def canonical_json(document: Any) -> bytes:
    """A JSON document in the canonical form that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_digest(document: Any) -> str:
    """Hex SHA-256 of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document)).hexdigest()
