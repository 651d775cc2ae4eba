"""The fenced batch commit: state, input position and output move together, or not at all.

Each input (a partition of a topic, for one purpose) has a position and an outbox in the store.

1. Compute: from the state and the input, what to change and what to publish.
2. Commit: in one atomic step, if the position is still the one that was computed from, the changes,
   the new position and the outbox are stored; else nothing is, and the commit is refused.
3. Publish the outbox, and wait until it is acknowledged. Then the next batch.

Rule R: nobody commits from a position unless he has himself published the outbox that belongs to
it. So after an assignment or a refusal, position and outbox are read in one command, and that
outbox is published before anything else. Without it, an owner who dies between 2 and 3 and a
zombie that steps on from his position would overwrite what he never published.

A crash before 2 loses nothing, since nothing happened. Between 2 and 3 the next owner publishes
the outbox. After 3 there are at most duplicates, identical byte for byte, since what was decided
was fixed at 2.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pipeline.errors import CommitError

Change = tuple[str | int | bytes, ...]
"""One change of the store: a command and its arguments."""


class OutboxRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record to be published, with its place; headers are pairs of name and bytes."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = []


class Outbox(msgspec.Struct, frozen=True, array_like=True):
    """What a commit publishes; `id` says whose commit it was."""

    id: str
    records: list[OutboxRecord]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds for an input; `None` and no bytes before the first commit."""

    position: str | None
    outbox: bytes


class Store(Protocol):
    """Where positions, outboxes and state are kept."""

    async def load(self, name: str) -> Stored:
        """Read an input's position and outbox in one command."""

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """If the position is the expected one, store all and say so; else store nothing."""


class UnknownResultError(Exception):
    """The store did not answer: whether the commit happened is not known."""


Publish = Callable[[Sequence[OutboxRecord]], Awaitable[Sequence[int]]]
"""Publishes records, waits until all are acknowledged, and gives the offset of each."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Outbox)


class Input:
    """One input's side of the protocol; its owner calls `recover` first, then `commit`.

    Parameters
    ----------
    name
        Names the input in the store, such as `transactions:3`.
    owner
        Different for every process that ever lives, so that an outbox can be told from another's.

    Attributes
    ----------
    landed
        The outbox that belongs to the position, each record with the offset that it has in its
        partition. By Rule R whoever steps on from a position knows it, so the next commit may
        store where the records of this one can be read.
    """

    def __init__(self, store: Store, publish: Publish, *, name: str, owner: str) -> None:
        self._store, self._publish = store, publish
        self._name, self._owner = name, owner
        self._commits = itertools.count()
        self.position: str | None = None
        self.landed: list[tuple[OutboxRecord, int]] = []
        self.refused = 0

    async def recover(self) -> str | None:
        """Take over where the store stands (Rule R), and give the position."""
        stored = await self._store.load(self._name)
        await self._publish_outbox(self._decoded(stored.outbox))
        self.position = stored.position
        return self.position

    async def commit(
        self, position: str, records: Sequence[OutboxRecord], changes: Sequence[Change]
    ) -> bool:
        """Take one step; `False` if it was refused: then whatever was cached must be forgotten."""
        assert position != self.position, "a step that moves nothing would not be fenced"
        outbox = Outbox(f"{self._owner}:{next(self._commits)}", list(records))
        stored = Stored(position, _ENCODER.encode(outbox))
        # Step 2. Commit.
        if not await self._committed(stored, changes):
            self.refused += 1
            await self.recover()
            return False
        # Step 3. Publish.
        await self._publish_outbox(outbox.records)
        self.position = position
        return True

    async def _publish_outbox(self, records: list[OutboxRecord]) -> None:
        offsets = await self._publish(records)
        self.landed = list(zip(records, offsets, strict=True))

    async def _committed(self, stored: Stored, changes: Sequence[Change]) -> bool:
        while True:
            try:
                if await self._store.commit(self._name, self.position, stored, changes):
                    return True
                is_refused = True
            except UnknownResultError:
                is_refused = False
            # It happened if, and only if, the store holds our own outbox.
            found = await self._store.load(self._name)
            if found == stored:
                return True
            if is_refused or found.position != self.position:
                return False
            # It did not happen, and nobody else was there: the same commit is as good as new.

    def _decoded(self, outbox: bytes) -> list[OutboxRecord]:
        if not outbox:
            return []
        try:
            return _DECODER.decode(outbox).records
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CommitError(f"outbox of {self._name} is damaged: {error}") from error
