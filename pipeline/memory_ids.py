"""Recent ids in memory, for a replay: the rule of `Sieve` (`recent_ids.py`), over columns.

An id that is a whole number is known by itself, any other by 63 bits of its hash; of the content 64
bits are kept. An id takes 24 bytes, and 8 to 16 of the table that finds it.

>>> ids = MemoryIds(Settings())
>>> batch = Transactions(["t1", "t1", "t1"], np.array([5, 5, 5]), (["c1", "c1", "c2"],),
...     np.array([900, 900, 900]), ["EUR"] * 3, np.empty((3, 0), np.float32))
>>> found = ids.sift(batch)
>>> found.fresh.tolist(), found.duplicates, found.conflicts.tolist()
([0], 1, [2])
"""

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.events import Transactions
from pipeline.key_table import KEY, Entries, KeyTable, Places, hashes_of, keys_of, place_of, spread
from pipeline.recent_ids import PRUNED_A_WINDOW, Sifted, window_ms_of
from pipeline.settings import Settings

# What an entry holds beside its key.
SECONDS, CONTENT, WIDTH = range(1, 4)
FRESH, DUPLICATE, CONFLICT = range(3)
SECOND_MS = 1_000


class MemoryIds:
    """Ids in memory. At `duplicate_ids_max` the oldest go; `dropped` says how many."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.duplicate_ids_max
        self._window_ms = window_ms_of(settings)
        # In the order of their seconds, since the newest event time never falls.
        self._known = KeyTable(WIDTH)
        self._watermark_ms = self._pruned_seconds = self._replaced = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._known) - self._replaced

    def sift(self, batch: Transactions) -> Sifted:
        """Tell new events from those that come again, in their order, and remember the new."""
        known = self._known
        known.make_room(len(batch))
        verdicts = np.empty(len(batch), np.int8)
        self._watermark_ms, known.end, replaced = _sift(
            keys_of(batch.transaction_id), contents_of(batch), batch.event_time_ms,
            self._window_ms, self._watermark_ms, known.first, known.end, known.entries,
            known.places, verdicts,
        )  # fmt: skip
        self._replaced += replaced
        self._prune()
        counts = np.bincount(verdicts, minlength=CONFLICT + 1)
        return Sifted(
            np.flatnonzero(verdicts == FRESH),
            int(counts[DUPLICATE]),
            np.flatnonzero(verdicts == CONFLICT),
        )

    def _prune(self) -> None:
        known, floor = self._known, (self._watermark_ms - self._window_ms) // SECOND_MS
        is_due = floor >= self._pruned_seconds + self._window_ms // SECOND_MS // PRUNED_A_WINDOW
        most = self._limit * (1 + 1 / PRUNED_A_WINDOW)
        if is_due or len(self) > most:
            self._pruned_seconds = floor
            seconds = known.entries[known.first : known.end, SECONDS]
            # What was replaced had expired, and goes with all that has.
            known.forget(int(np.searchsorted(seconds, floor)))
            self._replaced = 0
            if len(known) > most:
                self.dropped += len(known) - self._limit
                known.forget(len(known) - self._limit)


def contents_of(batch: Transactions) -> NDArray[np.int64]:
    """Give a hash of what was decoded of each event, but its id, as `recent_ids.contents_of`."""
    contents = np.zeros(len(batch), np.int64)
    _mix(batch.event_time_ms, contents)
    _mix(batch.amount_minor, contents)
    for texts in (batch.currency, *batch.keys):
        _mix(hashes_of(texts), contents)
    for column in np.ascontiguousarray(batch.numbers.T).view(np.int32):
        _mix(column.astype(np.int64), contents)
    return contents


@kernel
def _mix(column: NDArray[np.int64], contents: NDArray[np.int64]) -> None:
    for row in range(len(contents)):
        contents[row] = spread(contents[row] ^ spread(column[row])) + 1


@kernel
def _sift(
    keys: NDArray[np.int64],
    contents: NDArray[np.int64],
    times: NDArray[np.int64],
    window_ms: int,
    watermark_ms: int,
    first: int,
    end: int,
    entries: Entries,
    places: Places,
    verdicts: NDArray[np.int8],
) -> tuple[int, int, int]:
    """Look at one event after the other: the window moves with each that is new."""
    replaced = 0
    for row in range(len(keys)):
        place = place_of(keys[row], entries, places)
        known = places[place] - 1
        floor = (watermark_ms - window_ms) // SECOND_MS
        if known >= first and entries[known, SECONDS] >= floor:
            same = entries[known, CONTENT] == contents[row]
            verdicts[row] = DUPLICATE if same else CONFLICT
            continue
        # The older entry of this id expires first, and the newer is the one that is found.
        replaced += known >= first
        watermark_ms = max(watermark_ms, times[row])
        entries[end, KEY] = keys[row]
        entries[end, SECONDS] = watermark_ms // SECOND_MS
        entries[end, CONTENT] = contents[row]
        places[place] = end + 1
        end += 1
        verdicts[row] = FRESH
    return watermark_ms, end, replaced
