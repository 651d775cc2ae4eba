"""When a label that knows no decision waits in its log rather than in the store.

A label cannot speak of what has not been decided, so where decisions lag behind, as after a stop,
labels overtake them. Each would be kept in the store, asked for again and again, and taken out. So
while the decisions of its partition go on, and have not come to the time of the label, it waits in
its log with all that lies behind it. It is read all the same once the decisions stand still, or
when it has waited for long: its decision may never come, and others must not wait for that.
"""

import time
from collections.abc import Callable

# Whoever decides commits several times a second.
STILL_SECONDS = 2.0
# A clock that is ahead, or a decision that never comes, holds up labels no longer.
HELD_SECONDS_MAX = 10.0


class Patience:
    """What is known of how far the decisions of a partition have come, and of the label that waits.

    >>> patience = Patience(clock=lambda: 7.0)
    >>> patience.see(1_000)
    >>> patience.holds(5, 1_000), patience.holds(5, 1_001), patience.holds(5, 1_001)
    (False, True, True)
    >>> patience.has_waited_for_nothing(5, 1_000), patience.has_waited_for_nothing(5, 1_500)
    (True, False)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._indexed_ms = 0
        self._moved_at = clock()
        self._held: tuple[int, float] | None = None
        self._is_over = False

    def see(self, indexed_ms: int) -> None:
        """Take note of the time that the decisions in the index have come to."""
        if indexed_ms != self._indexed_ms:
            self._indexed_ms, self._moved_at = indexed_ms, self._clock()
        self._is_over = self._clock() - self._moved_at > STILL_SECONDS

    def holds(self, offset: int, label_time_ms: int) -> bool:
        """Say whether the label at an offset, which knows no decision, waits for more of them."""
        if self._is_over or label_time_ms <= self._indexed_ms:
            return False
        now = self._clock()
        if self._held is None or self._held[0] != offset:
            self._held = offset, now
        # Once it has waited for too long, those behind it need not wait as long again.
        self._is_over = now - self._held[1] > HELD_SECONDS_MAX
        return not self._is_over

    def has_waited_for_nothing(self, offset: int, indexed_ms: int) -> bool:
        """Say whether the label at an offset waits, and nothing was decided since it was looked at.

        So it need not be looked at again.
        """
        if self._held is None or self._held[0] != offset or indexed_ms != self._indexed_ms:
            return False
        now = self._clock()
        is_still = now - self._moved_at > STILL_SECONDS
        return not is_still and now - self._held[1] <= HELD_SECONDS_MAX
