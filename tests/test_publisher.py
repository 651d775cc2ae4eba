"""What is published, in which order and when: all that needs no broker."""

import json
import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import murmur2 as murmur2_of_the_client

from pipeline.errors import SettingError
from pipeline.events import AMOUNT_MINOR_MAX, LabelDecoder, no_numbers
from pipeline.partitioner import murmur2, partition_of
from pipeline.schema import Schema, load_schema, parse_schema
from pipeline.transactions import TransactionDecoder
from producers.ahead import ahead
from producers.batch import EventBatch, joined
from producers.encoding import LabelEncoder, TransactionEncoder, amount_texts
from producers.feed import BLOCK_EVENTS, Block, LabelOptions, feed, limited
from producers.publisher import Pace
from producers.simulator import SimulatorOptions, simulate

CARD = load_schema("card")

# Field names that are Python keywords or need escaping in JSON, and a category.
ODD = parse_schema(
    """
    name = "odd"
    version = 1
    [event]
    id = "class"
    time = "the time"
    amount = "from"
    currency = "import"
    minor_digits = 0
    [[entity]]
    name = "card"
    field = "lambda"
    [[category]]
    name = "channel"
    field = "für"
    """.replace("minor_digits", 'currency_default = "JPY"\n    minor_digits'),
    place="odd.toml",
)


def batch_of(
    times: list[int], labels: list[int] | None = None, *, first: int = 0, categories: int = 0
) -> EventBatch:
    count = len(times)
    return EventBatch(
        transaction_id=[f"t{first + number}" for number in range(count)],
        event_time_ms=np.array(times, dtype=np.int64),
        keys=tuple([f"{prefix}{number % 7}" for number in range(count)] for prefix in "cm"),
        amount_minor=np.arange(count, dtype=np.int64),
        currency=["EUR"] * count,
        categories=tuple(['"web"\n'] * count for _ in range(categories)),
        numbers=no_numbers(count),
        is_fraud=np.array(labels if labels is not None else [0] * count, dtype=np.int8),
    )


def ids_of(blocks: Iterator[Block]) -> list[str]:
    """The ids of transactions and labels in the order in which they are sent."""
    return [
        name or str(json.loads(value)["label_id"])
        for block in blocks
        for name, value in zip(block.transaction_id, block.value, strict=True)
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # The vectors of org.apache.kafka.common.utils.UtilsTest.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_numbers_of_kafka(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


@given(st.binary(max_size=80), st.integers(1, 500))
def test_a_partition_is_that_of_the_client(key: bytes, partitions: int) -> None:
    assert murmur2(key) == murmur2_of_the_client(key)
    assert partition_of(key, partitions) == (murmur2_of_the_client(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("schema", [CARD, load_schema("handbook"), ODD], ids=lambda item: item.name)
def test_what_is_encoded_decodes_to_the_same_columns(schema: Schema) -> None:
    batch = batch_of(list(range(1_600_000_000_000, 1_600_000_000_300)))
    batch = EventBatch(
        batch.transaction_id,
        batch.event_time_ms,
        batch.keys[: len(schema.entities)],
        batch.amount_minor,
        batch.currency,
        tuple(['"web"\n{ü}'] * len(batch) for _ in schema.categories),
        np.full((len(batch), len(schema.numbers)), [[0.1]], dtype=np.float32),
        batch.is_fraud,
    )
    values = TransactionEncoder(schema).encode(batch)
    found, _, rejected = TransactionDecoder(schema).decode(values)
    expected = batch.transactions()

    assert rejected == []
    assert (found.transaction_id, found.keys) == (expected.transaction_id, expected.keys)
    assert found.currency == expected.currency
    assert np.array_equal(found.event_time_ms, expected.event_time_ms)
    assert np.array_equal(found.amount_minor, expected.amount_minor)


def test_no_label_and_no_scenario_is_part_of_an_event() -> None:
    batch = next(simulate(SimulatorOptions(customers=200, terminals=20)))

    assert batch.declined is not None and batch.declined.any()
    for value, declined in zip(
        TransactionEncoder(CARD).encode(batch), batch.declined.tolist(), strict=True
    ):
        answer = [CARD.response] if declined else []
        assert list(json.loads(value)) == [*CARD.event_fields, *answer]


@given(st.lists(st.integers(0, AMOUNT_MINOR_MAX)), st.integers(0, 4))
def test_amounts_are_decimal_text_with_all_their_places(minor: list[int], digits: int) -> None:
    texts = amount_texts(minor, digits)

    assert [int(text.replace(".", "")) for text in texts] == minor
    assert all(len(text.partition(".")[2]) == digits for text in texts)


def test_memory_does_not_grow_with_what_was_encoded() -> None:
    batch = batch_of(list(range(2_000)))
    encoder = TransactionEncoder(CARD)
    tracemalloc.start()
    try:
        encoder.encode(batch)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            encoder.encode(batch)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert grown < 100_000


def test_labels_say_what_the_wire_format_wants() -> None:
    long = "t" * 64
    values = LabelEncoder(CARD).encode(
        ["t1", long], ["c1", "c2"], [True, False], [1_600_000_000_000, 1_600_000_000_001]
    )
    labels = [LabelDecoder(CARD).decode_one(value) for value in values]

    assert json.loads(values[0]) == {
        "label_id": "l-t1",
        "transaction_id": "t1",
        "card_id": "c1",
        "verdict": "fraud",
        "source": "simulated",
        "label_time": 1_600_000_000_000,
    }
    assert [getattr(label, "transaction_id", label) for label in labels] == ["t1", long]
    assert [getattr(label, "is_fraud", label) for label in labels] == [True, False]


def test_a_label_goes_before_the_next_transaction() -> None:
    batch = batch_of([0, 1_000, 2_000, 3_000])
    blocks = feed([batch], CARD, LabelOptions(delay_ms=1_500))

    assert ids_of(blocks) == ["t0", "t1", "l-t0", "t2", "l-t1", "t3"]


def test_a_label_due_at_the_time_of_a_transaction_goes_before_it() -> None:
    blocks = feed([batch_of([0, 1_000])], CARD, LabelOptions(delay_ms=1_000))

    assert ids_of(blocks) == ["t0", "l-t0", "t1"]


def test_a_label_without_delay_follows_its_own_transaction() -> None:
    blocks = feed([batch_of([5, 5, 5])], CARD, LabelOptions(delay_ms=0))

    assert ids_of(blocks) == ["t0", "l-t0", "t1", "l-t1", "t2", "l-t2"]


def test_unknown_labels_are_not_published() -> None:
    batch = batch_of([0, 1, 2, 3], [1, -1, 0, -1])
    blocks = list(feed([batch], CARD, LabelOptions(delay_ms=10, to_end=True)))
    verdicts = [json.loads(value)["verdict"] for value in blocks[-1].value]

    assert ids_of(iter(blocks)) == ["t0", "t1", "t2", "t3", "l-t0", "l-t2"]
    assert verdicts == ["fraud", "genuine"]


def test_labels_still_waiting_are_published_only_when_wanted() -> None:
    batch = batch_of([0, 1])

    assert ids_of(feed([batch], CARD, LabelOptions(delay_ms=10))) == ["t0", "t1"]
    assert ids_of(feed([batch], CARD, None)) == ["t0", "t1"]
    rest = list(feed([batch], CARD, LabelOptions(delay_ms=10, to_end=True)))[-1]
    assert (rest.is_tail, rest.time_ms) == (True, [10, 11])


@given(
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    cuts=st.lists(st.integers(1, 60), max_size=4),
    delay_ms=st.integers(0, 200),
    data=st.data(),
)
def test_the_order_is_that_of_a_plain_merge(
    steps: list[int], cuts: list[int], delay_ms: int, data: st.DataObject
) -> None:
    times = np.cumsum(steps).tolist()
    labels = data.draw(
        st.lists(st.sampled_from([-1, 0, 1]), min_size=len(times), max_size=len(times))
    )
    whole = batch_of(times, labels)
    edges = sorted({0, len(times), *(cut for cut in cuts if cut < len(times))})
    parts = [whole.slice(low, high) for low, high in zip(edges, edges[1:], strict=False)]
    options = LabelOptions(delay_ms=delay_ms, to_end=True)

    assert ids_of(feed(parts, CARD, options)) == plain_merge(times, labels, delay_ms)


def plain_merge(times: list[int], labels: list[int], delay_ms: int) -> list[str]:
    sent, waiting = [], []
    for number, time in enumerate(times):
        while waiting and waiting[0][0] <= time:
            sent.append(waiting.pop(0)[1])
        sent.append(f"t{number}")
        if labels[number] >= 0:
            waiting.append((time + delay_ms, f"l-t{number}"))
    return sent + [name for _, name in waiting]


def test_a_batch_longer_than_a_block_is_cut() -> None:
    blocks = list(feed([batch_of(list(range(BLOCK_EVENTS + 1)))], CARD, None))

    assert [len(block.value) for block in blocks] == [BLOCK_EVENTS, 1]


def test_a_share_of_the_genuine_is_labelled_the_same_ones_each_time() -> None:
    count = 4_000
    batch = batch_of(list(range(count)), [int(number % 10 == 0) for number in range(count)])
    options = LabelOptions(delay_ms=0, genuine_share=0.25)
    first, second = (ids_of(feed([batch], CARD, options)) for _ in range(2))
    labelled = {int(name[3:]) for name in first if name.startswith("l-")}

    assert first == second
    assert {number for number in range(count) if number % 10 == 0} <= labelled
    assert len(labelled) == pytest.approx(400 + 0.25 * 3_600, rel=0.1)


@pytest.mark.parametrize("wrong", [{"delay_ms": -1}, {"delay_ms": 0, "genuine_share": 1.5}])
def test_impossible_label_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="genuine_share"):
        LabelOptions(**wrong)  # type: ignore[arg-type]


def test_a_limit_ends_the_stream_within_a_batch() -> None:
    batches = [batch_of([0, 1, 2]), batch_of([3, 4, 5], first=3), batch_of([6], first=6)]

    assert joined(list(limited(batches, 5))).transaction_id == ["t0", "t1", "t2", "t3", "t4"]
    assert list(limited(batches, 0)) == []


def test_a_pace_is_by_number_or_by_event_time() -> None:
    assert Pace().due_seconds(number=9, time_ms=9) == 0.0
    assert Pace(rate=1_000).due_seconds(number=2_500, time_ms=0) == 2.5
    assert Pace(speedup=86_400).due_seconds(number=0, time_ms=86_400_000) == 1.0


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"speedup": -1.0}, {"rate": 1.0, "speedup": 1.0}])
def test_an_impossible_pace_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="rate|speedup"):
        Pace(**wrong)


def test_what_is_prepared_ahead_is_bounded() -> None:
    made: list[int] = []
    third_made = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            if number == 2:
                third_made.set()
            yield number

    items = ahead(numbers(), items_max=2)
    first = next(items)
    assert third_made.wait(timeout=10)
    items.close()

    # One taken, two ready, one in hand.
    assert (first, len(made) <= 4) == (0, True)


def test_an_error_ahead_comes_after_the_items_before_it() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise SettingError("no more")

    items = ahead(numbers(), items_max=5)

    assert next(items) == 1
    with pytest.raises(SettingError, match="no more"):
        next(items)
