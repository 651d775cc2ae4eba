"""One cluster under traffic, with its books: the ground that cases are run on.

A session goes on from case to case, since a start takes longer than most faults. After each case
it is brought to rest, the books are closed, and a session whose books do not close is given up.
"""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from benchmarks.chaos.books import READ_ORDER, Books
from benchmarks.chaos.checker import INPUTS, Finding, judge
from benchmarks.chaos.cluster import KAFKA, REDIS, Cluster
from benchmarks.chaos.held import Held, LiveStore, write_rows_back
from benchmarks.chaos.traffic import Feeder, Sent, Stream, TrafficOptions
from benchmarks.chaos.watch import ProgressWatch
from consumers.log_reader import LogReader
from consumers.model_topic import read_models
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner, ModelVerifier
from pipeline.topics import TRAINING
from stack.servers import Endpoints

# Ticks come every half second; what has not moved for so long is at rest.
REST_SECONDS = 2.5
REST_SECONDS_MAX = 300.0
POLL_SECONDS = 0.2


def chaos_settings(folder: Path, *, session_seconds: float) -> Settings:
    """Give the settings of the suite: short waits, small batches, maturity within minutes."""
    return Settings(
        state_dir=str(folder),
        # Of what is declined, silence proves nothing: the books tell both cases apart.
        mode="act",
        kafka_session_seconds=session_seconds,
        batch_events_max=200,
        maturity_days=1.0,
        pending_label_seconds=6 * 3600.0,
        snapshot_interval_seconds=0.5,
        # All three actions come up.
        review_score_min=0.012,
        decline_score_min=0.03,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where everything stands: positions as stored, ends of the inputs, offset of the champion."""

    stored: tuple[bytes | None, ...]
    ends: tuple[int, ...]
    champion: int

    @property
    def left(self) -> int:
        """How many records are not read yet, or learned and not yet in a version."""
        read = [int((text or b"0").split(b":")[0]) for text in self.stored]
        learned = self.ends[-1] - self.champion
        return sum(abs(a - b) for a, b in zip(read, self.ends, strict=True)) + abs(learned)


class Session:
    """A cluster, a stream and the books, for the length of a `with` block."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None],
        *,
        seed: int,
        traffic: TrafficOptions | None = None,
        endpoints: Endpoints | None = None,
    ) -> None:
        self._settings, self.say = settings, say
        self.schema = load_schema(settings.schema)
        self._traffic = traffic or TrafficOptions(seed=seed)
        self.sent = Sent()
        self.cluster = Cluster(settings, say, endpoints)

    def __enter__(self) -> "Session":
        self._exits = ExitStack()
        self.cluster = self._exits.enter_context(self.cluster)
        self.settings, self.fleet = self.cluster.settings, self.cluster.fleet
        self.redis = self.cluster.redis
        self.stream = Stream(self.schema, self._traffic, LabelSigner.of(self.settings))
        self._verifier = ModelVerifier(self.settings)
        self.watch = self._exits.enter_context(
            ProgressWatch(self.settings.redis_url, self.settings.partitions)
        )
        self.open_books()
        return self

    def __exit__(self, *_: object) -> None:
        self._close_readers()
        self._exits.close()

    @property
    def servers(self) -> str:
        """Where Kafka is."""
        return self.settings.kafka_servers

    @property
    def batch(self) -> int:
        """Events of the largest batch."""
        return self.settings.batch_events_max

    def open_books(self) -> None:
        """Begin new books, of all that stands in the logs now."""
        self._close_readers()
        self.books = Books(self.schema, self.settings)
        self._readers: dict[str, LogReader] = {}

    def _close_readers(self) -> None:
        for reader in getattr(self, "_readers", {}).values():
            reader.close()

    def feeding(self, rate: float) -> Feeder:
        """Feed the stream for the length of a `with` block; records a second are transactions."""
        return Feeder(self.stream, self.servers, rate=rate, sent=self.sent)

    def heal(self) -> None:
        """Let everything run again that was halted or ended."""
        for name in (KAFKA, REDIS):
            with suppress(LookupError):
                self.cluster.send(name, signal.SIGCONT)
        self.cluster.start_servers()
        for life in self.fleet.lives:
            self.fleet.send(life, signal.SIGCONT)

    def rest(self, seconds_max: float = REST_SECONDS_MAX) -> Standing:
        """Wait until all is read, learned and published, and nothing moves any more."""
        deadline = time.monotonic() + seconds_max
        standing, since = self.standing(), time.monotonic()
        while True:
            time.sleep(POLL_SECONDS)
            found = self.standing()
            now = time.monotonic()
            if found != standing:
                standing, since = found, now
            elif now - since >= REST_SECONDS and not found.left:
                return found
            if now > deadline:
                raise TimeoutError(
                    f"after {seconds_max:.0f} s {found.left} records are not through: {found}"
                )

    def standing(self) -> Standing:
        """Say where everything stands now."""
        places = [
            TopicPartition(topic, partition)
            for topic in INPUTS
            for partition in range(self.settings.partitions)
        ]
        places.append(TopicPartition(TRAINING, 0))
        names = [f"pos:{place.topic}:{place.partition}" for place in places[:-1]]
        consumer = KafkaConsumer(bootstrap_servers=self.servers.split(","))
        try:
            ends = consumer.end_offsets(places)
        finally:
            consumer.close()
        stored = LiveStore(self.redis).strings([*names, f"pos:{TRAINING}"])
        champion = read_models(self.servers).champion(self._verifier)
        return Standing(
            tuple(stored),
            tuple(ends[place] for place in places),
            champion.training_offset if champion else 0,
        )

    def close_books(self, held: Held | None = None) -> list[Finding]:
        """Bring all to rest, read on, and judge."""
        while True:
            before = self.rest()
            self.read_on()
            write_rows_back(self.settings.redis_url, self.schema)
            findings = judge(
                self.books, held or LiveStore(self.redis), self.schema, self.settings.partitions
            )
            findings += self._unsent()
            # What moved meanwhile may have been seen in two places at two moments.
            if self.standing() == before:
                return findings

    def read_on(self) -> None:
        """Read every log to the end that it has now."""
        for topic in READ_ORDER:
            reader = self._readers.get(topic)
            if reader is None:
                reader = self._readers[topic] = LogReader(self.servers, topic)
            for chunk in reader.chunks():
                self.books.take(topic, chunk)

    def _unsent(self) -> list[Finding]:
        """Whatever the broker acknowledged stands in its log; what failed may stand there too."""
        found = []
        for topic, acknowledged in self.sent.acknowledged.items():
            missing = acknowledged - self.books.counts[topic]
            if missing > 0:
                found.append(Finding("a", "lost", missing, f"acknowledged records of {topic}"))
        return found
