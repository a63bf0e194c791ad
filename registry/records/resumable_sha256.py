"""SHA-256 whose state can be stored, to continue later where it stopped. hashlib keeps its state to itself.

It is OpenSSL's, from the library that hashlib uses, so it is as fast. Beside the interface that hashlib uses, the library has
an older one, whose context is a public struct. Where Python has no such library, `available` is false.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
from functools import cache
from typing import Any, Self

import pyarrow as pa

_BLOCK = 64
_HEAD = 32 + 8
"""Bytes of a state before the bytes of an unfinished block: the eight words of the hash, and the number of bytes so far."""


class _Context(ctypes.Structure):
    """SHA256_CTX of openssl/sha.h."""

    _fields_ = (
        ("words", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("block", ctypes.c_ubyte * _BLOCK),
        ("pending", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
    )


class ResumableSha256:
    """Like hashlib.sha256(), with `state` and `resumed`. Only where `available()`."""

    def __init__(self) -> None:
        self._context = _Context()
        _library().SHA256_Init(ctypes.byref(self._context))

    def update(self, data: Any) -> None:
        """Append the bytes of a contiguous buffer."""
        buffer = pa.py_buffer(data)
        _library().SHA256_Update(ctypes.byref(self._context), ctypes.c_void_p(buffer.address), ctypes.c_size_t(buffer.size))

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        copy = _Context.from_buffer_copy(self._context)
        digest = (ctypes.c_ubyte * 32)()
        _library().SHA256_Final(digest, ctypes.byref(copy))
        return bytes(digest).hex()

    def state(self) -> bytes:
        """The state, as `resumed` takes it, on any machine: 40 to 103 bytes."""
        context = self._context
        words = b"".join(int(word).to_bytes(4, "big") for word in context.words)
        count: int = (context.bits_high << 32 | context.bits_low) // 8
        return words + count.to_bytes(8, "big") + bytes(context.block[: context.pending])

    @classmethod
    def resumed(cls, state: bytes) -> Self:
        """One that continues from a state. Whether it is the right one shows in its digest.

        Raises:
            ValueError: this is not a state.
        """
        count, block = int.from_bytes(state[32:_HEAD], "big"), state[_HEAD:]
        if len(state) < _HEAD or len(block) != count % _BLOCK or count >= 1 << 61:
            raise ValueError("not a state of SHA-256")
        made = cls()
        context = made._context
        for place in range(8):
            context.words[place] = int.from_bytes(state[4 * place : 4 * place + 4], "big")
        context.bits_high, context.bits_low = count * 8 >> 32, count * 8 & 0xFFFFFFFF
        context.block[: len(block)] = block
        context.pending = len(block)
        return made


@cache
def available() -> bool:
    """Whether the library is there, and does what this module expects of it."""
    if not _library():
        return False
    whole, first = bytes(range(150)), ResumableSha256()
    first.update(whole[:70])
    second = ResumableSha256.resumed(first.state())
    second.update(whole[70:])
    known = [hashlib.sha256(whole[:70]).hexdigest(), hashlib.sha256(whole).hexdigest()]
    return [first.hexdigest(), second.hexdigest()] == known


@cache
def _library() -> Any:
    """OpenSSL's libcrypto; None if it is not found, or lacks this interface."""
    import _hashlib

    # A module knows the symbols of the libraries that it was linked with.
    return _opened(getattr(_hashlib, "__file__", None)) or _opened(ctypes.util.find_library("crypto"))


def _opened(name: str | None) -> Any:
    try:
        library = ctypes.CDLL(name) if name else None
    except OSError:
        return None
    needed = ("SHA256_Init", "SHA256_Update", "SHA256_Final")
    return library if library and all(hasattr(library, each) for each in needed) else None
