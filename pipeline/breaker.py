"""The breaker: where too much would be declined, declines become reviews.

A model gone wild, or a policy set wrong, declines far more than any real attack. So each partition
counts what its policy wants to decline, in a window that slides with event time by the minute. At
the event that takes the share of declines, or the money declined, beyond its bound the breaker
opens; it closes by itself at the event that finds both back under half their bounds. Both need
`breaker_events_min` events in the window, save that money alone may open it at once.

What a list decided is a human's word: it is neither counted nor changed. The window counts what the
policy wants whether the breaker is open or not, so an open breaker cannot close itself. It goes by
event time and the order of the log alone, so batches of any size, a replay and a restart give the
same; its state is part of the scorer's commit.

>>> from pipeline.settings import Settings
>>> breaker = Breaker(Settings(breaker_decline_share_max=0.5, breaker_events_min=4))
>>> minutes, amounts = np.arange(6) * 60_000, np.full(6, 100)
>>> breaker.reviews(minutes, amounts, np.array([0, 0, 1, 1, 1, 1], bool), np.ones(6, bool))
array([False, False, False, False,  True,  True])
>>> breaker.is_open
True
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.settings import Settings

MINUTE_MS = 60_000
# Columns of a minute, and of their sums.
EVENTS, DECLINES, AMOUNT = range(3)
# The state before its minutes: whether it is open, and the newest minute.
OPEN, CLOCK = range(2)
# At an open breaker's half bound it closes.
CLOSING_SHARE = 0.5
MARK_BYTES = 8


class Breaker:
    """The breaker of one partition; with both bounds at 0 it does nothing."""

    def __init__(self, settings: Settings) -> None:
        self._share_max = settings.breaker_decline_share_max
        self._amount_max = settings.breaker_amount_minor_max
        self._events_min = settings.breaker_events_min
        self._minutes = settings.breaker_window_minutes
        self.is_on = self._share_max > 0.0 or self._amount_max > 0.0
        bounds = (self._share_max, self._amount_max, self._events_min, self._minutes)
        # State that was counted for other bounds is begun anew.
        self._mark = hashlib.sha256(repr(bounds).encode()).digest()[:MARK_BYTES]
        self.load(b"")

    @property
    def is_open(self) -> bool:
        """Whether declines become reviews now."""
        return bool(self._head[OPEN])

    def reviews(
        self,
        event_time_ms: NDArray[np.int64],
        amount_minor: NDArray[np.int64],
        declines: NDArray[np.bool_],
        counts: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Take events in the order of their log; say which declines become reviews.

        `declines` are those that the policy wants, `counts` those that no list decided.
        """
        reviewed = np.zeros(len(declines), np.bool_)
        if self.is_on:
            _step(
                event_time_ms // MINUTE_MS, amount_minor, declines, counts, self._ring, self._head,
                (self._share_max, float(self._amount_max)), self._events_min, reviewed,
            )  # fmt: skip
        return reviewed

    def state(self) -> bytes:
        """Give what must be kept beside the position that it was counted to."""
        return self._mark + self._head.tobytes() + self._ring.tobytes()

    def load(self, state: bytes) -> None:
        """Go on from what was kept; from nothing where that was nothing, or of other bounds."""
        self._head = np.zeros(2, np.int64)
        self._ring = np.zeros((self._minutes, 3), np.int64)
        if state[:MARK_BYTES] == self._mark:
            numbers = np.frombuffer(state[MARK_BYTES:], np.int64)
            self._head[:] = numbers[:2]
            self._ring[:] = numbers[2:].reshape(self._ring.shape)


@kernel
def _step(
    minutes: NDArray[np.int64],
    amounts: NDArray[np.int64],
    declines: NDArray[np.bool_],
    counts: NDArray[np.bool_],
    ring: NDArray[np.int64],
    head: NDArray[np.int64],
    bounds: tuple[float, float],
    events_min: int,
    reviewed: NDArray[np.bool_],
) -> None:
    """Count events and say which declines become reviews; a minute's slot is its number's rest."""
    size = len(ring)
    share_max, amount_max = bounds
    sums = ring.sum(axis=0)
    for row in range(len(minutes)):
        minute = minutes[row]
        if not counts[row]:
            continue
        if minute > head[CLOCK]:
            for gone in range(max(head[CLOCK], minute - size) + 1, minute + 1):
                sums -= ring[gone % size]
                ring[gone % size] = 0
            head[CLOCK] = minute
        # What comes later than the window is long counts nowhere.
        if minute > head[CLOCK] - size:
            slot = minute % size
            ring[slot, EVENTS] += 1
            sums[EVENTS] += 1
            if declines[row]:
                ring[slot, DECLINES] += 1
                sums[DECLINES] += 1
                ring[slot, AMOUNT] += amounts[row]
                sums[AMOUNT] += amounts[row]
        is_enough = sums[EVENTS] >= events_min
        if head[OPEN]:
            share_is_low = (
                share_max == 0.0 or sums[DECLINES] <= CLOSING_SHARE * share_max * sums[EVENTS]
            )
            amount_is_low = amount_max == 0.0 or sums[AMOUNT] <= CLOSING_SHARE * amount_max
            if is_enough and share_is_low and amount_is_low:
                head[OPEN] = 0
        elif (share_max > 0.0 and is_enough and sums[DECLINES] > share_max * sums[EVENTS]) or (
            amount_max > 0.0 and sums[AMOUNT] > amount_max
        ):
            head[OPEN] = 1
        if head[OPEN] and declines[row]:
            reviewed[row] = True
