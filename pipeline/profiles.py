"""What is remembered for an entity: fixed-size rows, whose bytes are also their stored form.

Three kinds of row, after who may write them:

- `TRAFFIC`, for the partition key: its events are in one partition, in order, so one writer keeps
  exponentially decayed counts and sums, the habit of its amounts, recent counterparts.
- `BUCKET` rings, for entities that every partition sees: whole numbers in buckets of event time. A
  slot keeps the newest bucket that fell on it, so the end state is the same in any order of events.
- `LEARNED`, for both: what labels teach. One writer, the learner, in the order of the training log.
- `PROBES`, for both, where the schema asks for card testing: small amounts, declined attempts and
  different counterparts, by hour of event time. Each hour has one place, where the newest that
  fell on it stays; counts are added to and bits only ever set, so any order gives the same again.

>>> table = Table(TRAFFIC)
>>> table.slots(["c1", "c2", "c1"]).tolist(), len(table)
([0, 1, 0], 2)
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.events import Transactions
from pipeline.numbering import Numbering
from pipeline.schema import Schema
from pipeline.texts import worked_out

RECENT_COUNTERPARTS = 8
# The current hour and the 24 before it; the current day and the 30 before it.
HOUR_SLOTS = 25
DAY_SLOTS = 31
BUCKET_SLOTS = HOUR_SLOTS + DAY_SLOTS
# Different counterparts are told for the hour of an event and the one before, and events come late.
SEEN_SLOTS = 4
# Bits of an hour's sketch. Three different counterparts of 1,000 take one bit in 1 of 170 cases;
# beyond some 3,000 in an hour all bits are set.
SEEN_BITS = 512

TRAFFIC = np.dtype(
    [
        ("first_ms", "<i8"),
        ("last_ms", "<i8"),
        ("counts", "<f8", (4,)),  # decayed, one for each half-life
        ("amounts", "<f8", (4,)),  # decayed sums of minor units
        ("habit", "<f8", (3,)),  # decayed weight, sum, sum of squares of the amount
        ("counterparts", "<i8", (RECENT_COUNTERPARTS,)),  # hashes, a ring
        ("counterparts_next", "<i8"),
        ("unusual", "<f8", (3,)),  # decayed counts of unusual amounts, half-lives from a day on
    ]
)
BUCKET = np.dtype([("bucket", "<i4"), ("count", "<i4"), ("amount", "<i8"), ("unusual", "<i4")])
PROBES = np.dtype(
    [
        (
            "hours",
            [("bucket", "<i4"), ("count", "<i4"), ("small", "<i4"), ("declined", "<i4")],
            (HOUR_SLOTS,),
        ),
        # One bit for each hash of a counterpart, the first in the highest place of its byte.
        ("seen", [("bucket", "<i4"), ("bits", "u1", (SEEN_BITS // 8,))], (SEEN_SLOTS,)),
    ]
)
LEARNED = np.dtype(
    [
        ("reference_ms", "<i8"),  # newest event time that was learned from
        ("frauds", "<f8", (3,)),  # decayed, one for each half-life
        ("labels", "<f8", (3,)),
        ("verdict_ms", "<i8"),  # event time of the latest verdict
        ("verdict_fraud", "<i8"),
        ("run_length", "<i8"),  # frauds in a row, up to the latest verdict
        ("run_start_ms", "<i8"),
        ("fraud_ms", "<i8"),
        ("genuine_ms", "<i8"),
        ("genuine_since_fraud", "<i8"),
        ("habit", "<f8", (3,)),  # of genuine amounts only
        # The same again, apart for labels of usual (0) and of unusual amounts (1).
        ("alike_frauds", "<f8", (2,)),
        ("alike_labels", "<f8", (2,)),
        ("alike_run_length", "<i8", (2,)),
        ("alike_run_start_ms", "<i8", (2,)),
        ("alike_fraud_ms", "<i8", (2,)),
        ("alike_genuine_ms", "<i8", (2,)),
    ]
)

Structured = NDArray[Any]
"""An array of one of the row types."""
Record = Any
"""One row of such an array; numpy gives its fields no types."""


class Table:
    """Rows by id, growing as ids come; `width` is the number of buckets of a ring, else 0."""

    def __init__(self, dtype: np.dtype[Any], *, width: int = 0) -> None:
        self._shape = (width,) if width else ()
        self._slots = Numbering()
        self.rows: Structured = np.zeros((16, *self._shape), dtype=dtype)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    @property
    def ids(self) -> list[str]:
        """The ids in the order of their slots."""
        return list(self._slots)

    def slots(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Give the row number of each id; an id that is new gets a row of zeros."""
        slots = self._slots.of(ids).astype(np.int32)
        self._grow(len(self._slots))
        return slots

    def load(self, ids: Sequence[str], blobs: Sequence[bytes]) -> None:
        """Set rows from their stored forms; what a stored ring lacks at its end is empty."""
        size = self.rows[:1].nbytes
        stored = b"".join(blob.ljust(size, b"\0") for blob in blobs)
        rows = np.frombuffer(stored, dtype=self.rows.dtype).reshape(len(ids), *self._shape)
        slots = self.slots(ids)
        self.rows[slots] = rows

    def blob(self, key: str) -> bytes:
        """Give the stored form of one id's row."""
        return bytes(self.rows[self._slots[key]].tobytes())

    def clear(self) -> None:
        """Forget every id."""
        self._slots = Numbering()
        self.rows = np.zeros((16, *self._shape), dtype=self.rows.dtype)

    def _grow(self, needed: int) -> None:
        capacity = len(self.rows)
        if needed <= capacity:
            return
        while capacity < needed:
            capacity *= 2
        rows = np.zeros((capacity, *self._shape), dtype=self.rows.dtype)
        rows[: len(self.rows)] = self.rows
        self.rows = rows


def traffic_table() -> Table:
    """Make an empty table for the partition key's traffic."""
    return Table(TRAFFIC)


def bucket_table() -> Table:
    """Make an empty table for the traffic of an entity that partitions share."""
    return Table(BUCKET, width=BUCKET_SLOTS)


def probe_table() -> Table:
    """Make an empty table for what is remembered of the card testing of an entity."""
    return Table(PROBES)


def learned_table() -> Table:
    """Make an empty table for what labels teach of an entity."""
    return Table(LEARNED)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a table, and which of them each event of a batch belongs to."""

    values: Structured
    slots: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ProfileView:
    """All that is remembered of a batch's entities; kernels read it and write traffic into it."""

    traffic: Rows
    shared: tuple[Rows, ...]
    learned: tuple[Rows, ...]
    label_offset: int
    probes: tuple[Rows, ...] = ()


class Profiles(Protocol):
    """Where profiles are kept: in memory for replay, in Redis for the worker."""

    def open(self, batch: Transactions) -> ProfileView:
        """Give the rows of a batch's entities, writable, as of now."""
        ...


class LearnedProfiles:
    """What labels teach of each entity; `offset` is the training offset it was folded to."""

    def __init__(self, schema: Schema) -> None:
        self.tables = tuple(learned_table() for _ in schema.keyed)
        self.offset = 0

    def rows(self, keys: Sequence[Sequence[str]]) -> tuple[Rows, ...]:
        """Give the rows of events whose ids stand in one list for each entity."""
        return opened(self.tables, keys)


class MemoryProfiles:
    """Profiles in memory, beside what the learner of the same process keeps."""

    def __init__(self, schema: Schema, learned: LearnedProfiles) -> None:
        self._traffic = traffic_table()
        self._shared = tuple(bucket_table() for _ in schema.keyed[1:])
        self._probes = tuple(probe_table() for _ in schema.probed)
        self._learned = learned

    def open(self, batch: Transactions) -> ProfileView:
        """Give the rows of a batch's entities, writable, as of now."""
        traffic = self._traffic.slots(batch.keys[0])
        return ProfileView(
            traffic=Rows(self._traffic.rows, traffic),
            shared=opened(self._shared, batch.keys[1:]),
            learned=self._learned.rows(batch.keys),
            label_offset=self._learned.offset,
            probes=opened(self._probes, batch.keys),
        )


def opened(tables: Sequence[Table], keys: Sequence[Sequence[str]]) -> tuple[Rows, ...]:
    """Give the rows of events in tables of the first so many entities, a table each."""
    slots = [table.slots(ids) for table, ids in zip(tables, keys, strict=False)]
    return tuple(Rows(table.rows, given) for table, given in zip(tables, slots, strict=True))


def counterpart_hashes(ids: Sequence[str]) -> NDArray[np.int64]:
    """Hash counterparts to 32 bits and one more, so that none is 0, which means none."""
    return worked_out(ids, _counterpart_hashes)


def _counterpart_hashes(ids: Sequence[str]) -> NDArray[np.int64]:
    return np.array([zlib.crc32(key.encode()) for key in ids], dtype=np.int64) | (1 << 32)
