"""The closed loop on Kafka: transactions out, decisions in, labels and outcomes back.

The stream's own event time is the clock, and it stands at the oldest transaction that is not
decided yet: so the world answers to every decision in the order of time, as it does in a replay.
What is published may run ahead of that clock by a few hours and no further, which bounds both what
must be remembered and how late a label can be. A decision that comes again finds nothing to answer
to.

    t1 .. t9 (10:00 to 11:00) ->    <- decisions    what is known by then ->    t10 .. (11:00 on) ->

>>> undecided = Undecided()
>>> undecided.add(["t1", "t2"], [1_000, 2_000], [0, 1])
>>> undecided.take("t2"), undecided.take("t2"), undecided.clock_ms
(1, None, 1000)
>>> undecided.take("t1"), undecided.clock_ms, undecided.lead_ms
(0, 2000, 0)
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import EVENT_TIME_MS_MAX
from pipeline.feedback_encoding import encode_label, encode_outcome
from pipeline.records import DecisionRecord
from pipeline.schema import Schema
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import DECISIONS, FEEDBACK, OUTCOMES, TRANSACTIONS
from producers.batch import EventBatch
from producers.closed_loop import PREFIXES, Case, ClosedLoop, LoopReport
from producers.decision_reader import DecisionReader, reading_decisions
from producers.encoding import TransactionEncoder
from producers.feed import Block
from producers.publisher import Pace, Published, Watch, publish_blocks

# Analysts answer within hours and card holders within days: half a day late would be noticed.
LEAD_MS_MAX = 6 * HOUR_MS
# Beyond this no more is published until some are decided: about 4 MB of ids.
UNDECIDED_MAX = 20_000
# An hour's records are sent together, but no more: decisions are read between two blocks.
BLOCK_EVENTS = 512
# A worker that crashed is back within its session's end; later nobody will answer.
PATIENCE_SECONDS = 60.0
POLL_MS = 50
TOPICS = (TRANSACTIONS, FEEDBACK, OUTCOMES, DECISIONS)
# After every label of an event that can be.
FOREVER_MS = EVENT_TIME_MS_MAX + 1_000 * DAY_MS

NO_HEADERS: Headers = ()

Stop = Callable[[], bool]


class Undecided:
    """What was published and is not decided yet, in the order of time, with its truth."""

    def __init__(self) -> None:
        self._truth: dict[str, tuple[int, int]] = {}
        self._newest_ms = 0

    def __len__(self) -> int:
        return len(self._truth)

    def add(self, ids: Sequence[str], times_ms: Sequence[int], truths: Sequence[int]) -> None:
        """Remember transactions that were published."""
        self._truth.update(zip(ids, zip(times_ms, truths, strict=True), strict=True))
        self._newest_ms = times_ms[-1]

    def take(self, transaction_id: str) -> int | None:
        """Give the truth of a transaction, once; `None` if it waits for no decision."""
        found = self._truth.pop(transaction_id, None)
        return None if found is None else found[1]

    @property
    def clock_ms(self) -> int:
        """The time up to which everything is decided."""
        return next(iter(self._truth.values()))[0] if self._truth else self._newest_ms

    @property
    def lead_ms(self) -> int:
        """How far what was published is ahead of the clock."""
        return self._newest_ms - self.clock_ms


@dataclass(frozen=True, slots=True)
class Closed:
    """What came of a closed run.

    Parameters
    ----------
    undecided
        Transactions that were published and got no decision.
    ignored
        Decisions that came again, or that somebody else's transactions got.
    gave_up
        The run ended since nobody decided any more.
    """

    published: Published
    report: LoopReport
    undecided: int
    ignored: int
    gave_up: bool


class LiveLoop:
    """The records of a closed loop in the order to be sent, as the decisions come in.

    Parameters
    ----------
    stop
        Asked whenever something is waited for.
    signer
        Signs the labels; without one they are taken only where `label_signatures` is off.
    undecided_max
        Transactions that may be undecided; beyond it no more are sent.
    patience_seconds
        Where nobody decides anything for so long, the run ends.
    """

    def __init__(
        self,
        schema: Schema,
        world: ClosedLoop,
        decisions: DecisionReader,
        stop: Stop,
        *,
        signer: LabelSigner | None = None,
        undecided_max: int = UNDECIDED_MAX,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._schema, self._world = schema, world
        self._decisions, self._stop = decisions, stop
        self._undecided_max, self._patience_seconds = undecided_max, patience_seconds
        self._signer = signer or LabelSigner(None)
        self._key = schema.entities[0].name
        self.undecided = Undecided()
        self.ignored = 0
        self.gave_up = False

    def blocks(self, batches: Iterable[EventBatch], *, to_end: bool) -> Generator[Block]:
        """Give transactions, and what has become known meanwhile.

        `to_end`: after the last transaction, everything that would still become known as well.
        """
        encoder = TransactionEncoder(self._schema)
        for part in _parts(batches):
            times = part.event_time_ms.tolist()
            ids, keys = list(part.transaction_id), list(part.keys[0])
            yield Block(ids, keys, encoder.encode(part), times)
            # It is asked for more once all of that was sent.
            self.undecided.add(part.transaction_id, times, part.is_fraud.tolist())
            self._read_until(lead_ms=LEAD_MS_MAX, count=self._undecided_max)
            if self.gave_up or self._stop():
                return
            yield from self._known(self.undecided.clock_ms)
        self._read_until(lead_ms=0, count=0)
        yield from self._known(self.undecided.clock_ms)
        if to_end and not self.gave_up:
            yield from self._known(FOREVER_MS, is_tail=True)

    def _read_until(self, *, lead_ms: int, count: int) -> None:
        """Read decisions, and go on until no more are missing than that."""
        self._react(self._decisions.poll(0))
        waited_since = time.monotonic()
        while len(self.undecided) > count or self.undecided.lead_ms > lead_ms:
            if self._stop():
                return
            if self._react(self._decisions.poll(POLL_MS)):
                waited_since = time.monotonic()
            elif time.monotonic() - waited_since > self._patience_seconds:
                self.gave_up = True
                return

    def _react(self, decisions: Sequence[DecisionRecord]) -> int:
        """Let decisions have their consequences; gives how many of them were awaited."""
        before = len(self.undecided)
        for decision in decisions:
            is_fraud = self.undecided.take(decision.transaction_id)
            if is_fraud is None:
                self.ignored += 1
                continue
            self._world.react(
                Case(
                    decision.transaction_id,
                    decision.keys[self._key],
                    decision.event_time,
                    decision.amount,
                    decision.taken,
                    decision.score,
                    is_fraud,
                )
            )
        return before - len(self.undecided)

    def _known(self, now_ms: int, *, is_tail: bool = False) -> Iterator[Block]:
        known = self._world.due(now_ms)
        schema, sign = self._schema, self._signer.headers
        outcomes = [
            (item.key, encode_outcome(item, schema), item.outcome_time_ms, NO_HEADERS)
            for item in known.outcomes
        ]
        labels = [
            (item.key, value, item.label_time_ms, sign(item.source, item.key.encode(), value))
            for item in known.labels
            for value in [encode_label(item, schema)]
        ]
        for topic, rows in ((OUTCOMES, outcomes), (FEEDBACK, labels)):
            for start in range(0, len(rows), BLOCK_EVENTS):
                part = rows[start : start + BLOCK_EVENTS]
                keys, values, times, headers = map(list, zip(*part, strict=True))
                yield Block([""] * len(part), keys, values, times, is_tail, topic, headers)


def publish_closed(
    batches: Iterable[EventBatch],
    schema: Schema,
    servers: str,
    world: ClosedLoop,
    *,
    signer: LabelSigner,
    pace: Pace | None = None,
    watch: Watch | None = None,
    to_end: bool = False,
) -> Closed:
    """Publish batches that are in time order, and answer to what is decided of them."""
    watch = watch or Watch()
    signer.check(*PREFIXES)
    with reading_decisions(servers) as decisions:
        loop = LiveLoop(schema, world, decisions, watch.stop, signer=signer)
        published = publish_blocks(
            loop.blocks(batches, to_end=to_end),
            servers,
            pace=pace or Pace(),
            watch=watch,
            topics=TOPICS,
        )
    return Closed(published, world.report(), len(loop.undecided), loop.ignored, loop.gave_up)


def _parts(batches: Iterable[EventBatch]) -> Iterator[EventBatch]:
    """Cut batches where hours begin, and no larger than a block may be."""
    for batch in batches:
        hours = batch.event_time_ms // HOUR_MS
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(batch)]
        for start, stop in zip(edges, edges[1:], strict=False):
            for place in range(start, stop, BLOCK_EVENTS):
                yield batch.slice(place, min(place + BLOCK_EVENTS, stop))
