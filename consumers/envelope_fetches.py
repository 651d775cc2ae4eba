"""The envelopes of a worker's fetches: aiokafka's batches, read with care (`envelope.py`).

And a fetch ends with the batch that makes it so many bytes; the rest comes with the next one. What
is read of inputs is the client's plain records, as a list: one object more for each record, and a
step of Python for each, would cost more than to read it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from consumers.envelope import Careful, guard_logs, moment_of
from consumers.log_values import Wanted, values
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS

# What others write, as the Kafka calls it that this process reads.
_guarded = {TRANSACTIONS, FEEDBACK, OUTCOMES}
# A batch that expands to more is read here.
EXPANDED_BYTES_MAX = 1024 * 1024
# No codec of a topic that compresses with lz4 expands further.
LZ4_EXPANSION_MAX = 255
# Of one partition, a fetch hands over no more than this and a batch.
FETCHED_BYTES_MAX = 16 * 1024 * 1024


class _CarefulBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch of aiokafka, read with care."""

    def _read_msg(self, *_: Any) -> Any:
        time, offset, key, value, headers, end = Careful(self).read()[1:]
        moment, kind = moment_of(self, time), self.timestamp_type
        self._pos = end
        return _DefaultRecordPy(self.base_offset + offset, moment, kind, key, value, headers)


class _GuardedBatch:
    """A batch of aiokafka's compiled reader, unless that cannot read it or it expands too far.

    `taken` is told how many bytes its records have.
    """

    def __init__(self, batch: Any, raw: memoryview, taken: Callable[[int], None]) -> None:
        self._batch, self._raw, self._taken = batch, raw, taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        if not self._expands_far():
            # What is damaged is damaged for the careful reader as well.
            with suppress(UnicodeDecodeError, CorruptRecordException):
                records = list(self._batch)
                self._taken(sum(map(_size, records)))
                return iter(records)
        return self._with_care()

    def _with_care(self) -> Iterator[Any]:
        for record in _CarefulBatch(self._raw):
            self._taken(_size(record))
            yield record

    def _expands_far(self) -> bool:
        if not self._batch.compression_type:
            return len(self._raw) > EXPANDED_BYTES_MAX
        if len(self._raw) * LZ4_EXPANSION_MAX <= EXPANDED_BYTES_MAX:
            return False
        batch = _CarefulBatch(self._raw)
        batch._maybe_uncompress()  # noqa: SLF001 - there is no other door
        return len(batch._buffer) > EXPANDED_BYTES_MAX  # noqa: SLF001


def _size(record: Any) -> int:
    size = len(record.key or b"") + len(record.value or b"")
    if headers := record.headers:
        size += sum(len(name) + len(content or b"") for name, content in headers)
    return size


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    """What was fetched of a partition, as batches that are guarded where that is asked for."""

    is_guarded = False
    _bytes = 0

    def has_next(self) -> bool:
        return self._bytes <= FETCHED_BYTES_MAX and bool(super().has_next())

    def next_batch(self, *_: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        if raw is None or not self.is_guarded or batch.is_control_batch:
            return batch
        return _GuardedBatch(batch, raw, self._take)

    def _take(self, size: int) -> None:
        self._bytes += size


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Records fetched of a partition; of an input some bytes, the next fetch begins behind."""

    def __init__(self, tp: Any, records: Any, *others: Any) -> None:
        super().__init__(tp, records, *others)
        # What we write ourselves, such as a snapshot of 33 MB, is never cut.
        self.is_input = records.is_guarded = tp.topic in _guarded

    @property
    def is_plain(self) -> bool:
        """Whether records need no step for each."""
        return self.is_input or isinstance(self._value_deserializer, Wanted)

    def _unpack_records(self) -> Iterator[Any]:
        wanted = self._value_deserializer
        if isinstance(wanted, Wanted):
            return values(self._tp, self, wanted)
        found: Iterator[Any] = super()._unpack_records()
        return found

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record if self.is_input else super()._consumer_record(tp, record)

    def plain(self) -> Iterator[Any]:
        """Give the records without a step for each."""
        records: Iterator[Any] = self._records_iterator
        return records


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """What a fetch gave of a partition."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        records = self._partition_records
        if records is None or not records.is_plain:
            found: list[Any] = super().getall(max_records)
            return found
        if not self.check_assignment(self._topic_partition):
            return []
        found = list(islice(records.plain(), max_records))
        self._update_position()
        if max_records is None or len(found) < max_records:
            self._partition_records = None
        return found


def guard_clients(inputs: Iterable[str]) -> None:
    """Let both clients of this process read envelopes with care, and bound these topics'."""
    guard_logs()
    _guarded.update(inputs)
    fetcher.MemoryRecords, fetcher.PartitionRecords = _Records, _PartitionRecords
    fetcher.FetchResult = _FetchResult
