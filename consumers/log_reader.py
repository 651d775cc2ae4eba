"""Recorded topics, read again from a beginning to the end that they have at that moment.

A reader belongs to no group and commits nothing, so that reading leaves no trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from kafka import TopicPartition

from consumers.envelope import guard_logs
from pipeline.errors import DataError
from stack import kafka_clients
from stack.kafka_address import kafka_of

POLL_MS = 500
# Records of one poll; with decisions of a kilobyte a chunk is some megabytes.
CHUNK_RECORDS_MAX = 5_000
FETCH_BYTES_MAX = 8 * 1024 * 1024


class LogReader:
    """Some partitions of a topic, all unless they are named; each is read in order."""

    def __init__(self, servers: str, topic: str, partitions: Sequence[int] | None = None) -> None:
        kafka = kafka_of(servers)
        guard_logs()
        topic = kafka.topic(topic)
        self._consumer = kafka_clients.consumer(
            kafka,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
        )
        numbers = partitions
        if numbers is None:
            numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
        if not numbers:
            self.close()
            raise DataError(f"there is no topic {topic!r} on the Kafka at {servers}")
        self._places = [TopicPartition(topic, number) for number in numbers]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def begins(self) -> dict[int, int]:
        """The first offset that each partition holds."""
        found = self._consumer.beginning_offsets(self._places)
        return {place.partition: int(offset) for place, offset in found.items()}

    @property
    def ends(self) -> dict[int, int]:
        """The offset after the last record of each partition."""
        found = self._consumer.end_offsets(self._places)
        return {place.partition: int(offset) for place, offset in found.items()}

    def seek(self, offset: int) -> None:
        """Read every partition from this offset."""
        for place in self._places:
            self._consumer.seek(place, offset)

    def seek_back(self, records: int) -> None:
        """Read every partition from so many records before its end of now."""
        begins, ends = self.begins, self.ends
        for place in self._places:
            number = place.partition
            self._consumer.seek(place, max(begins[number], ends[number] - records))

    def chunks(self, ends: Mapping[int, int] | None = None) -> Iterator[list[Any]]:
        """Read on to these ends, or to the end of now; a chunk is some records of one partition."""
        ends = self.ends if ends is None else ends
        self._consumer.resume(*self._places)
        while any(self._consumer.position(place) < ends[place.partition] for place in self._places):
            polled = self._consumer.poll(timeout_ms=POLL_MS, max_records=CHUNK_RECORDS_MAX)
            for place, records in polled.items():
                end = ends[place.partition]
                if records[-1].offset < end:
                    yield records
                    continue
                # What has come meanwhile is for the next time.
                self._consumer.pause(place)
                self._consumer.seek(place, max(end, records[0].offset))
                if records[0].offset < end:
                    yield [record for record in records if record.offset < end]

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def read_topic(servers: str, topic: str) -> Iterator[Any]:
    """Give every record of a topic, each partition in order."""
    with LogReader(servers, topic) as reader:
        for chunk in reader.chunks():
            yield from chunk
