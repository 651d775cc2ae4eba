"""Puts a stream on Kafka: transactions, and their labels when they become due.

The schedule is open loop: when a record is due depends on the clock alone, never on how long the
one before took, so that latency measured downstream counts every wait. Records in flight are
bounded here, since the client has no bound of its own. What is counted as published was
acknowledged by the broker; anything else is counted as failed, and ends the run.

>>> Pace(rate=1_000.0).due_seconds(number=500, time_ms=0)
0.5
>>> Pace(speedup=3_600.0).due_seconds(number=1, time_ms=0)      # the first record sets the start
0.0
"""

import gc
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from kafka.errors import KafkaError

from pipeline.errors import SettingError
from pipeline.partitioner import partition_of
from pipeline.schema import Schema
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from producers.ahead import ahead
from producers.batch import EventBatch
from producers.encoding import SOURCE
from producers.feed import Block, LabelOptions, feed
from stack import kafka_clients
from stack.kafka_address import Kafka, host_and_port, kafka_of
from stack.kafka_clients import no_broker

# Measured: with these, and crc32c installed, one process sends the most.
LINGER_MS = 20
BATCH_BYTES = 1024 * 1024
# A broker that is away for longer than this fails the records in flight and so ends the run.
DELIVERY_SECONDS_MAX = 60.0
CONNECT_SECONDS_MAX = 10.0
CONNECT_POLL_SECONDS = 0.1
CLOSE_ATTEMPTS = 3
# Beyond this a topic's oldest record is waited for: about 20 MB of records and futures.
IN_FLIGHT_MAX = 20_000
# About six objects for each record in flight, and room for others.
COLLECTED_OBJECTS_MIN = 10 * IN_FLIGHT_MAX
# The partition of so many keys is remembered, about 20 MB.
KEYS_REMEMBERED_MAX = 131_072

# Blocks encoded before they are due, when there is a pace: about a thousand records each.
BLOCKS_AHEAD_MAX = 16

# At 1,000 records a second two leave at a time: even enough for a latency measurement.
TICK_SECONDS = 0.002
# A longer wait is cut into such parts, so that a wish to stop is heard.
WAIT_SECONDS_MAX = 0.05
PROGRESS_SECONDS = 0.1
# Unpaced, the clock is read once for so many records.
RECORDS_BETWEEN_LOOKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast records leave: `rate`, `speedup`, or neither for as fast as possible.

    Parameters
    ----------
    rate
        Transactions a second of wall clock; labels leave between them as they become due.
    speedup
        Seconds of event time in a second of wall clock.
    """

    rate: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.speedup is not None:
            raise SettingError(
                f"rate ({self.rate}) and speedup ({self.speedup}) exclude each other"
            )
        for name, value in (("rate", self.rate), ("speedup", self.speedup)):
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be above 0 (got {value})")

    @property
    def is_set(self) -> bool:
        """Whether records are held back at all."""
        return self.rate is not None or self.speedup is not None

    def due_seconds(self, *, number: int, time_ms: int) -> float:
        """Say when a record is due, in seconds from the start.

        `number` counts the records that take a place in the schedule; `time_ms` is event time
        since the first record's.
        """
        if self.rate is not None:
            return number / self.rate
        return time_ms / 1_000.0 / self.speedup if self.speedup is not None else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come; `rate` is records a second since the report before."""

    transactions: int
    labels: int
    total: int | None
    rate: float
    event_time_ms: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Published:
    """What came of a run: what was acknowledged, and what failed with the first reason."""

    transactions: int
    labels: int
    failed: int
    seconds: float
    reason: str = ""
    outcomes: int = 0


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a caller wants to be told or asked while a run lasts.

    Parameters
    ----------
    stop
        Asked many times a second; once it says true, the run ends as if the stream had.
    progress
        Called about ten times a second, and at the end.
    on_send
        Called for each transaction with its id and the wall time at which it was handed to the
        client, seconds since 1970.
    total
        How many transactions there will be, if known; passed on to `progress`.
    """

    stop: Callable[[], bool] = _never
    progress: Callable[[Progress], None] | None = None
    on_send: Callable[[str, float], None] | None = None
    total: int | None = None


def publish(
    batches: Iterable[EventBatch],
    schema: Schema,
    servers: str,
    *,
    pace: Pace | None = None,
    labels: LabelOptions | None = None,
    signer: LabelSigner | None = None,
    watch: Watch | None = None,
    linger_ms: int = LINGER_MS,
) -> Published:
    """Publish batches that are in time order, and wait until all is acknowledged or failed.

    Parameters
    ----------
    servers
        Kafka's `host:port`, several separated by commas.
    labels
        `None`: no labels are published.
    signer
        Signs the labels; without one they are taken only where `label_signatures` is off.
    linger_ms
        How long the client waits to fill a batch. It is part of what a latency measurement sees:
        set it to 0 or 1 for one.
    """
    pace = pace or Pace()
    if labels is not None and signer is not None:
        signer.check(SOURCE)
    blocks = feed(batches, schema, labels, signer)
    if pace.is_set:
        blocks = ahead(blocks, items_max=BLOCKS_AHEAD_MAX)
    return publish_blocks(
        blocks,
        servers,
        pace=pace,
        watch=watch or Watch(),
        topics=(TRANSACTIONS, FEEDBACK),
        linger_ms=linger_ms,
    )


def publish_blocks(
    blocks: Generator[Block],
    servers: str,
    *,
    pace: Pace,
    watch: Watch,
    topics: Sequence[str],
    linger_ms: int = LINGER_MS,
) -> Published:
    """Publish records that are encoded already; a block is asked for when the last one was sent.

    `topics` are those that must exist, with equally many partitions; transactions' is the first.
    """
    with closing(blocks), _connected(servers, linger_ms) as producer, _calm_collector():
        run = _Run(producer, kafka_of(servers), _partitions(producer, servers, topics), pace, watch)
        return run.send_all(blocks)


@contextmanager
def _connected(servers: str, linger_ms: int) -> Iterator[Any]:
    wait_for_any(servers)
    try:
        producer = kafka_clients.producer(
            servers,
            client_id="fraudstream-publisher",
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=linger_ms,
            batch_size=BATCH_BYTES,
            delivery_timeout_ms=int(DELIVERY_SECONDS_MAX * 1_000),
            bootstrap_timeout_ms=int(CONNECT_SECONDS_MAX * 1_000),
            max_block_ms=int(CONNECT_SECONDS_MAX * 1_000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise no_broker(servers) from error
    try:
        yield producer
    finally:
        _close(producer)


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Let the garbage collector sleep while what is in flight is all there is.

    Else it looks through every future again and again: a third of all processor time.
    """
    first, *others = gc.get_threshold()
    gc.set_threshold(max(first, COLLECTED_OBJECTS_MIN), *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)


def _close(producer: Any) -> None:
    # Every record was counted by its own answer before. The client's flush falls over a batch that
    # was split meanwhile ("Future not done"): then it is asked again.
    for _ in range(CLOSE_ATTEMPTS):
        with suppress(KafkaError):
            producer.close(timeout=CONNECT_SECONDS_MAX)
            break


def wait_for_any(servers: str) -> None:
    """Wait until one of the servers takes connections: the client, left alone, leaks its own."""
    deadline = time.monotonic() + CONNECT_SECONDS_MAX
    places = [host_and_port(server) for server in servers.split(",")]
    while not any(_takes_connections(place) for place in places):
        if time.monotonic() > deadline:
            raise no_broker(servers)
        time.sleep(CONNECT_POLL_SECONDS)


def _takes_connections(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS_MAX).close()
    except (OSError, OverflowError):
        return False
    return True


def _partitions(producer: Any, servers: str, topics: Sequence[str]) -> int:
    """Give the number of partitions, which must be one for all topics."""
    counts = {topic: _partitions_of(producer, topic, servers) for topic in topics}
    if len(set(counts.values())) > 1:
        raise SettingError(
            f"topics {' and '.join(map(repr, topics))} must have equally many partitions, since "
            f"a label follows its transaction (got {' and '.join(map(str, counts.values()))})"
        )
    return counts[topics[0]]


def _partitions_of(producer: Any, topic: str, servers: str) -> int:
    topic = kafka_of(servers).topic(topic)
    try:
        partitions = producer.partitions_for(topic)
    except KafkaError:
        partitions = None
    if not partitions:
        raise SettingError(
            f"topic {topic!r} does not exist at {servers}: create the topics (fraudstream topics)"
        )
    return len(partitions)


class _InFlight:
    """Records of one topic that the broker has not answered for yet; at most `IN_FLIGHT_MAX`."""

    def __init__(self) -> None:
        self._futures: deque[Any] = deque()
        self.acknowledged = 0
        self.failed = 0
        self.reason = ""

    def add(self, future: Any) -> None:
        """Remember one more; where there is no room, wait for the oldest."""
        self._futures.append(future)
        if len(self._futures) > IN_FLIGHT_MAX:
            self._wait_for_oldest()

    def settle(self) -> None:
        """Count the oldest as far as they are answered."""
        futures = self._futures
        while futures and futures[0].is_done:
            self._count(futures.popleft())

    def fail(self, reason: str) -> None:
        """Count a record that could not even be handed over."""
        self.failed += 1
        self.reason = self.reason or reason

    def close(self, deadline: float) -> None:
        """Count all; whoever is not answered for by then (`time.monotonic()`) has failed."""
        while self._futures:
            with suppress(KafkaError):
                self._futures[0].get(timeout=max(0.0, deadline - time.monotonic()))
            self._count(self._futures.popleft())

    def _wait_for_oldest(self) -> None:
        try:
            self._futures[0].get(timeout=2 * DELIVERY_SECONDS_MAX)
        except KafkaError as error:
            if not self._futures[0].is_done:
                self.fail(_reason(error))
                self._futures.popleft()
        self.settle()

    def _count(self, future: Any) -> None:
        if future.succeeded():
            self.acknowledged += 1
        else:
            self.fail(_reason(future.exception))


def _reason(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error else "no answer from the broker in time"


class _Run:
    """One run: the schedule, the records in flight, and the counts."""

    def __init__(
        self, producer: Any, kafka: Kafka, partitions: int, pace: Pace, watch: Watch
    ) -> None:
        self._send_record = producer.send
        self._flush = producer.flush
        self._topic = cache(kafka.topic)
        self._pace = pace
        self._watch = watch
        self._transactions = _InFlight()
        self._labels = _InFlight()
        self._outcomes = _InFlight()
        self._all = (self._transactions, self._labels, self._outcomes)
        self._place = lru_cache(maxsize=KEYS_REMEMBERED_MAX)(_place_in(partitions))
        self._began = time.perf_counter()
        self._first_ms: int | None = None
        self._number = 0
        self._since_look = 0
        self._seen = (self._began, 0)
        self._ended = False

    def send_all(self, blocks: Iterable[Block]) -> Published:
        """Send every block when it is due; then wait for the answers."""
        event_time_ms = 0
        for block in blocks:
            if self._first_ms is None:
                # The clock begins when there is something to send.
                self._first_ms, self._began = block.time_ms[0], time.perf_counter()
            event_time_ms = self._send_block(block)
            if self._ended:
                break
        deadline = time.monotonic() + 2 * DELIVERY_SECONDS_MAX
        # It sends what lingers; what became of each record, the record's own answer says.
        with suppress(KafkaError):
            self._flush(timeout=2 * DELIVERY_SECONDS_MAX)
        for in_flight in self._all:
            in_flight.close(deadline)
        self._report(time.perf_counter(), event_time_ms)
        return self._published()

    def _published(self) -> Published:
        return Published(
            transactions=self._transactions.acknowledged,
            labels=self._labels.acknowledged,
            failed=self._failed,
            seconds=time.perf_counter() - self._began,
            reason=next((in_flight.reason for in_flight in self._all if in_flight.reason), ""),
            outcomes=self._outcomes.acknowledged,
        )

    @property
    def _failed(self) -> int:
        return sum(in_flight.failed for in_flight in self._all)

    def _send_block(self, block: Block) -> int:
        """Send a block's records in order; gives the last one's time."""
        time_ms = 0
        beside = self._outcomes if block.topic == OUTCOMES else self._labels
        headers = block.headers or [()] * len(block.key)
        rows = zip(
            block.transaction_id, block.key, block.value, block.time_ms, headers, strict=True
        )
        for transaction_id, key, value, time_ms, own in rows:
            self._since_look += 1
            if self._pace.is_set or self._since_look >= RECORDS_BETWEEN_LOOKS:
                self._wait_until_due(time_ms)
                if self._ended:
                    break
            if transaction_id:
                self._send_transaction(transaction_id, key, value)
            else:
                self._send(beside, block.topic, key, value, own)
                # Without transactions to follow, the labels themselves fill the schedule.
                self._number += block.is_tail
        return time_ms

    def _send_transaction(self, transaction_id: str, key: str, value: bytes) -> None:
        if self._watch.on_send is not None:
            self._watch.on_send(transaction_id, time.time())
        self._send(self._transactions, TRANSACTIONS, key, value)
        self._number += 1

    def _send(
        self, in_flight: _InFlight, topic: str, key: str, value: bytes, headers: Headers = ()
    ) -> None:
        key_bytes, partition = self._place(key)
        place = self._topic(topic)
        try:
            in_flight.add(self._send_record(place, value, key_bytes, list(headers), partition))
        except KafkaError as error:
            in_flight.fail(_reason(error))

    def _wait_until_due(self, time_ms: int) -> None:
        """Sleep until a record is due, looking meanwhile at what happens."""
        assert self._first_ms is not None
        due = self._began + self._pace.due_seconds(
            number=self._number, time_ms=time_ms - self._first_ms
        )
        while True:
            now = time.perf_counter()
            self._look(now, time_ms)
            if now >= due or self._ended:
                return
            time.sleep(min(max(due - now, TICK_SECONDS), WAIT_SECONDS_MAX))

    def _look(self, now: float, time_ms: int) -> None:
        self._since_look = 0
        for in_flight in self._all:
            in_flight.settle()
        self._ended = self._failed > 0 or self._watch.stop()
        if now - self._seen[0] >= PROGRESS_SECONDS:
            self._report(now, time_ms)

    def _report(self, now: float, event_time_ms: int) -> None:
        transactions, labels = self._transactions.acknowledged, self._labels.acknowledged
        before, published = self._seen
        self._seen = (now, transactions + labels)
        if self._watch.progress is not None:
            rate = (transactions + labels - published) / max(now - before, TICK_SECONDS)
            self._watch.progress(
                Progress(
                    transactions, labels, self._watch.total, rate, event_time_ms, now - self._began
                )
            )


def _place_in(partitions: int) -> Callable[[str], tuple[bytes, int]]:
    def place(key: str) -> tuple[bytes, int]:
        key_bytes = key.encode()
        return key_bytes, partition_of(key_bytes, partitions)

    return place
