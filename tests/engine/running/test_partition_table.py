"""Two runs with the same rows: neither removes what the other one is using or making."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.jobs.messages import WHOLE, OutputPart, Partition, Receipt
from engine.jobs.receipts import Receipts
from engine.running.claims import Claims
from engine.running.partition_table import PartitionTable
from registry import Registry, SideObject

Made = tuple[Claims, PartitionTable]


@pytest.fixture
def receipts(registry: Registry) -> Receipts:
    return Receipts.of(registry, "key")


@pytest.fixture
def other(registry: Registry) -> Iterator[Claims]:
    """The claims of another run."""
    claims = Claims(registry.receipts)
    claims.join("key")
    yield claims
    claims.close()


@pytest.fixture
def mine(registry: Registry) -> Iterator[Claims]:
    claims = Claims(registry.receipts)
    yield claims
    claims.close()


def receipt(registry: Registry, digest: str, rejected: int = 0) -> Receipt:
    stored = registry.store.put_bytes(b"rejects") if rejected else None
    rejects = stored and SideObject(kind="rejects", sha256=stored.sha256, rows=rejected, bytes=stored.bytes)
    return Receipt(
        digest=digest,
        rows=1,
        outputs={"out": OutputPart()},
        rejects=rejects,
        produced=0,
        filtered=1 - rejected,
        rejected=rejected,
    )


@pytest.mark.parametrize("how", [{"rerun": True, "retry_rejects": False}, {"rerun": False, "retry_rejects": True}])
def test_a_receipt_is_removed_when_its_partition_is_claimed(
    registry: Registry, receipts: Receipts, mine: Claims, other: Claims, how: dict[str, bool]
) -> None:
    receipts.write(receipt(registry, "a", rejected=1))
    assert other.take("key", "a")
    table = PartitionTable(receipts, mine, 1, **how)
    table.add(0, Partition(digest="a", rows=1))
    assert table.take() is None
    assert receipts.read("a")
    other.release("key", "a")
    assert table.take() == Partition(digest="a", rows=1)
    assert receipts.read("a") is None


def test_a_partition_that_another_run_has_recomputed_is_not_run_again(
    registry: Registry, receipts: Receipts, mine: Claims, other: Claims
) -> None:
    receipts.write(receipt(registry, "a"))
    table = PartitionTable(receipts, mine, 1, rerun=True, retry_rejects=False)
    table.add(0, Partition(digest="a", rows=1))
    assert other.take("key", "a")
    assert table.take() is None
    receipts.write(receipt(registry, "a"))  # an equal one
    other.release("key", "a")
    assert table.take() is None
    assert not table.unfinished


def test_checkpoints_that_another_run_uses_stay(registry: Registry, receipts: Receipts, mine: Claims, other: Claims) -> None:
    receipts.checkpoints.mkdir(parents=True)
    assert other.take("key", WHOLE)
    table = PartitionTable(receipts, mine, 1, rerun=True, retry_rejects=False)
    table.add(0, Partition(digest=WHOLE, rows=1))
    assert table.take() is None
    table.forget_checkpoints()
    assert receipts.checkpoints.exists()
    other.release("key", WHOLE)
    assert table.take()
    assert not receipts.checkpoints.exists()
    # Once begun, a partition whose process died resumes from its own.
    receipts.checkpoints.mkdir()
    table.returned(WHOLE)
    assert table.take()
    assert receipts.checkpoints.exists()


def test_a_receipt_with_rejects_that_another_run_makes_again_stays(
    registry: Registry, receipts: Receipts, mine: Claims, other: Claims
) -> None:
    for digest in ("a", "b"):
        receipts.write(receipt(registry, digest, rejected=1))
    table = PartitionTable(receipts, mine, 1, rerun=False, retry_rejects=False)
    for digest in ("a", "b"):
        table.add(0, Partition(digest=digest, rows=1))
    assert other.take("key", "a")
    table.forget_rejected()
    assert receipts.read("a")
    assert receipts.read("b") is None
