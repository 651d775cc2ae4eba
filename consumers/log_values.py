"""Offset and value of recorded messages, without all else that a client makes of each.

A consumer whose `value_deserializer` is a `Wanted` gives pairs of offset and value, and of those
what is wanted: a record that is passed over costs a third of a microsecond, a batch of them hardly
more (`consumers/envelope_fetches.py` tells the client).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException

Found = tuple[int, bytes]
"""A record's offset, and its value."""


class Wanted:
    """Which records are wanted of those that are fetched next: all at first.

    >>> wanted = Wanted()
    >>> wanted.only([5, 9])
    >>> wanted.nothing_of(0, 5), wanted.nothing_of(6, 9), wanted.nothing_of(6, 10)
    (True, True, False)
    """

    def __init__(self) -> None:
        self._sorted: Sequence[int] = ()
        self.offsets: frozenset[int] | None = None
        self.last = -1

    def __call__(self, value: bytes) -> bytes:
        """Give a value as it is."""
        return value

    def all(self) -> None:
        """Let all be wanted."""
        self._sorted, self.offsets, self.last = (), None, -1

    def only(self, offsets: Sequence[int]) -> None:
        """Let only these offsets be wanted, which ascend, and whatever lies behind them.

        So a reader never waits for an offset that its log does not have.
        """
        self._sorted, self.offsets, self.last = offsets, frozenset(offsets), offsets[-1]

    def nothing_of(self, first: int, end: int) -> bool:
        """Say whether no record is wanted from offset `first` on and before `end`."""
        at = bisect_left(self._sorted, first)
        return at < len(self._sorted) and self._sorted[at] >= end


def values(place: TopicPartition, records: Any, wanted: Wanted) -> Iterator[Found]:
    """Give what is wanted of the records that were fetched of a partition.

    `records` are the client's own: as the client does, they are told where the next fetch begins.
    """
    fetched = records._records  # noqa: SLF001 - there is no other door
    while fetched.has_next():
        batch, first = fetched.next_batch(), records.next_fetch_offset
        if not (batch.is_control_batch or wanted.nothing_of(first, batch.next_offset)):
            if not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {place}")
            offsets, last = wanted.offsets, wanted.last
            for record in batch:
                offset = record.offset
                if offset >= first and (offsets is None or offset in offsets or offset > last):
                    records.next_fetch_offset = offset + 1
                    yield offset, record.value
                    # Whoever took it may want others by now.
                    offsets, last = wanted.offsets, wanted.last
        records.next_fetch_offset = batch.next_offset
