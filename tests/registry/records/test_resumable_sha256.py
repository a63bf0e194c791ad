"""A SHA-256 that was stopped and continued has the digest of hashlib's."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.records.resumable_sha256 import ResumableSha256, available

pytestmark = pytest.mark.skipif(not available(), reason="Python has no OpenSSL library here")


@given(parts=st.lists(st.binary(max_size=200), max_size=5))
def test_it_continues_from_its_state_anywhere(parts: list[bytes]) -> None:
    digest = ResumableSha256()
    for part in parts:
        digest = ResumableSha256.resumed(digest.state())
        digest.update(part)
    whole = b"".join(parts)
    assert digest.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert len(digest.state()) == 40 + len(whole) % 64


def test_a_state_counts_more_than_32_bits() -> None:
    digest = ResumableSha256()
    digest.update(b"x" * 3)
    state = digest.state()
    far = state[:32] + (2**40 + 3).to_bytes(8, "big") + state[40:]
    assert ResumableSha256.resumed(far).state() == far


@pytest.mark.parametrize("state", [b"", bytes(39), bytes(41), bytes(32) + (1 << 61).to_bytes(8, "big")])
def test_invalid_states_are_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="not a state"):
        ResumableSha256.resumed(state)
