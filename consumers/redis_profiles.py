"""Profiles of the worker: a fold of the log `additions`, held by the process for its partitions.

The commit of a batch appends what its events add to the rows of their entities, in one entry of the
log, and changes no row. A process holds the rows that it needs, folded up to one place of the log;
the load of a batch brings the entries since, and the rows in Redis of ids that are not held. So all
that was committed counts, whoever committed it, and nothing else: a batch works on a copy of its
rows, and its own additions come back by the log like everybody's.

Now and then a process writes all rows back that were added to (`write_back`), whereupon the log up
to there is not needed any more. What labels teach has one writer, the trainer, who says in the log
`taught` of which ids it has changed something (`docs/decisions/0060-shared-rows-as-a-log.md`).
"""

import asyncio
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.entity_rows import EntityRows, Wanted
from consumers.redis_store import ENTRIES_AT_ONCE, Answer, LogEntry, Mark, RedisStore
from pipeline.additions import additions_of, packed, unpacked
from pipeline.commit import Change
from pipeline.events import Transactions
from pipeline.profiles import ProfileView, Table
from pipeline.schema import Schema
from pipeline.stored_rows import damaged, sealed, unsealed

logger = logging.getLogger(__name__)

ADDITIONS = "additions"
# Beyond so many bytes of rows a process writes back and forgets all: what is needed comes anew.
CACHED_BYTES_MAX = 64 * 1024 * 1024
# Rows are written back when the log holds so many events or entries that they lack.
EVENTS_BEHIND_MAX, ENTRIES_BEHIND_MAX = 100_000, 10_000
# Ids of one step of that, and entries until the next try of whoever was refused.
IDS_A_STEP, TRY_AGAIN_ENTRIES = 128, 100
# Whoever stops waits so long for rows that are being written.
END_SECONDS_MAX = 3.0

# Steps of the trainer that stay: whoever is further behind forgets all rows.
LESSONS_KEPT = 300

_START = Mark(0, b"")


class ProfileCache:
    """The rows that the partitions of one process share."""

    def __init__(self, store: RedisStore, schema: Schema) -> None:
        self._store = store
        self.schema = schema
        self._entities = [EntityRows(schema, number) for number in range(len(schema.keyed))]
        self._by_name = {
            item.name: row for item, row in zip(schema.keyed, self._entities, strict=True)
        }
        self._name, self._made = secrets.token_hex(6), itertools.count()
        self._life = 0
        self._try_at = 0
        self._writing: asyncio.Task[None] | None = None
        self.forget()

    def forget(self) -> None:
        """Forget all rows, and the place in the logs."""
        for entity in self._entities:
            entity.clear()
        self._life += 1
        self._additions: Mark | None = None
        self._lessons: Mark | None = None
        # All additions after this one to ids that are not held stand aside.
        self._folded = 0
        self._behind: deque[tuple[int, int]] = deque()
        self._events_behind = 0
        self._label_offset = 0

    def mark(self) -> str:
        """Make a name for an entry of the log that no other will ever have."""
        return f"{self._name}:{next(self._made)}"

    async def load(
        self, keys: Sequence[Sequence[str]], partition: int, asked: bytes = b""
    ) -> dict[int, bytes]:
        """Come to the end of the logs, holding the rows of these ids; gives what `asked` found."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        while True:
            answer = await self._read(keys, partition, asked)
            if answer is not None:
                self._write_back_if_due()
                return answer.known

    async def _read(
        self, keys: Sequence[Sequence[str]], partition: int, asked: bytes
    ) -> Answer | None:
        """Ask once; `None` where it has to be done again."""
        # Whoever stands nowhere comes to the end of the log before there is a place for rows.
        ids = keys if self._additions is not None else [[] for _ in keys]
        wanted = [
            item.wanted(part, partition) for item, part in zip(self._entities, ids, strict=True)
        ]
        names = [key for item in wanted for key in item.keys]
        life, folded = self._life, self._folded
        additions, lessons = self._additions, self._lessons
        answer = await self._store.read(additions, lessons, names, asked)
        if life != self._life or (additions is None) != (self._additions is None):
            return None
        if answer.folded < folded:
            # The store was put back.
            self.forget()
        elif self._follow(answer, additions, lessons):
            return self._take(answer, wanted) if ids is keys else None
        return None

    def _take(self, answer: Answer, wanted: Sequence[Wanted]) -> Answer:
        """Take the rows that came along."""
        first = 0
        for entity, item in zip(self._entities, wanted, strict=True):
            last = first + len(item.keys)
            entity.load(item, answer.values[first:last], folded=answer.folded)
            first = last
        return answer

    def _follow(self, answer: Answer, additions: Mark | None, lessons: Mark | None) -> bool:
        """Take what is new of the logs; says whether the rows beside it are of our own place."""
        if additions is None:
            additions = self._begin(answer)
            if _after(additions, answer.additions) is None:
                raise damaged(ADDITIONS, f"an entry after {additions.number} is missing")
        added = _after(additions, answer.additions)
        taught = _after(lessons or _last(answer.lessons), answer.lessons)
        if added is None or taught is None:
            # Trimmed beyond our place, or of another history: the store was put back.
            self.forget()
            return False
        assert self._additions is not None and self._lessons is not None
        for entry in added:
            if entry.mark.number > self._additions.number:
                self._fold(entry)
        if answer.folded > self._folded:
            self._settle(answer.folded)
        read = added[-1].mark if added else additions
        if read.number < answer.newest and len(answer.additions) < ENTRIES_AT_ONCE:
            raise damaged(ADDITIONS, f"entries after {read.number} are missing")
        learned = taught[-1].mark if taught else lessons or self._lessons
        if learned.number > self._lessons.number:
            self._learn(answer.learned)
            self._lessons = learned
        is_current = answer.folded == self._folded and learned.number == self._lessons.number
        if not is_current or read.number < answer.newest or len(taught) >= ENTRIES_AT_ONCE - 1:
            return False
        self._label_offset = answer.label_offset
        return True

    def _begin(self, answer: Answer) -> Mark:
        """Stand where all rows in Redis stand."""
        first = answer.additions[0].mark if answer.additions and answer.folded else _START
        if first.number != answer.folded:
            raise damaged(
                ADDITIONS, f"entry {answer.folded}, up to which rows hold all, is missing"
            )
        self._additions, self._lessons = first, _last(answer.lessons)
        self._folded = answer.folded
        return first

    def _fold(self, entry: LogEntry) -> None:
        try:
            added = unpacked(unsealed(ADDITIONS, entry.content))
        except (ValueError, IndexError) as error:
            raise damaged(ADDITIONS, f"entry {entry.mark.number} is none: {error}") from error
        for entity in self._entities:
            entity.fold(entry.mark.number, added)
        self._additions = entry.mark
        self._behind.append((entry.mark.number, len(added)))
        self._events_behind += len(added)

    def _learn(self, rows: Mapping[bytes, bytes | None]) -> None:
        for name, blob in rows.items():
            _, entity, key = name.decode().split(":", 2)
            self._by_name[entity].learn([key], [blob])

    def _settle(self, folded: int) -> None:
        self._folded = folded
        while self._behind and self._behind[0][0] <= folded:
            self._events_behind -= self._behind.popleft()[1]
        for entity in self._entities:
            entity.settle(folded)

    def open(self, batch: Transactions) -> ProfileView:
        """Give the rows of a batch that `load` has just brought, writable: a copy."""
        first, *others = [
            entity.open(ids) for entity, ids in zip(self._entities, batch.keys, strict=True)
        ]
        opened = [first, *others]
        probed = len(self.schema.probed)
        return ProfileView(
            traffic=first[0][0],
            shared=tuple(rows[0] for rows, _ in others),
            learned=tuple(learned for _, learned in opened),
            label_offset=self._label_offset,
            probes=tuple(rows[1] for rows, _ in opened[:probed]),
        )

    def _write_back_if_due(self) -> None:
        is_due = self._events_behind > EVENTS_BEHIND_MAX or len(self._behind) > ENTRIES_BEHIND_MAX
        is_due = is_due or self._nbytes > CACHED_BYTES_MAX
        if is_due and self._writing is None and self._number >= self._try_at:
            self._writing = asyncio.ensure_future(self._try_to_write())

    async def _try_to_write(self) -> None:
        if not await self.write_back():
            self._try_at = self._number + TRY_AGAIN_ENTRIES
        # Not before: what was added to rows is read again from where all rows stand.
        if self._nbytes > CACHED_BYTES_MAX:
            self.forget()

    @property
    def _nbytes(self) -> int:
        return sum(entity.nbytes for entity in self._entities)

    @property
    def _number(self) -> int:
        return self._additions.number if self._additions is not None else 0

    async def write_back(self) -> bool:
        """Write all rows that were added to; `False` where another is at it."""
        life, folded, target = self._life, self._folded, self._additions
        writer, steps = self.mark(), 0
        if target is None or target.number == folded:
            return False
        if not await self._store.begin_writing(writer, folded=folded):
            return False
        for number, entity in enumerate(self._entities):
            for partition, ids in entity.aside().items():
                for first in range(0, len(ids), IDS_A_STEP):
                    keys: list[list[str]] = [[] for _ in self._entities]
                    keys[number] = ids[first : first + IDS_A_STEP]
                    while await self._read(keys, partition, b"") is None:
                        pass
            if life != self._life:
                return False
            slots = entity.changed_since(folded).tolist()
            for first in range(0, len(slots), IDS_A_STEP):
                place = self._additions
                if life != self._life or place is None:
                    return False
                pairs = list(entity.stored(slots[first : first + IDS_A_STEP], place.number))
                if not await self._store.write_rows(writer, pairs, steps=steps, place=place):
                    return False
                steps += 1
        return await self._store.end_writing(writer, steps=steps, place=target)

    async def end(self) -> None:
        """Wait a moment for the rows that are being written; never raises.

        What is left, or failed, whoever is next finds in the log and writes.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        await asyncio.wait([writing], timeout=END_SECONDS_MAX)
        if not writing.done():
            logger.warning("rows are left to write: not done in %.1f s", END_SECONDS_MAX)
            writing.cancel()
            await asyncio.wait([writing], timeout=END_SECONDS_MAX)
        elif not writing.cancelled() and (error := writing.exception()) is not None:
            logger.warning("rows are left to write: %s", error)


class RedisProfiles:
    """The profiles of one partition."""

    def __init__(self, cache: ProfileCache, partition: int) -> None:
        self._cache, self._partition = cache, partition

    async def load(self, batch: Transactions, asked: bytes = b"") -> dict[int, bytes]:
        """Fetch the rows of a batch's entities; gives what was found of the ids `asked` for."""
        return await self._cache.load(batch.keys, self._partition, asked)

    def open(self, batch: Transactions) -> ProfileView:
        """Give the rows that `load` fetched for the batch, writable."""
        return self._cache.open(batch)

    def changes(self, decided: Transactions, unusual: NDArray[np.int8]) -> list[Change]:
        """Give what the commit of decided events must store; `unusual` is of their amounts."""
        if not len(decided):
            return []
        added = additions_of(decided, unusual, self._cache.schema, partition=self._partition)
        return [("ADDED", self._cache.mark(), sealed(ADDITIONS, packed(added)))]


def taught_change(step: int, names: Sequence[str], lists: Sequence[Sequence[str]]) -> Change:
    """Give the trainer's word of which rows it has changed: ids, a list for each named entity.

    Steps follow each other, so that a reader sees whether he has missed one.
    """
    keys = [
        f"l:{name}:{key}"
        for name, ids in zip(names, lists, strict=True)
        for key in dict.fromkeys(ids)
    ]
    by, packed_keys = secrets.token_hex(6), msgspec.msgpack.encode(keys)
    return (
        "XADD",
        "taught",
        "MAXLEN",
        "~",
        LESSONS_KEPT,
        f"{step}-0",
        "by",
        by,
        "keys",
        packed_keys,
    )


def _last(entries: Sequence[LogEntry]) -> Mark:
    return entries[-1].mark if entries else _START


def _after(mark: Mark, entries: Sequence[LogEntry]) -> list[LogEntry] | None:
    """Give the entries after a place, if that is there, and all after it; else `None`."""
    if mark.number:
        if not entries or entries[0].mark != mark:
            return None
        entries = entries[1:]
    wanted = range(mark.number + 1, mark.number + 1 + len(entries))
    return list(entries) if [item.mark.number for item in entries] == list(wanted) else None


def load_rows(table: Table, loaded: Sequence[tuple[str, str, bytes]]) -> None:
    """Set rows from ids, keys and stored forms, if those are whole."""
    if not loaded:
        return
    size = table.rows[:1].nbytes
    rows = [unsealed(name, stored, size=size) for _, name, stored in loaded]
    table.load([key for key, _, _ in loaded], rows)
