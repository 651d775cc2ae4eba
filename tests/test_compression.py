"""What a worker sends is compressed fast, and is what any reader of Kafka takes apart."""

import asyncio

from aiokafka.codec import lz4_decode
from aiokafka.record import MemoryRecords

from stack.async_clients import async_producer, fast_lz4
from tests.strategies import decision

# Before the records of a batch stand its offsets, its producer and its checksum.
HEADER_BYTES = 61
VALUES = [repr(decision(f"t{number}")).encode() for number in range(2_000)]


def built(compression: str | None) -> bytes:
    """Build a batch as the producer of a worker does."""

    async def build() -> bytes:
        producer = async_producer(
            "127.0.0.1:1", compression_type=compression, max_batch_size=1 << 20
        )
        batch = producer.create_batch()
        for value in VALUES:
            assert batch.append(timestamp=1.0, key=None, value=value, headers=[]) is not None
        await producer.stop()
        return bytes(batch._build())

    return asyncio.run(build())


def body(batch: bytes) -> bytes:
    return batch[HEADER_BYTES:]


def test_a_batch_is_compressed_by_the_fast_level() -> None:
    plain, compressed = body(built(None)), body(built("lz4"))

    assert compressed == fast_lz4(plain)
    assert bytes(lz4_decode(compressed)) == plain
    assert len(compressed) < len(plain) / 4


def test_a_compressed_batch_holds_what_was_put_in() -> None:
    batch = MemoryRecords(built("lz4")).next_batch()

    assert batch is not None
    assert batch.validate_crc()
    assert [record.value for record in batch] == VALUES
