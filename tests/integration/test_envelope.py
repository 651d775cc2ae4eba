"""Odd envelopes and compression bombs, on a real worker: nothing ends it, nothing fills it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import redis
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord

from benchmarks.mutations import RawName
from consumers.envelope import CUT_HEADER, KEPT_BYTES_MAX
from consumers.envelope_fetches import FETCHED_BYTES_MAX
from pipeline.events import RECORD_BYTES_MAX
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRANSACTIONS
from stack.servers import Endpoints
from tests.armour.envelopes import ENVELOPES, Envelope
from tests.integration.processes import Log, Place, Processes, Running, key_of, read
from tests.resetting import reset
from tests.strategies import event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MEGABYTE = 1024 * 1024
BOMB_PARTITION = 0
# What expands to more than this is refused by the topic, whatever its codec.
REFUSED_MB = 40
PASSED_MB = 15
SMALL_RECORDS = 800
# The other client sends them.
REFUSED_BY_CLIENT = ("neither key nor value", "null header value")
HEADERS = 6_000_000
ANSWER_SECONDS_MAX = 60.0
# Above what a worker has in use before; the largest batch expands to 15 MB and is copied twice.
GROWTH_MB_MAX = 200

Headers = Sequence[tuple[str, bytes | None]]


@dataclass
class Story:
    """One life of a worker, and what it left."""

    settings: Settings
    places: dict[str, Place] = field(default_factory=dict)
    bombs: dict[str, Place | None] = field(default_factory=dict)
    growth_mb: float = 0.0
    decided: dict[str, DecisionRecord] = field(default_factory=dict)
    letters: dict[Place, ConsumerRecord] = field(default_factory=dict)
    published: int = 0
    is_alive: bool = False


def good_value(case: Envelope, settings: Settings) -> bytes:
    name = f"e{ENVELOPES.index(case)}"
    return event_bytes(transaction_id=name, card_id=key_of(1, settings))


def send_envelopes(settings: Settings) -> dict[str, Place]:
    """Send all rows, those of one partition in one batch: neighbours must not notice."""
    keys = {
        "own": key_of(1, settings).encode(),
        "none": None,
        "empty": b"",
        "neighbour": key_of(1, settings, prefix="other").encode(),
        "bytes": b"\xff\x00\xfe",
    }
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_servers,
        acks="all",
        linger_ms=300,
        batch_size=MEGABYTE,
        compression_type="gzip",
    )
    with closing(producer):
        sent = {
            case.name: producer.send(
                TRANSACTIONS,
                good_value(case, settings) if case.value == "good" else case.value,
                keys[case.key],
                headers=[(RawName.of(name), content) for name, content in case.headers],
                partition=case.partition,
            )
            for case in ENVELOPES
            if case.name not in REFUSED_BY_CLIENT
        }
        producer.flush(timeout=30)
        found = {name: future.get(30) for name, future in sent.items()}
    places = {name: (item.partition, item.offset) for name, item in found.items()}
    for case in ENVELOPES:
        if case.name in REFUSED_BY_CLIENT:
            headers = [(name.decode(), content) for name, content in case.headers]
            assert not isinstance(case.value, str)
            sending = send_batch(
                settings, 1, keys[case.key], [case.value], codec="gzip", headers=headers
            )
            landed = asyncio.run(sending)
            assert landed is not None
            places[case.name] = landed
    return places


async def send_batch(
    settings: Settings,
    partition: int,
    key: bytes | None,
    values: Sequence[bytes | None],
    *,
    codec: str,
    headers: Headers = (),
) -> Place | None:
    """Send values as one batch; `None` where the broker refuses it."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_servers,
        compression_type=codec,
        max_request_size=256 * MEGABYTE,
        max_batch_size=256 * MEGABYTE,
    )
    await producer.start()
    try:
        batch = producer.create_batch()
        for value in values:
            batch.append(key=key, value=value, timestamp=None, headers=list(headers))
        future = await producer.send_batch(batch, TRANSACTIONS, partition=partition)
        landed = await future
    except MessageSizeTooLargeError:
        return None
    finally:
        await producer.stop()
    return landed.partition, landed.offset


def send_bombs(settings: Settings) -> dict[str, Place | None]:
    zeros = {size: bytes(size * MEGABYTE) for size in (REFUSED_MB, PASSED_MB)}
    small = [bytes(RECORD_BYTES_MAX)]

    def send(codec: str, values: Sequence[bytes], headers: Headers = ()) -> Place | None:
        return asyncio.run(
            send_batch(settings, BOMB_PARTITION, b"bomb", values, codec=codec, headers=headers)
        )

    return {
        "gzip, one value": send("gzip", [zeros[REFUSED_MB]]),
        "zstd, one value": send("zstd", [zeros[REFUSED_MB]]),
        "gzip, many values": send("gzip", small * 64 * REFUSED_MB),
        "gzip, 15 MB": send("gzip", [zeros[PASSED_MB]]),
        "zstd, 15 MB": send("zstd", [zeros[PASSED_MB]]),
        # Of another codec, the broker itself would take them apart, and not survive it.
        "lz4, headers": send("lz4", [b"bad"], [("", None)] * HEADERS),
        "zstd, one header": send("zstd", [b"bad"], [("a", zeros[PASSED_MB])]),
        **{f"gzip, small {n}": send("gzip", small * SMALL_RECORDS) for n in range(4)},
    }


def peak_mb(worker: Running) -> float:
    """Give the most memory that a process ever had."""
    lines = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def wait_for_all(settings: Settings, client: redis.Redis) -> None:
    with closing(Log(settings, TRANSACTIONS)) as log:
        ends = {f"pos:{TRANSACTIONS}:{p}": end for p, end in log.ends.items() if end}

    def is_done() -> bool:
        stored = [(client.get(key) or b"0").split(b":")[0] for key in ends]
        return [int(position) for position in stored] == list(ends.values())

    wait_until(is_done, "everything is committed", seconds_max=ANSWER_SECONDS_MAX)


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    settings = replace(
        Settings(),
        state_dir=str(tmp_path_factory.mktemp("envelope")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        event_age_days_max=0.0,
    )
    reset(stack, settings)
    story = Story(settings)
    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        [worker] = processes.ready("worker")
        story.places = send_envelopes(settings)
        wait_for_all(settings, client)
        before = peak_mb(worker)
        story.bombs = send_bombs(settings)
        wait_for_all(settings, client)
        story.growth_mb = peak_mb(worker) - before
        story.is_alive = not worker.has_ended
    found = decode_decisions(record.value for record in read(settings, DECISIONS))
    story.decided = {item.transaction_id: item for item in found if item is not None}
    for record in read(settings, DEAD_LETTERS):
        said = dict(record.headers)
        place = int(said["fraud.errors.partition"]), int(said["fraud.errors.offset"])
        story.letters[place] = record
    story.published = len(read(settings, TRANSACTIONS))
    yield story


@pytest.mark.parametrize("case", ENVELOPES, ids=lambda case: case.name)
def test_an_odd_envelope_is_decided_or_a_dead_letter(story: Story, case: Envelope) -> None:
    place = story.places[case.name]
    letter = story.letters.get(place)
    decided = story.decided.get(f"e{ENVELOPES.index(case)}")

    if case.reason is None:
        assert letter is None
        assert decided is not None and decided.source == (TRANSACTIONS, *place)
        return
    assert decided is None and letter is not None
    said = dict(letter.headers)
    assert (said["fraud.errors.reason"], said["fraud.errors.place"]) == (
        case.reason.encode(), case.place.encode(),
    )  # fmt: skip
    kept = case.kept or [(name.decode(), content) for name, content in case.headers]
    assert letter.headers[: len(kept)] == list(kept)
    if case.value != "good":
        assert letter.value == case.value


def test_everything_is_decided_or_a_dead_letter_and_the_worker_lives(story: Story) -> None:
    assert len(story.decided) + len(story.letters) == story.published
    assert story.is_alive


@pytest.mark.parametrize("name", ["gzip, one value", "zstd, one value", "gzip, many values"])
def test_a_batch_that_expands_a_thousandfold_is_refused_by_the_topic(
    story: Story, name: str
) -> None:
    assert story.bombs[name] is None


@pytest.mark.parametrize("name", ["gzip, 15 MB", "zstd, 15 MB"])
def test_of_a_value_that_expands_to_what_the_topic_allows_the_beginning_is_kept(
    story: Story, name: str
) -> None:
    letter = story.letters[story.bombs[name]]  # type: ignore[index]
    said = dict(letter.headers)

    assert said["fraud.errors.reason"] == b"too_large"
    assert said[CUT_HEADER] == b"value of %d bytes" % (PASSED_MB * MEGABYTE)
    assert letter.value == bytes(KEPT_BYTES_MAX)


def test_of_headers_without_number_and_of_a_large_one_the_first_are_kept(story: Story) -> None:
    many = story.letters[story.bombs["lz4, headers"]]  # type: ignore[index]
    large = story.letters[story.bombs["zstd, one header"]]  # type: ignore[index]

    assert dict(many.headers)[CUT_HEADER] == b"%d headers" % HEADERS
    assert len(many.headers) < 300
    assert dict(large.headers)[CUT_HEADER] == b"header of %d bytes" % (PASSED_MB * MEGABYTE)
    assert dict(large.headers)["a"] == bytes(KEPT_BYTES_MAX - len("a"))


def test_a_batch_of_many_values_is_taken_value_by_value(story: Story) -> None:
    firsts = [place for name, place in story.bombs.items() if name.startswith("gzip, small")]

    for place in firsts:
        assert place is not None
        for step in range(SMALL_RECORDS):
            letter = story.letters[place[0], place[1] + step]
            assert dict(letter.headers)["fraud.errors.reason"] == b"malformed"
    assert len(firsts) * SMALL_RECORDS * RECORD_BYTES_MAX > 3 * FETCHED_BYTES_MAX


def test_the_memory_of_the_worker_stays_bounded(story: Story) -> None:
    assert story.growth_mb < GROWTH_MB_MAX
