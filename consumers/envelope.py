"""Kafka's envelope of a record, read such that nothing in it can end a process or fill its memory.

One of our clients decodes the name of a header as strict UTF-8 while it takes a batch apart: one
name that is none, and its partition can never be read on. Both expand a batch as far as it expands:
64 KiB of lz4 may hold 16 MB, as one value or as eight million headers. So a batch that expands far,
or that the client cannot read, is read here, record by record:

- a header name that is no UTF-8 is kept, with U+FFFD in place of its odd bytes;
- of a key, a value and headers beyond a limit the beginning is kept, and the header
  `fraud.errors.cut` says how much there was. Such a record is too large in any case.

kafka-python, which reads whole logs, is guarded here; aiokafka, which feeds a worker, in
`envelope_fetches.py`: only a worker needs both clients.
"""

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

CUT_HEADER = "fraud.errors.cut"
# Of a record that is read here.
KEPT_BYTES_MAX = 64 * 1024
KEPT_HEADERS_MAX = 256


class Careful:
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


def moment_of(batch: Any, step: int) -> int:
    """Give the time of a record in its batch."""
    is_of_broker = batch.timestamp_type == batch.LOG_APPEND_TIME
    return int(batch.max_timestamp if is_of_broker else batch.first_timestamp + step)


class _LogBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of kafka-python, whose records are read with care where it cannot read them."""

    def _read_msg(self, *_: Any) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            length, time, offset, key, value, headers, end = Careful(self).read()
        moment, kind = moment_of(self, time), self.timestamp_type
        self._pos = end
        offset += self.base_offset
        return DefaultRecord(length, offset, moment, kind, key, value, headers)


def guard_logs() -> None:
    """Let kafka-python read envelopes with care in this process."""
    memory_records.DefaultRecordBatch = _LogBatch
