"""Records of an input as a worker takes them: those of a partition at once, and one where needed.

Most records are decoded and forgotten. So a batch of them stays what the client gave, and an
`InputRecord` is made only of one that becomes a dead letter, waits or is looked at by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, overload

from consumers.dead_letters import Headers, InputRecord, redriven


class Fetched(Protocol):
    """A record as the client gives it."""

    @property
    def offset(self) -> int:
        """Its place."""

    @property
    def key(self) -> bytes | None:
        """Its key."""

    @property
    def value(self) -> bytes | None:
        """Its value."""

    @property
    def timestamp(self) -> int:
        """When it came, in milliseconds."""

    @property
    def headers(self) -> Headers:
        """Its headers."""


class InputRecords(Sequence[InputRecord]):
    """Records of one partition in their order."""

    def __init__(self, topic: str, partition: int, fetched: Sequence[Fetched]) -> None:
        self._topic, self._partition = topic, partition
        self.fetched = fetched

    def __len__(self) -> int:
        return len(self.fetched)

    @overload
    def __getitem__(self, place: int) -> InputRecord: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | slice) -> InputRecord | Self:
        if isinstance(place, slice):
            return type(self)(self._topic, self._partition, self.fetched[place])
        return self._record(self.fetched[place])

    def __iter__(self) -> Iterator[InputRecord]:
        return map(self._record, self.fetched)

    def _record(self, record: Fetched) -> InputRecord:
        return InputRecord(
            self._topic,
            self._partition,
            record.offset,
            record.key,
            record.value,
            timestamp_ms=record.timestamp,
            headers=tuple(record.headers),
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """What is looked at of every record; `redriven` is how many had been dead letters."""

    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: list[int] | list[int | None]
    redriven: int


def columns_of(records: Sequence[InputRecord]) -> Columns:
    """Give records as columns."""
    times: list[int] | list[int | None]
    given: Sequence[Fetched] | Sequence[InputRecord]
    if isinstance(records, InputRecords):
        given, times = records.fetched, [record.timestamp for record in records.fetched]
    else:
        given, times = records, [record.timestamp_ms for record in records]
    return Columns(
        offsets=[record.offset for record in given],
        keys=[record.key for record in given],
        values=[record.value for record in given],
        timestamps_ms=times,
        redriven=redriven(records) if any([record.headers for record in given]) else 0,
    )
