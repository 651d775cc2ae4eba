"""The monitor process: reads decisions, training examples and dead letters, serves /metrics.

It belongs to no consumer group and commits nothing: every start reads from the beginning again
(or, when told so, from the end), and what it knows is a function of what it read. The rules are in
`pipeline/monitoring.py`; this shell only moves records, under one lock with those who look.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.dead_letters import HEADER
from consumers.endpoint import metrics_endpoint
from pipeline.feature_drift import FeaturePsi
from pipeline.features import FeatureKernel
from pipeline.metric_samples import Sample
from pipeline.metrics import registry_of
from pipeline.monitor_samples import monitor_samples
from pipeline.monitoring import READ_TOPICS, DeadLetter, Monitor, MonitorView
from pipeline.records import decode_decisions, decode_examples
from pipeline.rules import load_rules
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, TRAINING
from stack import kafka_clients
from stack.kafka_address import Kafka, kafka_of

logger = logging.getLogger(__name__)

# A wish to stop is heard after one poll, so that the process ends within a second.
POLL_MS = 200
CLOSE_MS = 500
# About 2 MB of records, 50 ms of work: a scrape waits for no longer.
RECORDS_MAX = 4_000
FETCH_BYTES_MAX = 8 * 1024 * 1024
# Topics that do not exist yet, or a broker that is away, are asked for again this often.
RETRY_SECONDS = 0.5
CONNECT_MS = 1_000


class MonitorProcess:
    """A monitor and the loop that feeds it.

    `monitor` may be read by others only through `view` and `samples`, which hold the lock.
    """

    def __init__(
        self, monitor: Monitor, settings: Settings, *, kafka_servers: str, from_start: bool
    ) -> None:
        self.monitor = monitor
        self._settings = settings
        self._kafka = kafka_of(kafka_servers)
        self._from_start = from_start
        self._lock = threading.Lock()

    def view(self) -> MonitorView:
        """Give what is known at this moment; from any thread."""
        with self._lock:
            return self.monitor.view()

    def samples(self) -> list[Sample]:
        """Give the metrics of this moment; from any thread."""
        with self._lock:
            return monitor_samples(self.monitor)

    def run(self, stop: threading.Event, on_ready: Callable[[int], None] | None = None) -> None:
        """Serve /metrics and read until stopped; `on_ready` is given the port."""
        with metrics_endpoint(
            registry_of("monitor", self.samples),
            job="monitor",
            state_dir=self._settings.state_dir,
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
        ) as port:
            consumer = _connected(self._kafka, stop)
            if consumer is None:
                return
            try:
                if _place(consumer, self._kafka, stop, from_start=self._from_start):
                    logger.info("monitor reads: partitions=%d", len(consumer.assignment()))
                    if on_ready is not None:
                        on_ready(port)
                    self._read(consumer, stop)
            finally:
                consumer.close(autocommit=False, timeout_ms=CLOSE_MS)

    def _read(self, consumer: KafkaConsumer, stop: threading.Event) -> None:
        is_away = False
        while not stop.is_set():
            try:
                polled = consumer.poll(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            except KafkaError as error:
                if not is_away:
                    logger.warning("monitor waits for kafka: %r", error)
                is_away = True
                stop.wait(RETRY_SECONDS)
                continue
            is_away = False
            with self._lock:
                for place, records in polled.items():
                    observe(self.monitor, self._kafka.names.logical(place.topic), records)
                self._note_behind(consumer)

    def _note_behind(self, consumer: KafkaConsumer) -> None:
        """Tell how far the reading is behind the ends, as the last answers of the broker said."""
        behind = dict.fromkeys(READ_TOPICS, 0)
        for place in consumer.assignment():
            end = consumer.highwater(place)
            if end is not None:
                behind[self._kafka.names.logical(place.topic)] += max(
                    0, end - consumer.position(place)
                )
        self.monitor.behind = behind


def observe(monitor: Monitor, topic: str, records: Sequence[Any]) -> None:
    """Give the records of one partition to the monitor."""
    if topic == DECISIONS:
        decisions = list(decode_decisions(record.value for record in records))
        monitor.observe_decisions(decisions, published_ms=records[-1].timestamp)
    elif topic == TRAINING:
        examples = list(decode_examples(record.value for record in records))
        monitor.observe_examples(examples, training_end=records[-1].offset + 1)
    else:
        monitor.observe_dead_letters(dead_letter_of(record.headers) for record in records)


def dead_letter_of(headers: Iterable[tuple[str, bytes | None]]) -> DeadLetter:
    """Read the headers of a dead letter; what is missing is empty.

    >>> dead_letter_of([("fraud.errors.reason", b"schema"), ("fraud.errors.offset", b"7")])
    DeadLetter(reason='schema', place=('', '', '7'))
    """
    said = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    topic, partition, offset, reason = (
        said.get(HEADER + name, "") for name in ("topic", "partition", "offset", "reason")
    )
    return DeadLetter(reason, (topic, partition, offset))


def build_monitor(
    settings: Settings, *, kafka_servers: str, from_start: bool = True
) -> MonitorProcess:
    """Put a monitor together; nothing is connected before `run`."""
    schema = load_schema(settings.schema)
    kernel = FeatureKernel(schema)
    monitor = Monitor(
        window_events=settings.quality_window_events,
        entity=schema.entities[0].name,
        minor_digits=schema.minor_digits,
        features=FeaturePsi(kernel.names),
        schema_hash=kernel.schema_hash,
        rule_codes=[rule.code for rule in load_rules(settings, schema).rules],
    )
    return MonitorProcess(monitor, settings, kafka_servers=kafka_servers, from_start=from_start)


def run_monitor(
    settings: Settings,
    *,
    kafka_servers: str,
    stop: threading.Event,
    on_ready: Callable[[int], None] | None = None,
    from_start: bool = True,
) -> None:
    """Run a monitor until stopped."""
    build_monitor(settings, kafka_servers=kafka_servers, from_start=from_start).run(stop, on_ready)


def _connected(kafka: Kafka, stop: threading.Event) -> KafkaConsumer | None:
    """Connect, however long the broker takes; `None` if stopped before."""
    is_away = False
    while not stop.is_set():
        # The client leaves a socket behind for each refused connection: so one is tried before.
        if any(map(_listens, kafka.split(","))):
            try:
                return _consumer(kafka)
            except KafkaError as error:
                logger.warning("monitor waits for kafka: %r", error)
        elif not is_away:
            is_away = True
            logger.warning("monitor waits for kafka: nobody listens on %s", kafka)
        stop.wait(RETRY_SECONDS)
    return None


def _listens(server: str) -> bool:
    host, _, port = server.strip().rpartition(":")
    try:
        address = (host.strip("[]"), int(port))
        socket.create_connection(address, timeout=CONNECT_MS / 1000).close()
    except (OSError, ValueError):
        return False
    return True


def _consumer(kafka: Kafka) -> KafkaConsumer:
    return kafka_clients.consumer(
        kafka,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        max_poll_records=RECORDS_MAX,
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
        bootstrap_timeout_ms=CONNECT_MS,
        # Its own metrics cost time for each record and nobody reads them.
        metrics_enabled=False,
    )


def _place(
    consumer: KafkaConsumer, kafka: Kafka, stop: threading.Event, *, from_start: bool
) -> bool:
    """Stand at the beginning or the end of all partitions; `False` if stopped before."""
    places = _places(consumer, kafka)
    while not places:
        if stop.wait(RETRY_SECONDS):
            return False
        places = _places(consumer, kafka)
    consumer.assign(places)
    if not from_start:
        # Known from now on: what is published after `on_ready` is read.
        for place, offset in consumer.end_offsets(places).items():
            consumer.seek(place, offset)
    return True


def _places(consumer: KafkaConsumer, kafka: Kafka) -> list[TopicPartition]:
    """Give all partitions, or none while a topic is missing."""
    topics = [kafka.topic(name) for name in READ_TOPICS]
    found = {topic: consumer.partitions_for_topic(topic) for topic in topics}
    if not all(found.values()):
        return []
    return [TopicPartition(topic, part) for topic in topics for part in sorted(found[topic])]
