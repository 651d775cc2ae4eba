"""What a labeller published that its store knows nothing of, since the store is an older copy.

A Redis that was restored has forgotten its latest commits, but the `training` log has not. So a
labeller that takes over looks through the end of that log for examples of its own whose number its
position has not reached. Its numbers go on behind them, and each is kept, by transaction and label,
until the label comes again: it is then settled as it was, under its old number, and not published.

Looking begins at `te:P`, an end that the log had before the commit that stored it, so whatever a
copy does not know lies behind the copy's own mark.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.decision_reader import connected
from consumers.log_values import Wanted
from pipeline.commit import Change
from pipeline.errors import CommitError
from pipeline.topics import TRAINING
from stack.kafka_address import kafka_of

RECORDS_MAX = 5_000
# A broker that gives nothing of what it says it holds is away.
ANSWER_SECONDS_MAX = 30.0
# Examples that one commit takes note of.
NOTED_MAX = 3_000


class Numbered(msgspec.Struct, frozen=True, gc=False):
    """The part of a training example that tells it from all others."""

    partition: int
    training_seq: int
    transaction_id: str
    label_id: str


_DECODER = msgspec.json.Decoder(Numbered)


class TrainingReader:
    """Reads the end of the training log; it connects when it is first asked."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._place = TopicPartition(kafka_of(servers).topic(TRAINING), 0)
        self._consumer: AIOKafkaConsumer | None = None

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def beyond(self, start: int, *, partition: int, seq: int) -> tuple[list[Numbered], int]:
        """Give a partition's examples from a number on, in their order, and the end of the log.

        Reading begins at the offset `start`, or where the log begins.
        """
        consumer = await self._connected()
        first = int((await consumer.beginning_offsets([self._place]))[self._place])
        end = int((await consumer.end_offsets([self._place]))[self._place])
        found: dict[int, Numbered] = {}
        consumer.seek(self._place, max(start, first))
        while await consumer.position(self._place) < end:
            polled = await consumer.getmany(
                self._place, timeout_ms=int(ANSWER_SECONDS_MAX * 1000), max_records=RECORDS_MAX
            )
            records: list[Any] = polled.get(self._place, [])
            if not records:
                raise CommitError(
                    f"{self._place.topic}[0] gave nothing for {ANSWER_SECONDS_MAX:.0f} s"
                )
            for example in _decoded(value for _, value in records):
                if example.partition == partition and example.training_seq >= seq:
                    found.setdefault(example.training_seq, example)
        return [found[number] for number in sorted(found)], end

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await connected(self._servers, self._place, Wanted())
        return self._consumer


def _decoded(values: Iterable[bytes | None]) -> Iterator[Numbered]:
    for value in values:
        try:
            yield _DECODER.decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The trainer says so of it.
            continue


class LearnedBefore:
    """Examples in the log that the store had forgotten, until their labels have come again.

    >>> before = LearnedBefore(3, {b"t1/matured-t1": b"7", b"t1/l1": b"9"})
    >>> before.number("t1", "l1"), before.number("t2", "l1"), before.knows("t1")
    (9, None, True)
    >>> before.taken("t1", "l1")
    [('HDEL', 'again:3', 't1/matured-t1', 't1/l1')]
    >>> before.forget("t1", "l1")
    >>> before.knows("t1")
    False
    """

    def __init__(self, partition: int, stored: dict[bytes, bytes]) -> None:
        self._key = f"again:{partition}"
        self._numbers: dict[str, dict[str, int]] = {}
        for field, number in stored.items():
            transaction_id, _, label_id = field.decode().partition("/")
            self._numbers.setdefault(transaction_id, {})[label_id] = int(number)

    def __bool__(self) -> bool:
        """Say whether there is anything that has not come again."""
        return bool(self._numbers)

    def knows(self, transaction_id: str) -> bool:
        """Say whether anything was learned of a transaction."""
        return transaction_id in self._numbers

    def number(self, transaction_id: str, label_id: str) -> int | None:
        """Give the number under which a label was learned; `None`: it was not."""
        return self._numbers.get(transaction_id, {}).get(label_id)

    def noted(self, examples: Sequence[Numbered]) -> list[Change]:
        """Give the changes that keep these examples."""
        words = [
            word
            for example in examples
            for word in (f"{example.transaction_id}/{example.label_id}", example.training_seq)
        ]
        return [("HSET", self._key, *words)] if words else []

    def taken(self, transaction_id: str, label_id: str) -> list[Change]:
        """Give the changes that let go of an example, and of those that it has superseded."""
        fields = [f"{transaction_id}/{label}" for label in self._until(transaction_id, label_id)]
        return [("HDEL", self._key, *fields)] if fields else []

    def forget(self, transaction_id: str, label_id: str) -> None:
        """Let go of what `taken` names, once that is committed."""
        for label in self._until(transaction_id, label_id):
            del self._numbers[transaction_id][label]
        if not self._numbers.get(transaction_id, {"": 0}):
            del self._numbers[transaction_id]

    def _until(self, transaction_id: str, label_id: str) -> list[str]:
        numbers = self._numbers.get(transaction_id, {})
        last = numbers.get(label_id, -1)
        return [label for label, number in numbers.items() if number <= last]
