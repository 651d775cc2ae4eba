"""Dead letters sent again after a fix, each at most once.

Redis keeps a mark for each input record whose dead letter was sent again. It is set before the
record is sent and confirmed when Kafka has acknowledged it. A crash in between leaves a mark that
is not confirmed: whether the record came is not known, so it is never sent by itself again, and
every run says so. The mark is of the place of the input record, not of the dead letter: one that
an outbox published twice is sent once.

    redrive:marks     place of the input record: when, by whom, of which dead letter, landed where
    redrive:ledger    how many records were `sent`, `skipped`, `refused`, or `failed` to be sent
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from kafka.errors import KafkaError, KafkaTimeoutError
from redis import Redis

from consumers.dead_letters import REDRIVE_HEADER, REDRIVE_SOURCE, DeadLetter, Headers
from consumers.log_reader import LogReader
from consumers.redis_client import as_bytes
from pipeline.durations import DAY_MS
from pipeline.errors import REASON_HELP, DataError
from pipeline.partitioner import partition_of
from pipeline.topics import DEAD_LETTERS, FEEDBACK, OUTCOMES, TRANSACTIONS
from stack import kafka_clients
from stack.kafka_address import kafka_of

REDRIVE_BY = REDRIVE_HEADER + "by"
MARKS, LEDGER = "redrive:marks", "redrive:ledger"
INPUTS = (TRANSACTIONS, FEEDBACK, OUTCOMES)
# So many are marked and sent together; a crash leaves no more than these unconfirmed.
BATCH = 200
SEND_SECONDS_MAX = 30.0
# A mark goes when its dead letter has: the topic keeps them for 30 days.
MARK_DAYS = 60

Outcome = Literal["sent", "skipped", "unconfirmed", "refused", "failed"]


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a record that was sent again; `landed` is its new place, once known."""

    letter: str
    at_ms: int
    by: str
    landed: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A dead letter, and when it was published, in milliseconds since 1970."""

    letter: DeadLetter
    published_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant: those that fit in every respect that is given.

    Parameters
    ----------
    since_ms, until_ms
        Published from the one to before the other.
    ids
        The key, or a text that stands in quotes in the value.
    places
        Partition and offset in `dead-letters`.
    text
        Stands in the message, in capitals or not.
    """

    reasons: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    ids: frozenset[str] = frozenset()
    places: frozenset[tuple[int, int]] = frozenset()
    text: str = ""

    def fits(self, item: Read) -> bool:
        """Say whether a dead letter is meant."""
        letter, said = item.letter, item.letter.said
        return (
            (not self.reasons or said["reason"] in self.reasons)
            and (not self.topics or said["topic"] in self.topics)
            and (self.since_ms is None or item.published_ms >= self.since_ms)
            and (self.until_ms is None or item.published_ms < self.until_ms)
            and (not self.places or (letter.partition, letter.offset) in self.places)
            and self.text.lower() in said.get("message", "").lower()
            and (not self.ids or any(_names(letter, name) for name in self.ids))
        )


def _names(letter: DeadLetter, name: str) -> bool:
    return letter.key == name.encode() or f'"{name}"'.encode() in (letter.value or b"")


class DeadLetters:
    """The dead letters of one Kafka, as they were when this was made; each record's once."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        with LogReader(servers, DEAD_LETTERS) as reader:
            self.begins, self.ends = reader.begins, reader.ends

    @property
    def count(self) -> int:
        """How many records the topic holds."""
        return sum(self.ends.values()) - sum(self.begins.values())

    def read(self, wanted: Filter) -> Iterator[Read]:
        """Give those that are meant, the oldest of each partition first."""
        seen: set[str] = set()
        numbers = sorted({p for p, _ in wanted.places} & self.ends.keys()) or None
        if wanted.places and numbers is None:
            return
        with LogReader(self._servers, DEAD_LETTERS, numbers) as reader:
            for chunk in reader.chunks(self.ends):
                for item in filter(None, map(_read, chunk)):
                    if wanted.fits(item) and item.letter.source not in seen:
                        seen.add(item.letter.source)
                        yield item

    def at(self, partition: int, offset: int) -> Read:
        """Give the one at a place; refuse a place that holds none."""
        begin, end = self.begins.get(partition), self.ends.get(partition)
        if begin is None or end is None:
            raise DataError(
                f"there is no partition {partition}: {DEAD_LETTERS} has 0 to {max(self.ends)}"
            )
        if not begin <= offset < end:
            held = f"offsets {begin} to {end - 1}" if begin < end else "nothing"
            raise DataError(f"{DEAD_LETTERS}[{partition}] holds {held}, not {offset}")
        with LogReader(self._servers, DEAD_LETTERS, [partition]) as reader:
            reader.seek(offset)
            [record, *_] = next(reader.chunks(self.ends))
        item = _read(record)
        if item is None or record.offset != offset:
            raise DataError(f"{DEAD_LETTERS}[{partition}] offset {offset}: no dead letter of ours")
        return item


def _read(record: Any) -> Read | None:
    letter = DeadLetter.of(
        record.partition, record.offset, record.key, record.value, record.headers
    )
    return None if letter is None else Read(letter, int(record.timestamp))


class Marks:
    """The marks in Redis, and the ledger beside them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def get(self, source: str) -> Mark | None:
        """Give the mark of an input record."""
        found = as_bytes(self._redis.hget(MARKS, source))
        return msgspec.json.decode(found, type=Mark) if found else None

    def all(self) -> dict[str, Mark]:
        """Give every mark by its input record's place."""
        return {
            as_bytes(key).decode(): msgspec.json.decode(as_bytes(value), type=Mark)
            for key, value in self._redis.hscan_iter(MARKS, count=1_000)
        }

    def take(self, marks: Mapping[str, Mark]) -> dict[str, bool]:
        """Set marks, and say of each whether it was free."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for source, mark in marks.items():
                pipeline.hsetnx(MARKS, source, msgspec.json.encode(mark).decode())
            return dict(zip(marks, map(bool, pipeline.execute()), strict=True))

    def confirm(self, marks: Mapping[str, Mark]) -> None:
        """Note where marked records came to stand."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for source, mark in marks.items():
                pipeline.hset(MARKS, source, msgspec.json.encode(mark).decode())
            pipeline.execute()

    def free(self, source: str) -> None:
        """Take back the mark of a record that was certainly not sent."""
        self._redis.hdel(MARKS, source)

    def prune(self, begins: Mapping[int, int], now_ms: int) -> None:
        """Remove old marks whose dead letters the topic no longer holds."""
        for source, mark in self.all().items():
            partition, offset = map(int, mark.letter.split(":"))
            is_gone = offset < begins.get(partition, 0)
            if is_gone and mark.at_ms < now_ms - MARK_DAYS * DAY_MS:
                self._redis.hdel(MARKS, source)

    def count(self, outcomes: Counter[Outcome]) -> None:
        """Add to the ledger."""
        for name, number in outcomes.items():
            self._redis.hincrby(LEDGER, name, number)

    def ledger(self) -> dict[str, int]:
        """Give the ledger."""
        found: Any = self._redis.hgetall(LEDGER)
        return {as_bytes(name).decode(): int(number) for name, number in found.items()}


def refusal(letter: DeadLetter, *, force: bool, partitions: int) -> str | None:
    """Say why a dead letter is not sent again; `None` if it may be.

    `partitions` is the number of partitions of its topic. What `force` cannot overrule is that
    its bytes are no longer the original ones, or that its topic is none that is read.
    """
    topic, reason = letter.said["topic"], letter.said["reason"]
    if topic not in INPUTS:
        return f"topic {topic!r} is no input"
    if letter.is_masked:
        return "masked: its bytes are no longer the original ones"
    if force:
        return None
    help_ = next((item for name, item in REASON_HELP.items() if name == reason), None)
    if help_ is None or not help_.is_mended_by_sending:
        return f"{reason}: the same bytes would fail again (--force sends them)"
    is_at_home = target_of(letter, partitions) == int(letter.said["partition"])
    if reason == "wrong_partition" and is_at_home:
        return "wrong_partition: its key does not lead elsewhere (--force sends it)"
    return None


def target_of(letter: DeadLetter, partitions: int) -> int:
    """Give the partition that a record is sent to: its key's, or its old one without a key."""
    if letter.key is None:
        return int(letter.said["partition"]) % partitions
    return partition_of(letter.key, partitions)


def headers_of(letter: DeadLetter, by: str) -> Headers:
    """Give the headers of a record that is sent again: its own, and where it comes from."""
    # The client sends no header without a value.
    own = [
        (name, value or b"")
        for name, value in letter.headers
        if not name.startswith(REDRIVE_HEADER)
    ]
    return [*own, (REDRIVE_SOURCE, letter.place.encode()), (REDRIVE_BY, by.encode())]


def earlier_of(letter: DeadLetter) -> str | None:
    """Give the place of the dead letter whose record was sent again and failed once more."""
    found = [value for name, value in letter.headers if name == REDRIVE_SOURCE]
    return found[-1].decode(errors="replace") if found and found[-1] is not None else None


@dataclass(slots=True)
class Sent:
    """What became of one dead letter."""

    letter: DeadLetter
    outcome: Outcome
    why: str = ""
    landed: str | None = None


@dataclass(slots=True)
class Redriven:
    """What became of all; `refusals` counts the reasons of those that were refused."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self, item: Sent) -> None:
        """Count one."""
        self.outcomes[item.outcome] += 1
        if item.outcome == "refused":
            self.refusals[item.why] += 1

    @property
    def is_clean(self) -> bool:
        """Whether every one was sent, now or before."""
        return not any(self.outcomes[name] for name in ("unconfirmed", "refused", "failed"))


class Redrive:
    """Sends dead letters again.

    Parameters
    ----------
    by
        Who does it; stands in the marks and in a header.
    now_ms
        Gives the time, in milliseconds since 1970.
    """

    def __init__(
        self,
        servers: str,
        marks: Marks,
        *,
        by: str,
        force: bool,
        now_ms: Callable[[], int],
    ) -> None:
        self._marks, self._by, self._force, self._now_ms = marks, by, force, now_ms
        self._topic = kafka_of(servers).topic
        self._producer = kafka_clients.producer(
            servers, acks="all", enable_idempotence=True, linger_ms=5
        )
        self._partitions: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._producer.close()

    def plan(self, item: Read) -> Sent:
        """Say what would become of a dead letter."""
        letter = item.letter
        why = self._refusal(letter)
        if why is not None:
            return Sent(letter, "refused", why)
        return self._marked(letter) or Sent(letter, "sent")

    def send(self, items: Sequence[Read]) -> list[Sent]:
        """Send dead letters again, in their order, and wait until all are acknowledged."""
        said = {item.letter.place: self._refusal(item.letter) for item in items}
        free = self._marks.take(
            {
                item.letter.source: Mark(item.letter.place, self._now_ms(), self._by)
                for item in items
                if said[item.letter.place] is None
            }
        )
        done: list[Sent] = []
        waiting: list[tuple[Sent, Any]] = []
        for item in items:
            letter = item.letter
            if why := said[letter.place]:
                done.append(Sent(letter, "refused", why))
            elif not free[letter.source]:
                done.append(self._marked(letter) or Sent(letter, "skipped"))
            else:
                done.append(self._hand_over(letter, waiting))
        self._wait(waiting)
        return done

    def _hand_over(self, letter: DeadLetter, waiting: list[tuple[Sent, Any]]) -> Sent:
        topic = letter.said["topic"]
        sent = Sent(letter, "unconfirmed", "Kafka did not acknowledge it")
        try:
            future = self._producer.send(
                self._topic(topic),
                letter.value,
                letter.key,
                headers=list(headers_of(letter, self._by)),
                partition=target_of(letter, self._partitions[topic]),
            )
        except (KafkaError, AssertionError, ValueError, TypeError) as error:
            # The client itself refused it: it was certainly not sent.
            self._marks.free(letter.source)
            return Sent(letter, "failed", f"{type(error).__name__}: {error}")
        waiting.append((sent, future))
        return sent

    def _wait(self, waiting: Sequence[tuple[Sent, Any]]) -> None:
        with suppress(KafkaTimeoutError):
            self._producer.flush(timeout=SEND_SECONDS_MAX)
        confirmed: dict[str, Mark] = {}
        for sent, future in waiting:
            try:
                found = future.get(timeout=SEND_SECONDS_MAX)
            except KafkaError as error:
                sent.why = f"{type(error).__name__}: {error}"
                continue
            sent.outcome, sent.why = "sent", ""
            sent.landed = f"{sent.letter.said['topic']}:{found.partition}:{found.offset}"
            letter = sent.letter
            mark = Mark(letter.place, self._now_ms(), self._by, sent.landed)
            confirmed[letter.source] = mark
        self._marks.confirm(confirmed)

    def _refusal(self, letter: DeadLetter) -> str | None:
        topic = letter.said["topic"]
        if topic in INPUTS and topic not in self._partitions:
            self._partitions[topic] = len(self._producer.partitions_for(self._topic(topic)))
        return refusal(letter, force=self._force, partitions=self._partitions.get(topic, 1))

    def _marked(self, letter: DeadLetter) -> Sent | None:
        mark = self._marks.get(letter.source)
        if mark is None:
            return None
        if mark.landed is None:
            why = f"marked by {mark.by}, not confirmed: it may have been lost, or sent"
            return Sent(letter, "unconfirmed", why)
        return Sent(letter, "skipped", f"sent before by {mark.by}", mark.landed)
