"""Batches of Kafka, as bytes: whose records are read with care, and which are left as they are."""

import pytest
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumers.envelope import CUT_HEADER, KEPT_BYTES_MAX, KEPT_HEADERS_MAX
from consumers.envelope_fetches import FETCHED_BYTES_MAX, _PartitionRecords, _Records
from pipeline.topics import DECISIONS, MODELS, TRANSACTIONS

LZ4 = 3
LARGE = bytes(3 * 1024 * 1024)
Headers = list[tuple[str, bytes | None]]


def batch(
    values: list[bytes | None], *, headers: Headers | None = None, first: int = 0, codec: int = 0
) -> bytes:
    """Give a batch as a broker would."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=1 << 30,
    )  # fmt: skip
    for place, value in enumerate(values):
        builder.append(place, timestamp=1, key=b"k", value=value, headers=headers or [])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    return bytes(built)


def records(data: bytes, topic: str = TRANSACTIONS, offset: int = 0) -> _PartitionRecords:
    place = TopicPartition(topic, 0)
    return _PartitionRecords(place, _Records(data), [], offset, None, None, True, 0)


@pytest.mark.parametrize("codec", [0, LZ4])
def test_of_a_large_value_of_an_input_the_beginning_is_kept(codec: int) -> None:
    [found] = records(batch([LARGE], codec=codec))

    assert found.value == LARGE[:KEPT_BYTES_MAX]
    assert tuple(found.headers) == ((CUT_HEADER, b"value of %d bytes" % len(LARGE)),)


@pytest.mark.parametrize("topic", [MODELS, DECISIONS])
def test_what_we_write_ourselves_is_never_cut(topic: str) -> None:
    [found] = records(batch([LARGE], codec=LZ4), topic)

    assert (found.value, tuple(found.headers)) == (LARGE, ())


def test_of_headers_without_number_the_first_are_kept() -> None:
    [found] = records(batch([b"v"], headers=[("", None)] * 600_000, codec=LZ4))

    assert len(found.headers) == KEPT_HEADERS_MAX + 1
    assert found.headers[-1] == (CUT_HEADER, b"600000 headers")
    assert found.value == b"v"


@pytest.mark.parametrize("codec", [0, LZ4])
def test_a_fetch_ends_with_the_batch_that_fills_it_and_the_next_begins_behind(codec: int) -> None:
    values: list[bytes | None] = [bytes([n % 256]) * 16_384 for n in range(2_000)]
    parts = [batch(values[at : at + 125], codec=codec, first=7 + at) for at in range(0, 2_000, 125)]
    largest = 125 * 16_384
    seen: list[int] = []
    offset = 7
    while offset < 2_007:
        # A broker answers with the batch that holds the offset, and those behind it.
        fetched = records(b"".join(parts[(offset - 7) // 125 :]), offset=offset)
        found = list(fetched)
        assert found
        assert sum(len(record.value or b"") for record in found) <= FETCHED_BYTES_MAX + largest
        seen += [record.offset for record in found]
        assert [record.value for record in found] == [values[record.offset - 7] for record in found]
        offset = fetched.next_fetch_offset

    assert seen == list(range(7, 2_007))


def test_an_ordinary_batch_is_read_as_it_is() -> None:
    found = list(records(batch([b"a", None, b""], headers=[("h", b"1"), ("n", None)], codec=LZ4)))

    assert [record.value for record in found] == [b"a", None, b""]
    assert all(tuple(record.headers) == (("h", b"1"), ("n", None)) for record in found)
    assert [record.offset for record in found] == [0, 1, 2]


def test_a_header_name_that_is_no_utf8_ends_nothing() -> None:
    data = bytearray(batch([b"a", b"b"], headers=[("name", b"1")]))
    at = data.rfind(b"name")
    data[at : at + 2] = b"\xff\xfe"
    place = TopicPartition(TRANSACTIONS, 0)
    found = list(_PartitionRecords(place, _Records(bytes(data)), [], 0, None, None, False, 0))

    assert [tuple(record.headers) for record in found] == [
        (("name", b"1"),), (("\ufffd\ufffdme", b"1"),),
    ]  # fmt: skip
