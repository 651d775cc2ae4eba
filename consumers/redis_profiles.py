"""Profiles of the worker: rows are fetched for a batch before it is decided, changed rows go back
in its commit.

The partition key's rows have one writer, so they stay in memory while the partition is ours.
Shared and learned rows have others, and are read anew for every batch, together with the training
offset that the learned rows were folded to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from consumers.redis_client import as_bytes
from consumers.redis_store import stored_number
from consumers.redis_types import check_missing
from pipeline.card_testing import places_of
from pipeline.commit import Change
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import Transactions
from pipeline.profiles import (
    BUCKET,
    DAY_SLOTS,
    HOUR_SLOTS,
    ProfileView,
    Rows,
    Table,
    bucket_table,
    learned_table,
    opened,
    probe_table,
    traffic_table,
)
from pipeline.schema import Schema
from pipeline.stored_rows import (
    check_probe_bytes,
    check_probes,
    check_ring_bytes,
    check_rings,
    sealed,
    unsealed,
)

# Beyond so many rows in memory a partition's cache starts anew: a row is some 300 bytes.
CACHED_ROWS_MAX = 200_000
# One BUCKETS change for each id, as the script unpacks it: the slot and what is added to it.
BUCKET_CHANGE = np.dtype([("slot", "<i4"), *BUCKET.descr])
# One PROBES change for each id: the hour, whether the amount is small, whether the attempt was
# declined, the counterpart's bit.
PROBE_CHANGE = np.dtype([("hour", "<i4"), ("small", "<i4"), ("declined", "<i4"), ("place", "<i4")])


class RedisProfiles:
    """The profiles of one partition."""

    def __init__(self, redis: Redis, schema: Schema, partition: int) -> None:
        self._redis = redis
        self._partition = partition
        self._names = tuple(item.name for item in schema.keyed)
        self._traffic = traffic_table()
        self._shared: tuple[Table, ...] = ()
        self._learned: tuple[Table, ...] = ()
        self._probed = tuple(entity.name for entity in schema.probed)
        self._small_minor = schema.small_amount_minor
        self._probes: tuple[Table, ...] = ()
        self._label_offset = 0

    def forget(self) -> None:
        """Drop what is cached: another owner may have changed it."""
        self._traffic.clear()

    async def load(self, batch: Transactions) -> None:
        """Fetch the rows of a batch's entities, all as of one moment."""
        if len(self._traffic) > CACHED_ROWS_MAX:
            self.forget()
        self._shared = tuple(bucket_table() for _ in self._names[1:])
        self._learned = tuple(learned_table() for _ in self._names)
        self._probes = tuple(probe_table() for _ in self._probed)
        wanted = self._wanted(batch)
        keys = [key for _, _, keys in wanted for key in keys]
        offset, *blobs = await self._redis.mget(["pos:training", *keys])
        missing = [key for key, blob in zip(keys, blobs, strict=True) if blob is None]
        await check_missing(self._redis, missing)
        # The trainer's position is `offset:step`.
        self._label_offset = stored_number("pos:training", as_bytes(offset).partition(b":")[0])
        found = iter(blobs)
        for table, ids, names in wanted:
            rows = [
                (key, name, as_bytes(blob))
                for key, name, blob in zip(ids, names, found, strict=False)
                if blob is not None
            ]
            if rows and table in self._shared:
                _load_rings(table, rows)
            elif rows and table in self._probes:
                _load_probes(table, rows)
            elif rows:
                load_rows(table, rows)

    def _wanted(self, batch: Transactions) -> list[tuple[Table, list[str], list[str]]]:
        """List the ids, and their Redis keys, of each table's rows that we do not have."""
        cards = [key for key in dict.fromkeys(batch.keys[0]) if key not in self._traffic]
        wanted = [(self._traffic, cards, [f"c:{self._partition}:{key}" for key in cards])]
        for table, name, given in zip(self._shared, self._names[1:], batch.keys[1:], strict=True):
            ids = list(dict.fromkeys(given))
            wanted.append((table, ids, [f"r:{name}:{key}" for key in ids]))
        for table, name, given in zip(self._learned, self._names, batch.keys, strict=True):
            ids = list(dict.fromkeys(given))
            wanted.append((table, ids, [f"l:{name}:{key}" for key in ids]))
        # Card testing is of entities alone, which come before the categories.
        for table, name, given in zip(self._probes, self._probed, batch.keys, strict=False):
            ids = list(dict.fromkeys(given))
            wanted.append((table, ids, [f"p:{name}:{key}" for key in ids]))
        return wanted

    def open(self, batch: Transactions) -> ProfileView:
        """Give the rows that `load` fetched for the batch, writable."""
        traffic = self._traffic.slots(batch.keys[0])
        return ProfileView(
            traffic=Rows(self._traffic.rows, traffic),
            shared=opened(self._shared, batch.keys[1:]),
            learned=opened(self._learned, batch.keys),
            label_offset=self._label_offset,
            probes=opened(self._probes, batch.keys),
        )

    def changes(self, decided: Transactions, unusual: NDArray[np.int8]) -> list[Change]:
        """Give what the commit of decided events must store; `unusual` is of their amounts."""
        if not len(decided):
            return []
        cards = dict.fromkeys(decided.keys[0])
        prefix = f"c:{self._partition}:"
        pairs: list[str | bytes] = []
        for key in cards:
            pairs += (prefix + key, sealed(prefix + key, self._traffic.blob(key)))
        changes: list[Change] = [("MSET", *pairs)]
        for name, ids in zip(self._names[1:], decided.keys[1:], strict=True):
            changes += _bucket_changes(name, ids, decided, unusual)
        if self._small_minor is not None:
            changes += _probe_changes(self._probed, decided, self._small_minor)
        return changes


_Loaded = Sequence[tuple[str, str, bytes]]
"""Ids, their keys in Redis, and what stands there."""


def load_rows(table: Table, loaded: _Loaded) -> None:
    """Set rows from their stored forms, if those are whole."""
    if not loaded:
        return
    size = table.rows[:1].nbytes
    rows = [unsealed(name, stored, size=size) for _, name, stored in loaded]
    table.load([key for key, _, _ in loaded], rows)


def _load_rings(table: Table, loaded: _Loaded) -> None:
    """Set rings from their stored forms, if those can be; a short one is empty at its end."""
    for _, name, stored in loaded:
        check_ring_bytes(name, stored)
    ids = [key for key, _, _ in loaded]
    table.load(ids, [stored for _, _, stored in loaded])
    check_rings([name for _, name, _ in loaded], table.rows[table.slots(ids)])


def _load_probes(table: Table, loaded: _Loaded) -> None:
    """Set rows of card testing from their stored forms, if those can be."""
    for _, name, stored in loaded:
        check_probe_bytes(name, stored)
    ids = [key for key, _, _ in loaded]
    table.load(ids, [stored for _, _, stored in loaded])
    check_probes([name for _, name, _ in loaded], table.rows[table.slots(ids)])


def _bucket_changes(
    name: str, ids: Sequence[str], decided: Transactions, unusual: NDArray[np.int8]
) -> list[Change]:
    """Pack each id's additions to its ring: one to an hour and one to a day for each event."""
    added = np.zeros((len(decided), 2), dtype=BUCKET_CHANGE)
    for place, (first, slots, width) in enumerate(
        ((0, HOUR_SLOTS, HOUR_MS), (HOUR_SLOTS, DAY_SLOTS, DAY_MS))
    ):
        buckets = decided.event_time_ms // width
        added["slot"][:, place] = first + buckets % slots
        added["bucket"][:, place] = buckets
        added["amount"][:, place] = decided.amount_minor
        added["unusual"][:, place] = unusual
    added["count"] = 1
    packed: dict[str, list[bytes]] = {}
    for row, key in enumerate(ids):
        packed.setdefault(key, []).append(added[row].tobytes())
    return [("BUCKETS", f"r:{name}:{key}", b"".join(parts)) for key, parts in packed.items()]


def _probe_changes(names: Sequence[str], decided: Transactions, small_minor: int) -> list[Change]:
    """Pack what each id's row of card testing is told of each event."""
    added = np.zeros(len(decided), dtype=PROBE_CHANGE)
    added["hour"] = decided.event_time_ms // HOUR_MS
    added["small"] = decided.amount_minor <= small_minor
    if decided.declined is not None:
        added["declined"] = decided.declined
    changes: list[Change] = []
    for number, (name, ids) in enumerate(zip(names, decided.keys, strict=False)):
        added["place"] = places_of(decided.keys[0 if number else 1])
        packed: dict[str, list[bytes]] = {}
        for row, key in enumerate(ids):
            packed.setdefault(key, []).append(added[row].tobytes())
        changes += [("PROBES", f"p:{name}:{key}", b"".join(parts)) for key, parts in packed.items()]
    return changes
