"""The partitions of one step: which are finished, which are running, and which have yet to run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from engine.jobs.messages import WHOLE, Partition, Receipt
from engine.jobs.receipts import Receipts, Stamp
from engine.running.claims import Claims

_LOOKED_AT = 64
"""The maximum number of partitions that are tried if other runs have claimed the first ones."""


@dataclass
class _Slot:
    """A place in the input for a partition; equal rows in two places share a receipt."""

    part: Partition
    receipt: Receipt | None = None


class PartitionTable:
    """Partitions in the order of the input, by version of the streamed input.

    Args:
        receipts: the receipts on disk, of this base key.
        claims: the claims of this run.
        versions: the number of versions that the streamed input is made of.
        rerun: run every partition, even those that have receipts.
        retry_rejects: run partitions with rejects again.

    Receipts that are to be made again are removed when their partition is claimed, because another run may use them until then.

    Attributes:
        waits_for_run: whether another run was found to be making some of the partitions.
    """

    def __init__(self, receipts: Receipts, claims: Claims, versions: int, *, rerun: bool, retry_rejects: bool) -> None:
        self._disk = receipts
        self._claims = claims
        self._base_key = receipts.folder.name
        self._rerun = rerun
        self._retry_rejects = retry_rejects
        self._slots: list[list[_Slot]] = [[] for _ in range(versions)]
        self._places: dict[str, list[_Slot]] = {}
        self._pending: deque[Partition] = deque()
        self._next = (0, 0)
        self.running: set[str] = set()
        self._outdated: dict[str, Stamp | None] = {}
        self.waits_for_run = False
        self.found: list[Receipt] = []
        self.fresh: list[Receipt] = []
        self.rows_finished = 0
        self.rows_rejected = 0
        claims.join(self._base_key)

    def add(self, version: int, part: Partition) -> None:
        """Append a partition. It is finished if it has a receipt."""
        slot = _Slot(part)
        self._slots[version].append(slot)
        same = self._places.setdefault(part.digest, [])
        same.append(slot)
        if len(same) > 1:
            if same[0].receipt:
                self._fill(slot, same[0].receipt)
            return
        stamp = self._disk.stamp(part.digest)
        receipt = None if self._rerun else self._disk.read(part.digest)
        if receipt is not None and not (receipt.rejects and self._retry_rejects):
            self._finish(receipt, self.found)
            return
        self._outdated[part.digest] = stamp
        self._pending.append(part)

    def take(self) -> Partition | None:
        """A partition to run now; None if there is none that no other run has."""
        for _ in range(min(len(self._pending), _LOOKED_AT)):
            part = self._pending.popleft()
            if not self._claims.take(self._base_key, part.digest):
                self.waits_for_run |= not self._claims.is_own(self._base_key, part.digest)
                self._pending.append(part)
                continue
            first = part.digest in self._outdated
            outdated = self._outdated.pop(part.digest, None)
            # Another run may have finished it since it was added.
            if self._disk.stamp(part.digest) != outdated and (receipt := self._disk.read(part.digest)):
                self._claims.release(self._base_key, part.digest)
                self._finish(receipt, self.found)
                continue
            self._disk.forget(part.digest)
            if first and self._rerun and part.digest == WHOLE:
                self._disk.forget_checkpoints()
            self.running.add(part.digest)
            return part
        return None

    def finished(self, receipt: Receipt) -> None:
        """Note that a running partition has finished."""
        self.ended(receipt.digest)
        self._finish(receipt, self.fresh)

    def ended(self, digest: str) -> None:
        """Note that a partition is no longer running."""
        self.running.discard(digest)
        self._claims.release(self._base_key, digest)

    def returned(self, digest: str) -> None:
        """Note that a submitted partition was not run; it waits again."""
        self.ended(digest)
        self._pending.append(self._places[digest][0].part)

    def in_order(self, complete: int) -> Iterator[Receipt]:
        """Receipts that have not been returned before, in the order of the input, up to the first partition without one.

        Args:
            complete: the number of versions, from the first, that will get no more partitions.
        """
        version, place = self._next
        while version < len(self._slots):
            slots = self._slots[version]
            while place < len(slots) and (receipt := slots[place].receipt):
                yield receipt
                place += 1
                self._next = (version, place)
            if place < len(slots) or version >= complete:
                return
            version, place = version + 1, 0
            self._next = (version, place)

    def placed(self) -> list[list[tuple[Partition, Receipt]]]:
        """All finished partitions with their receipts, in the order of the input, by version."""
        return [[(slot.part, slot.receipt) for slot in slots if slot.receipt] for slots in self._slots]

    @property
    def unfinished(self) -> int:
        """The number of partitions without a receipt; equal rows count once."""
        return len(self._places) - len(self.found) - len(self.fresh)

    @property
    def partitions(self) -> int:
        """The number of partitions so far; equal rows count once."""
        return len(self._places)

    @property
    def waiting(self) -> int:
        """The number of partitions that wait to run."""
        return len(self._pending)

    def receipts(self) -> Iterator[Receipt]:
        """The receipts of all places; that of equal rows comes once for each place."""
        return (slot.receipt for slots in self._slots for slot in slots if slot.receipt)

    def forget_rejected(self) -> None:
        """Let partitions with rejected rows run again in the next run, except those that another run is making again."""
        for receipt in self.receipts():
            if receipt.rejects and self._claims.take(self._base_key, receipt.digest):
                self._disk.forget(receipt.digest)
                self._claims.release(self._base_key, receipt.digest)

    def forget_checkpoints(self) -> None:
        """Delete the operator's checkpoints, unless another run is at work with them."""
        if self._claims.take(self._base_key, WHOLE):
            self._disk.forget_checkpoints()
            self._claims.release(self._base_key, WHOLE)

    def _finish(self, receipt: Receipt, kind: list[Receipt]) -> None:
        kind.append(receipt)
        for slot in self._places[receipt.digest]:
            self._fill(slot, receipt)

    def _fill(self, slot: _Slot, receipt: Receipt) -> None:
        slot.receipt = receipt
        self.rows_finished += receipt.rows
        self.rows_rejected += receipt.rejected
