"""Kafka's envelope of a record, read such that nothing in it can end a process or fill its memory.

One of our clients decodes the name of a header as strict UTF-8 while it takes a batch apart: one
name that is none, and its partition can never be read on. Both expand a batch as far as it expands:
64 KiB of lz4 may hold 16 MB, as one value or as eight million headers. So a batch that expands far,
or that the client cannot read, is read here, record by record:

- a header name that is no UTF-8 is kept, with U+FFFD in place of its odd bytes;
- of a key, a value and headers beyond a limit the beginning is kept, and the header
  `fraud.errors.cut` says how much there was. Such a record is too large in any case.

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
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS

# What others write, as the Kafka calls it that this process reads.
_guarded = {TRANSACTIONS, FEEDBACK, OUTCOMES}
CUT_HEADER = "fraud.errors.cut"
# Of a record that is read here.
KEPT_BYTES_MAX = 64 * 1024
KEPT_HEADERS_MAX = 256
# A batch that expands to more is read here.
EXPANDED_BYTES_MAX = 1024 * 1024
# No codec of a topic that compresses with lz4 expands further.
LZ4_EXPANSION_MAX = 255
# Of one partition, a fetch hands over no more than this and a batch.
FETCHED_BYTES_MAX = 16 * 1024 * 1024


class _Careful:
    """Reads one record from a client's own batch; both clients' batches have these attributes."""

    def __init__(self, batch: Any) -> None:
        self._buffer, self._pos = batch._buffer, batch._pos  # noqa: SLF001 - there is no other door
        self._cut: list[str] = []

    def read(self) -> tuple[int, int, int, bytes | None, bytes | None, list[Any], int]:
        """Give time and offset as steps, key, value, headers, and where the next record begins."""
        length = self._varint()
        end = self._pos + length
        self._pos += 1  # attributes, of which there are none
        time_step, offset_step = self._varint(), self._varint()
        key, value = self._bytes("key"), self._bytes("value")
        headers = self._headers()
        if length < 0 or end > len(self._buffer) or self._pos > end:
            raise ValueError(f"a record of {length} bytes reaches beyond its batch")
        return length, time_step, offset_step, key, value, headers, end

    def _varint(self) -> int:
        number, self._pos = decode_varint(self._buffer, self._pos)
        return int(number)

    def _bytes(self, what: str, limit: int = KEPT_BYTES_MAX) -> bytes | None:
        size = self._varint()
        if size < 0:
            return None
        start, self._pos = self._pos, self._pos + size
        if size > limit:
            self._cut.append(f"{what} of {size} bytes")
        return bytes(self._buffer[start : start + min(size, limit)])

    def _headers(self) -> list[tuple[str, bytes | None]]:
        count = self._varint()
        headers: list[tuple[str, bytes | None]] = []
        room = KEPT_BYTES_MAX
        for _ in range(count):
            if room <= 0 or len(headers) == KEPT_HEADERS_MAX:
                self._cut.append(f"{count} headers")
                break
            name = self._bytes("header name", room) or b""
            content = self._bytes("header", room - len(name))
            room -= len(name) + len(content or b"")
            headers.append((name.decode("utf-8", "replace"), content))
        if self._cut:
            headers.append((CUT_HEADER, "; ".join(self._cut).encode()))
        return headers


def _moment(batch: Any, step: int) -> int:
    is_of_broker = batch.timestamp_type == batch.LOG_APPEND_TIME
    return int(batch.max_timestamp if is_of_broker else batch.first_timestamp + step)


class _CarefulBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch of aiokafka, read with care."""

    def _read_msg(self, *_: Any) -> Any:
        time, offset, key, value, headers, end = _Careful(self).read()[1:]
        moment, kind = _moment(self, time), self.timestamp_type
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
        if records is None or not records.is_input:
            found: list[Any] = super().getall(max_records)
            return found
        if not self.check_assignment(self._topic_partition):
            return []
        found = list(islice(records.plain(), max_records))
        self._update_position()
        if max_records is None or len(found) < max_records:
            self._partition_records = None
        return found


class _LogBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of kafka-python, whose records are read with care where it cannot read them."""

    def _read_msg(self, *_: Any) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            length, time, offset, key, value, headers, end = _Careful(self).read()
        moment, kind = _moment(self, time), self.timestamp_type
        self._pos = end
        offset += self.base_offset
        return DefaultRecord(length, offset, moment, kind, key, value, headers)


def guard_clients(inputs: Iterable[str]) -> None:
    """Let both clients of this process read envelopes with care, and bound these topics'."""
    _guarded.update(inputs)
    fetcher.MemoryRecords, fetcher.PartitionRecords = _Records, _PartitionRecords
    fetcher.FetchResult = _FetchResult
    memory_records.DefaultRecordBatch = _LogBatch
