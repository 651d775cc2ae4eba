"""Ids that were decided lately: a transaction that comes again is decided once.

An id is known by a hash, and beside it stands a hash of the transaction's content. The same id
with the same content is a duplicate, and nothing happens; with another content, or of another
card, one of the two is wrong, and the later becomes a dead letter (`duplicate_conflict`).

Both are remembered for `duplicate_days` of event time, counted from the stream's newest event when
the id was decided, so that a late event is remembered as long as any other. Beyond it an id is new
again. What is found depends on the order of events alone, never on a clock or on the batches.

    entry   newest event time of the stream, in seconds (4 bytes)   content (6 bytes)

>>> batch = Transactions(["t1", "t1", "t1"], np.array([5, 5, 5]), (["c1", "c1", "c2"],),
...     np.array([900, 900, 900]), ["EUR"] * 3, np.empty((3, 0), np.float32))
>>> found, _ = Sieve(window_ms=DAY_MS).sift(batch, digests_of(batch), {})
>>> found.fresh.tolist(), found.duplicates, found.conflicts.tolist()
([0], 1, [2])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.durations import DAY_MS
from pipeline.events import Problem, Transactions
from pipeline.schema import Schema
from pipeline.settings import Settings

# 64 bits of an id: among ten million ids, two of one hash are met once in four hundred thousand
# times. The content needs fewer, since it is only compared with that of the same id.
DIGEST_BYTES = 8
CONTENT_BYTES = 6
SECONDS_BYTES = 4
ENTRY_BYTES = SECONDS_BYTES + CONTENT_BYTES
# Between two fields that are hashed. No id may hold it, but a category may.
SEPARATOR = "\x1f"
# What has expired is removed when so large a part of the window has passed.
PRUNED_A_WINDOW = 16


@dataclass(frozen=True, slots=True)
class Sifted:
    """What a batch holds: rows that are new, how many come again, rows that contradict."""

    fresh: NDArray[np.int64]
    duplicates: int
    conflicts: NDArray[np.int64]


class RecentIds(Protocol):
    """Where ids are remembered: in memory for replay, in Redis for the worker."""

    def sift(self, batch: Transactions) -> Sifted:
        """Tell new events from those that come again, in their order, and remember the new."""
        ...


def digests_of(batch: Transactions) -> list[bytes]:
    """Give the hash of each event's id."""
    return [
        blake2b(key.encode(), digest_size=DIGEST_BYTES).digest() for key in batch.transaction_id
    ]


def contents_of(batch: Transactions) -> list[bytes]:
    """Give the hash of what was decoded of each event, but its id.

    What the present system and the issuer said stands beside an event: the first of it counts.
    """
    columns: list[Sequence[str]] = [
        list(map(str, batch.event_time_ms.tolist())),
        list(map(str, batch.amount_minor.tolist())),
        batch.currency,
        *batch.keys,
    ]
    texts = map(_joined, zip(*columns, strict=True))
    width = batch.numbers.shape[1] * batch.numbers.itemsize
    numbers = batch.numbers.tobytes()
    return [
        blake2b(
            text.encode() + numbers[row * width : (row + 1) * width], digest_size=CONTENT_BYTES
        ).digest()
        for row, text in enumerate(texts)
    ]


@dataclass(slots=True)
class Sieve:
    """The rule, and where it stands: `watermark_ms` is the newest event time decided."""

    window_ms: int
    watermark_ms: int = 0

    def sift(
        self, batch: Transactions, digests: Sequence[bytes], known: Mapping[bytes, bytes]
    ) -> tuple[Sifted, dict[bytes, bytes]]:
        """Tell new events from the others; gives what is to be remembered of the new as well."""
        contents = contents_of(batch)
        none = np.empty(0, np.int64)
        if len(set(digests)) == len(digests) and known.keys().isdisjoint(digests):
            newest = np.maximum(np.maximum.accumulate(batch.event_time_ms), self.watermark_ms)
            self.watermark_ms = int(newest[-1]) if len(newest) else self.watermark_ms
            seconds = (newest // 1000).astype("<u4").tobytes()
            entries = {
                digest: seconds[place : place + SECONDS_BYTES] + content
                for place, digest, content in zip(
                    range(0, len(seconds), SECONDS_BYTES), digests, contents, strict=True
                )
            }
            return Sifted(np.arange(len(batch)), 0, none), entries
        return self._sift_each(batch, digests, contents, known)

    def _sift_each(
        self,
        batch: Transactions,
        digests: Sequence[bytes],
        contents: Sequence[bytes],
        known: Mapping[bytes, bytes],
    ) -> tuple[Sifted, dict[bytes, bytes]]:
        """Look at one event after the other: the window moves with each that is new."""
        entries: dict[bytes, bytes] = {}
        fresh: list[int] = []
        conflicts: list[int] = []
        for row, time_ms in enumerate(batch.event_time_ms.tolist()):
            digest, content = digests[row], contents[row]
            entry = entries.get(digest) or known.get(digest)
            if entry is None or seconds_of(entry) < self.floor_seconds:
                self.watermark_ms = max(self.watermark_ms, time_ms)
                entries.pop(digest, None)
                entries[digest] = packed(self.watermark_ms // 1000, content)
                fresh.append(row)
            elif entry[SECONDS_BYTES:] != content:
                conflicts.append(row)
        duplicates = len(batch) - len(fresh) - len(conflicts)
        return Sifted(_rows(fresh), duplicates, _rows(conflicts)), entries

    @property
    def floor_seconds(self) -> int:
        """What was remembered before this has expired."""
        return (self.watermark_ms - self.window_ms) // 1000


def window_ms_of(settings: Settings) -> int:
    """Give how long an id is remembered, in milliseconds of event time."""
    return int(settings.duplicate_days * DAY_MS)


def packed(seconds: int, content: bytes) -> bytes:
    """Give the entry of an id."""
    return seconds.to_bytes(SECONDS_BYTES, "little") + content


def seconds_of(entry: bytes) -> int:
    """Give the stream's newest event time, in seconds, when an entry was made."""
    return int.from_bytes(entry[:SECONDS_BYTES], "little")


def conflict(schema: Schema) -> Problem:
    """Give what is wrong with an event whose id stands for another one."""
    return Problem(
        "duplicate_conflict",
        f"$.{schema.event_id}",
        "an id of its own",
        "the id of another transaction",
    )


def _joined(fields: Sequence[str]) -> str:
    """Join fields so that no others give the same text; the first is a number."""
    text = SEPARATOR.join(fields)
    if text.count(SEPARATOR) == len(fields) - 1:
        return text
    # No text of the plain form begins so.
    return SEPARATOR + "".join(f"{len(field)}:{field}" for field in fields)


def _rows(rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)
