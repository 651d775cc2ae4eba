"""Ids of the worker: looked up for a batch before it is decided, taken by its commit.

All partitions share them, since an id that stands for a transaction of one card may not stand for
another card's. The look-up goes with the load of the profiles. The commit takes the ids if nobody
has taken them since; else it is refused, and the batch is looked up and decided anew
(`COMMIT_SCRIPT` in `redis_scripts.py`). What has expired is swept with the commits, once every
partition has left it behind.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.commit import Change
from pipeline.events import Transactions
from pipeline.recent_ids import (
    DIGEST_BYTES,
    ENTRY_BYTES,
    Sieve,
    Sifted,
    digests_of,
    window_ms_of,
)
from pipeline.settings import Settings

NO_ENTRY = bytes(ENTRY_BYTES)
# The two digits of each byte.
_DIGITS = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)


class RedisIds:
    """The ids of one batch of a partition."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sieve = Sieve(window_ms_of(settings))
        self._digests: list[bytes] = []
        self._known: dict[bytes, bytes] = {}
        self._entries: dict[bytes, bytes] = {}

    def ask(self, batch: Transactions, *, watermark_ms: int) -> bytes:
        """Give what a batch's look-up asks; `watermark_ms` is the partition's newest event time."""
        self._sieve.watermark_ms = watermark_ms
        self._entries = {}
        self._digests = digests_of(batch)
        return packed_places(self._digests)

    def answer(self, known: Mapping[int, bytes]) -> None:
        """Take what was found: entries by the number of the event."""
        self._known = {self._digests[number]: entry for number, entry in known.items()}

    def sift(self, batch: Transactions) -> Sifted:
        """Tell the new events of the batch that was looked up from those that come again."""
        found, self._entries = self._sieve.sift(batch, self._digests, self._known)
        return found

    def changes(self) -> list[Change]:
        """Give what the commit must take; it stands before all other changes."""
        if not self._entries:
            return []
        digests = list(self._entries)
        columns = [packed_places(digests), b"".join(self._entries.values())]
        columns.append(b"".join(self._known.get(digest, NO_ENTRY) for digest in digests))
        packed = np.hstack([_as_rows(column, len(digests)) for column in columns]).tobytes()
        partitions, limit = self._settings.partitions, self._settings.duplicate_ids_max
        return [("IDS", packed, partitions, self._sieve.window_ms, limit)]


def packed_places(digests: Sequence[bytes]) -> bytes:
    """Give where ids are looked for: of each the bucket as four digits, and the field in it."""
    found = _as_rows(b"".join(digests), len(digests)).reshape(-1, DIGEST_BYTES)
    return np.hstack([_DIGITS[found[:, 0]], _DIGITS[found[:, 1]], found[:, 2:]]).tobytes()


def _as_rows(column: bytes, count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    return np.frombuffer(column, np.uint8).reshape(count, len(column) // max(count, 1))
