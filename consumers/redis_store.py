"""Redis holds the truth: positions, outboxes, profiles, the index of what waits for a label.

One script applies a commit: it compares the position and then makes all changes, or none. Keys:

    pos:NAME out:NAME      position and outbox of an input (`transactions:3`, `feedback:3`, ...)
    additions              log (a stream) of what each commit adds to the rows of its entities
    shared                 how many `additions` there are; which of them all rows have (`folded`)
    c:P:CARD               traffic row of the partition key, as of some place of `additions`
    r:ENTITY:ID            ring of buckets of another entity, likewise
    p:ENTITY:ID            row of card testing, likewise, where the schema asks for it
    l:ENTITY:ID            learned row, one writer: the trainer; `pos:training` stands beside it
    taught                 log of the ids of which the trainer has learned something, step by step
    w:P:BUCKET             entries of the index of waiting decisions (`pipeline/waiting_index.py`)
    index:P                its `entries`, the newest `offset` it holds, where the `sweep` stands
    breaker:P              the window of the breaker (`pipeline/breaker.py`)
    wm:P wi:P model:P      event-time watermark, that of what is indexed, model version in force
    d:BUCKET               ids decided lately, of all partitions (`pipeline/recent_ids.py`)
    ids                    their number (`entries`), where the `sweep` stands, what was `dropped`
    review:P alert:P       alerts that wait for an analyst, by score, and what was decided
    te:P again:P           an end of the training log, what a restored store had forgotten of it
    place:training         how many examples the trainer has learned, and their last numbers
    pend:P ledger:P        labels that wait for their decision; what became of labels
    torn:NAME              why a commit of an input broke off halfway; nobody goes on from there
    backfill               what history was read before the first position (`backfill_run.py`)

Rows of profiles and `breaker:`, entries of `additions`, outboxes and labels of `pend:` carry a
version and a checksum; an outbox's is of its position as well (`pipeline/stored_rows.py`).

All keys are of one primary: a commit may touch any of them.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from consumers.redis_client import as_bytes, connect
from consumers.redis_scripts import (
    COMMIT_SCRIPT,
    ENTRIES_SCRIPT,
    IDS_SCRIPT,
    LOAD_SCRIPT,
    WRITE_BACK_SCRIPT,
)
from consumers.redis_types import CHECK_SCRIPT, FOREIGN, check_missing
from pipeline.commit import Change, Stored, UnknownResultError
from pipeline.errors import CommitError, SettingError
from pipeline.stored_rows import damaged, sealed, unsealed
from pipeline.version_names import split_version
from stack.redis_clients import redis_problem

# Stands for the position of an input while history is read in its place: nobody may begin there.
HISTORY = b"history"

# Redis' Lua puts at most some 8,000 values on its stack.
CHANGE_WORDS_MAX = 7000
# Entries of a log that are read at once: whoever is further behind reads again.
ENTRIES_AT_ONCE = 500
# A writer of rows that has not ended while so many additions came may be taken for dead.
WRITER_ENTRIES_MAX = 1_000
# Additions that stay beyond those that all rows hold, for whoever is slow.
ENTRIES_KEPT = 1_000


def stored_number(key: str, answer: bytes | str | None) -> int:
    """Read a whole number that stands under a key; 0 where nothing does."""
    text = as_bytes(answer)
    try:
        return int(text or 0)
    except ValueError:
        raise damaged(key, f"it holds {_shown(text)}, expected a whole number") from None


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))


_POSITION = re.compile(rb"-?[0-9]{1,19}(?::[0-9]{1,19})*")


def _outbox_key(name: str, position: str | None) -> str:
    # A position that was changed alone fits no outbox.
    return f"out:{name} of {position}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a log of the store: the number of an entry, and who made it."""

    number: int
    by: bytes


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a log of the store, as it stands there."""

    mark: Mark
    content: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a batch needs, as of one moment.

    Attributes
    ----------
    newest, folded
        How many additions there are, and up to which of them every row holds all.
    label_offset
        The training offset that the learned rows are folded to.
    learned
        The learned rows that the lessons are about, by key.
    known
        The entries of those ids that were decided lately, by their number.
    """

    newest: int
    folded: int
    label_offset: int
    additions: list[LogEntry]
    lessons: list[LogEntry]
    learned: dict[bytes, bytes | None]
    known: dict[int, bytes]
    values: list[bytes | None]


def _entry(answer: Any) -> LogEntry:
    name, (_, by, _, content) = answer
    return LogEntry(Mark(int(name.partition(b"-")[0]), by), content)


def _pairs(known: Sequence[Any]) -> dict[int, bytes]:
    return {known[at]: known[at + 1] for at in range(0, len(known), 2)}


def _number(mark: Mark | None) -> str:
    return "" if mark is None else str(mark.number)


def _foreign(said: str) -> CommitError:
    _, key, found, wanted = said.split(" ")[:4]
    return damaged(key, f"it holds a {found}, expected a {wanted}")


class RedisStore:
    """Positions and outboxes in Redis, and the one script that moves them."""

    def __init__(self, url: str, *, retry_seconds_max: float) -> None:
        self._url = url
        self.redis = connect(url, retry_seconds=retry_seconds_max)
        # A commit that is sent again after a time-out would be refused by its own first success.
        self._once = connect(url, retry_seconds=0.0)
        self._script = self._once.register_script(CHECK_SCRIPT + COMMIT_SCRIPT)
        self._entries = self.redis.register_script(ENTRIES_SCRIPT)
        self._ids = self.redis.register_script(IDS_SCRIPT)
        self._load = self.redis.register_script(LOAD_SCRIPT)
        self._write_back = self.redis.register_script(WRITE_BACK_SCRIPT)

    async def check(self) -> None:
        """Refuse a Redis that does not answer, in words that say which."""
        try:
            await self.redis.ping()
        except (RedisError, OSError) as error:
            raise SettingError(await asyncio.to_thread(redis_problem, self._url, error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
        await self._once.aclose()

    async def load(self, name: str) -> Stored:
        """Read an input's position and outbox in one command; what is damaged is an error."""
        keys = [f"pos:{name}", f"out:{name}", f"torn:{name}"]
        found = await self.redis.mget(keys)
        missing = [key for key, item in zip(keys, found, strict=True) if item is None]
        await check_missing(self.redis, missing)
        position, outbox, torn = map(as_bytes, found)
        if torn:
            raise damaged(keys[2], f"a commit broke off halfway: {torn.decode(errors='replace')}")
        # A commit sets both; an outbox that is lost may never have been published.
        if found[0] is None and found[1] is None:
            return Stored(None, b"")
        if position == HISTORY:
            raise CommitError(
                f"{name} cannot be worked on yet: history is read into this store, and its "
                "cut-over is not made (the same `fraudstream backfill` goes on with it)"
            )
        if not _POSITION.fullmatch(position):
            raise damaged(keys[0], f"it holds {_shown(position)}, expected a position")
        text = position.decode()
        try:
            return Stored(text, unsealed(_outbox_key(name, text), outbox))
        except CommitError as error:
            raise damaged(keys[1], f"it does not belong to position {text}") from error

    async def position(self, name: str) -> str | None:
        """Read an input's position alone."""
        position = await self.redis.get(f"pos:{name}")
        return None if position is None else as_bytes(position).decode()

    def placed(self, name: str, position: str) -> Change:
        """Give the change that sets an input's position, with nothing left to publish."""
        outbox = sealed(_outbox_key(name, position), b"")
        return ("MSET", f"pos:{name}", position, f"out:{name}", outbox)

    async def adopted_offset(self, partitions: int) -> int:
        """Give the highest training offset of a version that was in force; 0 where none was."""
        stored = await self.redis.mget([f"model:{partition}" for partition in range(partitions)])
        found = (split_version(as_bytes(version).decode()) for version in stored if version)
        return max((parts[1] for parts in found if parts), default=0)

    async def entries(self, partition: int, packed: bytes) -> tuple[int, list[bytes | None]]:
        """Give the newest offset of an index (-1: none), and what stands at these places of it."""
        try:
            newest, *found = await self._entries(args=[partition, packed])
        except ResponseError as error:
            raise damaged(f"index:{partition} or w:{partition}:*", str(error)) from error
        return -1 if newest is None else int(newest), found

    async def known_ids(self, places: bytes) -> dict[int, bytes]:
        """Give the entries of those ids that were decided lately, by their number in a list."""
        return _pairs(await self._ids(args=[places]))

    async def read(
        self, additions: Mark | None, lessons: Mark | None, keys: Sequence[str], ids: bytes
    ) -> Answer:
        """Read what a batch needs, as of one moment.

        Parameters
        ----------
        additions, lessons
            Where the reader stands in the two logs; `None` before it has read any of them: then
            it is given all additions that rows may lack, and the end of the lessons.
        keys
            The rows that are asked for.
        ids
            The places of ids (`packed_places`).
        """
        words: list[Any] = [*map(_number, (additions, lessons)), ENTRIES_AT_ONCE, ids, *keys]
        try:
            found = await self._load(args=words)
        except ResponseError as error:
            if str(error).startswith(FOREIGN):
                raise _foreign(str(error)) from error
            raise damaged("additions, taught, shared or d:*", str(error)) from error
        newest, folded, offset, added, taught, names, rows, known, values = found
        # The trainer's position is `offset:step`.
        offset = stored_number("pos:training", as_bytes(offset).partition(b":")[0])
        newest, folded = stored_number("shared", newest), stored_number("shared", folded)
        logs = list(map(_entry, added)), list(map(_entry, taught))
        learned = dict(zip(names, rows, strict=True))
        return Answer(newest, folded, offset, *logs, learned, _pairs(known), values)

    async def begin_writing(self, writer: str, *, folded: int) -> bool:
        """Become the one who writes rows back, unless another is at it, or has just done it."""
        return bool(await self._write_back(args=["begin", writer, folded, WRITER_ENTRIES_MAX]))

    async def write_rows(
        self, writer: str, pairs: Sequence[str | bytes], *, steps: int, place: Mark
    ) -> bool:
        """Write some rows, after so many steps; `False` if another is at it by now.

        Or if the store was put back: it lacks one of the steps, or the place that the rows are of.
        """
        words: list[Any] = ["rows", writer, steps, place.number, place.by, *pairs]
        return bool(await self._write_back(args=words))

    async def end_writing(self, writer: str, *, steps: int, place: Mark) -> bool:
        """Say that all rows hold all additions up to a place, and forget most of those."""
        kept = max(place.number - ENTRIES_KEPT, 0)
        words: list[Any] = ["end", writer, steps, place.number, place.by, f"{kept}-0"]
        return bool(await self._write_back(args=words))

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """If the position is the expected one, store all and say so; else store nothing."""
        outbox = sealed(_outbox_key(name, stored.position), stored.outbox)
        words: list[str | int | bytes] = [expected or "", stored.position or "", outbox]
        assert all(change[0] != "IDS" for change in changes[1:]), "only the first may refuse"
        for change in changes:
            assert len(change) <= CHANGE_WORDS_MAX, change[0]
            words += (len(change), *change)
        try:
            result = await self._script(keys=[f"pos:{name}", f"out:{name}"], args=words)
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise UnknownResultError(str(error)) from error
        except ResponseError as error:
            raise await self._broken_off(name, str(error)) from error
        return bool(result)

    async def _broken_off(self, name: str, said: str) -> Exception:
        """Give the error of a commit that the script ended; what it had changed stays changed."""
        if said.startswith(FOREIGN):
            return _foreign(said)
        if "user_script" not in said:
            return CommitError(f"Redis refuses the commit of {name}: {said}")
        await self.redis.set(f"torn:{name}", said)
        return damaged(f"torn:{name}", f"a commit broke off halfway: {said}")
