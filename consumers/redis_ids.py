"""Ids of the worker: looked up for a batch before it is decided, taken by its commit.

All partitions share them, since an id that stands for a transaction of one card may not stand for
another card's. The commit takes the ids if nobody has taken them since they were looked up; else
it is refused, and the batch is looked up and decided anew (`COMMIT_SCRIPT` in `redis_store.py`).
What has expired is swept with the commits, once every partition has left it behind.
"""

from consumers.redis_store import RedisStore
from pipeline.commit import Change
from pipeline.events import Transactions
from pipeline.recent_ids import ENTRY_BYTES, Sieve, Sifted, digests_of, window_ms_of
from pipeline.settings import Settings

NO_ENTRY = bytes(ENTRY_BYTES)


class RedisIds:
    """The ids of one batch of a partition."""

    def __init__(self, store: RedisStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._sieve = Sieve(window_ms_of(settings))
        self._digests: list[bytes] = []
        self._known: dict[bytes, bytes] = {}
        self._entries: dict[bytes, bytes] = {}

    async def load(self, batch: Transactions, *, watermark_ms: int) -> None:
        """Look up a batch's ids; `watermark_ms` is the newest event time of the partition."""
        self._sieve.watermark_ms = watermark_ms
        self._entries = {}
        self._digests = digests_of(batch)
        self._known = await self._store.known_ids(self._digests) if self._digests else {}

    def sift(self, batch: Transactions) -> Sifted:
        """Tell the new events of the batch that `load` was given from those that come again."""
        found, self._entries = self._sieve.sift(batch, self._digests, self._known)
        return found

    def changes(self) -> list[Change]:
        """Give what the commit must take; it stands before all other changes."""
        if not self._entries:
            return []
        packed = b"".join(
            digest + entry + self._known.get(digest, NO_ENTRY)
            for digest, entry in self._entries.items()
        )
        partitions, limit = self._settings.partitions, self._settings.duplicate_ids_max
        return [("IDS", packed, partitions, self._sieve.window_ms, limit)]
