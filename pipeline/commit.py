"""The fenced batch commit: state, input position and output move together, or not at all.

Each input (a partition of a topic, for one purpose) has a position and an outbox in the store. Its
owner sees it in one of three states:

    LOST       nothing is sure: at the start, after a refusal, after any failure
    SETTLED    the position is known, and its outbox is published, by this owner himself
    SENDING    the position is known, and its outbox is on its way

1. Take over, from any state: at the start, after an assignment, after a refusal.
   1.1 Wait for what this owner sent himself, lest it land behind what follows.
   1.2 Read position and outbox in one command.
   1.3 Publish that outbox, and wait until it is acknowledged (Rule R). SETTLED.
   1.4 The caller forgets what it cached and reads on at the position. One that the log does not
       hold ends it (`resume_at`): never "the earliest".
2. Compute, which is the caller's: from the state and the input, what to change and to publish.
3. Wait until the outbox before is acknowledged (Rule R). SETTLED.
4. Commit: in one atomic step, if the position is still the one that was computed from, the changes,
   the new position and the outbox are stored; else nothing is.
   4.1 It was done: go on with 5.
   4.2 It was refused: somebody else was here. LOST; take over (1).
   4.3 There was no answer: read again. It was done if our own outbox stands there; else it is sent
       again, which is refused where somebody else has moved on.
5. Hand the outbox to the publisher. SENDING; on with 2, which overlaps the publication.
6. Whoever has nothing to do looks now and then whether the position is still his (`is_current`). A
   commit of an owner before him may have been on its way, and land after he took over: its outbox
   would else wait until there is something to do. Where it has moved, he takes over (1).

Rule R: nobody commits from a position unless he has himself published the outbox that belongs to
it. Without 1.3 or 3, an owner who dies between 4 and the end of 5, and a zombie that steps on from
his position, would overwrite what was never published.

A crash before 4 loses nothing, since nothing happened. From 4 to the end of 5 the next owner
publishes the outbox. After that there are at most duplicates, identical byte for byte, since what
was decided was fixed at 4.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import lz4.frame
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

    async def position(self, name: str) -> str | None:
        """Read an input's position alone."""

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """If the position is the expected one, store all and say so; else store nothing."""


class UnknownResultError(Exception):
    """The store did not answer: whether the commit happened is not known."""


Publish = Callable[[Sequence[OutboxRecord]], Awaitable[Awaitable[Sequence[int]]]]
"""Hands records over, in their order. What it gives then waits until all of them are acknowledged,
and gives the offset of each."""

# From this size on an outbox is compressed: decisions are a third of their size then, and what a
# commit costs the store is for the most part the bytes that it must write.
COMPRESSED_FROM = 4096
# Of the fast levels, which are negative, the one that costs least in all (docs/decisions/0061).
LZ4_LEVEL = -4
# No msgpack array begins with these.
LZ4_MARK = b"\x04\x22\x4d\x18"

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Outbox)


def resume_at(place: str, position: int | None, *, first: int, end: int) -> int:
    """Give the offset to read on from; one that the log does not hold is never passed over.

    Parameters
    ----------
    place
        Names the log in the error, such as `transactions[3]`.
    position
        Where the store stands; `None` before the first commit, which begins at the first record.
    first, end
        The first offset that the log holds, and the one after its last.

    Raises
    ------
    CommitError
        Where records between the position and the log are missing: retention has deleted what was
        not read yet, the topic was made anew, or the store belongs to another cluster.
    """
    if position is None:
        return first
    if not first <= position <= end:
        raise CommitError(
            f"{place} holds offsets {first} to {end}, but the store stands at {position}: input "
            "was lost, the topic was made anew, or this is another cluster's store"
        )
    return position


class State(Enum):
    """What an owner knows of an input."""

    LOST = auto()
    SETTLED = auto()
    SENDING = auto()


class Input:
    """One input's side of the protocol: `recover` first, then `commit` after `commit`.

    A caller that has something to compute while its last outbox is published calls `begin` instead
    of `commit`. One task at a time may call.

    Parameters
    ----------
    name
        Names the input in the store, such as `transactions:3`.
    owner
        Different for every process that ever lives, so that an outbox can be told from another's.

    Attributes
    ----------
    position
        Where this owner stands; `None` before the first commit.
    landed
        The outbox that was published last, each record with the offset that it has in its
        partition. By Rule R whoever steps on from a position knows it, so the next commit may
        store where the records of this one can be read: wait for `published` first.
    """

    # Of all inputs of a process, some of which may have a name that others had before them.
    _commits = itertools.count()

    def __init__(self, store: Store, publish: Publish, *, name: str, owner: str) -> None:
        self._store, self._publish = store, publish
        self._name, self._owner = name, owner
        self._state = State.LOST
        self._sent: Sequence[OutboxRecord] = []
        self._acknowledged: Awaitable[Sequence[int]] | None = None
        self.position: str | None = None
        self.landed: list[tuple[OutboxRecord, int]] = []
        self.refused = 0

    async def recover(self) -> str | None:
        """Take over where the store stands (step 1), and give the position."""
        # 1.1
        await self.published()
        self._state = State.LOST
        # 1.2
        stored = await self._store.load(self._name)
        # 1.3
        try:
            records = decode_outbox(stored.outbox)
        except CommitError as error:
            raise CommitError(f"outbox of {self._name} is damaged: {error}") from error
        await self._send(records)
        await self.published()
        self.position = stored.position
        return self.position

    async def published(self) -> list[tuple[OutboxRecord, int]]:
        """Wait until the last outbox is acknowledged (step 3), and give where it landed."""
        if self._state is State.SENDING and self._acknowledged is not None:
            self._state = State.LOST
            offsets = await self._acknowledged
            self.landed = list(zip(self._sent, offsets, strict=True))
            self._state = State.SETTLED
        return self.landed

    async def commit(
        self, position: str, records: Sequence[OutboxRecord], changes: Sequence[Change]
    ) -> bool:
        """Take one step, published as well; `False` if it was refused, as `begin` says."""
        if not await self.begin(position, records, changes):
            return False
        await self.published()
        return True

    async def begin(
        self, position: str, records: Sequence[OutboxRecord], changes: Sequence[Change]
    ) -> bool:
        """Take one step (3 to 5), whose outbox is then on its way.

        `False` if it was refused: then this owner has taken over anew, and the caller must forget
        whatever it cached.
        """
        assert position != self.position, "a step that moves nothing would not be fenced"
        # 3
        await self.published()
        assert self._state is State.SETTLED, "whoever is lost takes over before he steps on"
        outbox = Outbox(f"{self._owner}:{next(self._commits)}", list(records))
        self._state = State.LOST
        # 4
        if not await self._committed(Stored(position, encode_outbox(outbox)), changes):
            # 4.2
            self.refused += 1
            await self.recover()
            return False
        # 4.1
        self.position = position
        # 5
        await self._send(outbox.records)
        return True

    async def is_current(self) -> bool:
        """Look whether the position is still this owner's (step 6).

        `False` if it has moved: then this owner has taken over anew, as after a refusal.
        """
        await self.published()
        # 6
        if await self._store.position(self._name) == self.position:
            return True
        await self.recover()
        return False

    async def _send(self, records: Sequence[OutboxRecord]) -> None:
        self._acknowledged = await self._publish(records)
        self._sent, self._state = records, State.SENDING

    async def _committed(self, stored: Stored, changes: Sequence[Change]) -> bool:
        """Commit until it is known whether it was done (step 4)."""
        while True:
            try:
                if await self._store.commit(self._name, self.position, stored, changes):
                    return True
                is_refused = True
            except UnknownResultError:
                is_refused = False
            # 4.3, also where it was refused: perhaps by its own first success.
            found = await self._store.load(self._name)
            if found == stored:
                return True
            if is_refused:
                return False


def encode_outbox(outbox: Outbox) -> bytes:
    """Give an outbox as the store holds it."""
    plain = _ENCODER.encode(outbox)
    if len(plain) < COMPRESSED_FROM:
        return plain
    compressed: bytes = lz4.frame.compress(
        plain, compression_level=LZ4_LEVEL, block_linked=False, store_size=False
    )
    return compressed


def decode_outbox(outbox: bytes) -> list[OutboxRecord]:
    """Give the records of an outbox as the store holds it; `CommitError` if it is damaged."""
    if not outbox:
        return []
    try:
        return _DECODER.decode(_plain(outbox)).records
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommitError(str(error)) from error


def _plain(outbox: bytes) -> bytes:
    if not outbox.startswith(LZ4_MARK):
        return outbox
    try:
        plain, read = lz4.frame.decompress(outbox, return_bytes_read=True)
    except RuntimeError as error:
        raise CommitError(str(error)) from error
    if read != len(outbox):
        raise CommitError(f"{len(outbox) - read} bytes stand behind its end")
    whole: bytes = plain
    return whole
