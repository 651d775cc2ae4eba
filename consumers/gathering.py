"""When the broker gathers records before it answers a fetch, and for how long.

A fetch costs the same for one record as for hundreds, in the broker and here, and so does a batch.
Where fetches would follow each other at once, the broker is asked to wait for more. Where little
comes, it answers with the first record.
"""

from dataclasses import dataclass
from typing import Final

# It answers with so much, or once it has gathered for long enough.
GATHERED_BYTES: Final = 64 * 1024
# With fewer records in a fetch, gathering is not worth the wait.
GATHERED_MIN: Final = 4
# Where nothing comes, a fetch waits so long for the first record.
IDLE_SECONDS: Final = 0.5


@dataclass(slots=True)
class Gathering:
    """Looks at each fetch and says how the next is asked for.

    >>> gathering = Gathering(seconds=0.010)
    >>> [gathering.after(records=1, now=now) for now in (5.0, 5.1, 5.102)]
    [(1, 500), (1, 500), (65536, 10)]
    >>> gathering.after(records=9, now=5.112), gathering.after(records=2, now=5.122)
    ((65536, 10), (1, 500))
    """

    seconds: float
    is_on: bool = False
    fetched_at: float = 0.0

    def after(self, *, records: int, now: float) -> tuple[int, int]:
        """Give the fewest bytes, and the longest wait in ms, after so many records at a moment."""
        is_dense = now - self.fetched_at < self.seconds / 2
        self.is_on = records >= GATHERED_MIN if self.is_on else is_dense
        self.fetched_at = now
        wait = self.seconds if self.is_on else IDLE_SECONDS
        return GATHERED_BYTES if self.is_on else 1, round(1_000 * wait)
