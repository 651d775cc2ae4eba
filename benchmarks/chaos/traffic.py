"""What is fed to the cluster: transactions, labels, outcomes, duplicates and rubbish, of one seed.

The stream goes on from one case to the next. Its records leave in small blocks, and it is held
back between two of them, so that nothing is half sent and every label has its transaction.

A duplicate follows so closely on its original that the card's own memory of ids knows it.
"""

import random
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kafka.errors import KafkaError

from pipeline.durations import HOUR_MS
from pipeline.errors import SettingError
from pipeline.events import Label, Outcome
from pipeline.feedback_encoding import encode_label, encode_outcome
from pipeline.label_words import Source
from pipeline.schema import Schema
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from producers.batch import EventBatch
from producers.feed import Block, LabelOptions, feed
from producers.publisher import Pace, Published, Watch, publish_blocks
from producers.simulator import SimulatorOptions, simulate

EVENTS_OF_BLOCK = 64
LABEL_DELAY_MS = 6 * HOUR_MS
# The others mature, or wait.
GENUINE_SHARE = 0.3
OUTCOME_SHARE = 0.05
LABEL_TWICE_SHARE = 0.05
LABEL_CORRECTED_SHARE = 0.03
LABEL_UNKNOWN_SHARE = 0.01
# As many events of a card may follow its duplicate's original, well within what a card remembers.
EVENTS_BEFORE_DUPLICATE_MAX = 8

RUBBISH: tuple[bytes, ...] = (
    b"hello",
    b"[1]",
    b'{"transaction_id":5}',
    b'{"transaction_id":"t","event_time":"yesterday"}',
    b'{"transaction_id":"\xff"}',
    b'{"transaction_id":"t","event_time":1600000000000,"card_id":"c1","terminal_id":"m1",'
    b'"amount":NaN,"currency":"EUR"}',
    b'{"x":' + b"[" * 2_000,
    b'{"note":"' + b"x" * 20_000 + b'"}',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What the stream holds; shares are of its transactions."""

    seed: int = 7
    customers: int = 2_000
    terminals: int = 1_000
    duplicate_share: float = 0.02
    rubbish_share: float = 0.01


class Stream:
    """The blocks of a stream, in order, for ever."""

    def __init__(
        self, schema: Schema, options: TrafficOptions, signer: LabelSigner | None = None
    ) -> None:
        self.options = options
        self._schema = schema
        self._signer = signer or LabelSigner(None)
        self._chance = random.Random(options.seed)
        world = SimulatorOptions(
            customers=options.customers, terminals=options.terminals, days=9_000, seed=options.seed,
            bursts_a_day=0.1,
        )  # fmt: skip
        labels = LabelOptions(delay_ms=LABEL_DELAY_MS, genuine_share=GENUINE_SHARE)
        self._blocks = feed(_parts(simulate(world)), schema, labels, self._signer)
        self._number = 0

    def next_blocks(self) -> list[Block]:
        """Give the next events, and what comes with them."""
        block = next(self._blocks)
        transactions = [row for row, name in enumerate(block.transaction_id) if name]
        return [
            block,
            *self._part(block, self._duplicates(block, transactions)),
            *self._rubbish(block, len(transactions)),
            *self._labels(block),
            *self._outcomes(block, transactions),
        ]

    def _part(self, block: Block, rows: Sequence[int]) -> Iterator[Block]:
        if rows:
            yield Block(
                [block.transaction_id[row] for row in rows],
                [block.key[row] for row in rows],
                [block.value[row] for row in rows],
                [block.time_ms[row] for row in rows],
            )

    def _duplicates(self, block: Block, rows: Sequence[int]) -> list[int]:
        since: Counter[str] = Counter()
        found = []
        for row in reversed(rows):
            is_close = since[block.key[row]] < EVENTS_BEFORE_DUPLICATE_MAX
            if is_close and self._chance.random() < self.options.duplicate_share:
                found.append(row)
            since[block.key[row]] += 1
        return found[::-1]

    def _rubbish(self, block: Block, events: int) -> Iterator[Block]:
        share = self.options.rubbish_share
        count = sum(self._chance.random() < share for _ in range(events))
        if not count:
            return
        values = [self._chance.choice(RUBBISH) for _ in range(count)]
        keys = [self._chance.choice(block.key) for _ in range(count)]
        self._number += count
        names = [f"rubbish-{self._number - number}" for number in range(count)]
        yield Block(names, keys, values, [block.time_ms[-1]] * count)

    def _labels(self, block: Block) -> Iterator[Block]:
        """Say some labels again, correct some, and speak of what never was."""
        keys, values, headers = [], [], []
        for row, name in enumerate(block.transaction_id):
            if name:
                if self._chance.random() < LABEL_UNKNOWN_SHARE:
                    keys.append(block.key[row])
                    values.append(self._unknown(name, block.key[row], block.time_ms[row]))
                    headers.append(self._signed("customer", keys[-1], values[-1]))
                continue
            if self._chance.random() < LABEL_TWICE_SHARE:
                keys.append(block.key[row])
                values.append(block.value[row])
                headers.append(block.headers[row])
        yield from self._beside(FEEDBACK, keys, values, block.time_ms[-1], headers)

    def _signed(self, source: Source, key: str, value: bytes) -> Headers:
        return self._signer.headers(source, key.encode(), value)

    def _unknown(self, name: str, key: str, time_ms: int) -> bytes:
        label = Label(f"u-{name}", f"never-{name}", key, True, "customer", time_ms)
        return encode_label(label, self._schema)

    def _outcomes(self, block: Block, rows: Sequence[int]) -> Iterator[Block]:
        """Settle some transactions, and correct what labels will say of some."""
        chosen = [row for row in rows if self._chance.random() < OUTCOME_SHARE]
        values = [
            encode_outcome(
                Outcome(block.transaction_id[row], block.key[row], "settled", block.time_ms[row]),
                self._schema,
            )
            for row in chosen
        ]
        yield from self._beside(
            OUTCOMES, [block.key[row] for row in chosen], values, block.time_ms[-1]
        )
        spoken = [row for row in rows if self._chance.random() < LABEL_CORRECTED_SHARE]
        # A customer's complaint, then the bank's word that there was nothing.
        sources: list[Source] = ["customer", "analyst"] * len(spoken)
        spoken = [row for row in spoken for _ in range(2)]
        said = [
            self._correction(block, row, source)
            for row, source in zip(spoken, sources, strict=True)
        ]
        keys = [block.key[row] for row in spoken]
        headers = [
            self._signed(source, key, value)
            for source, key, value in zip(sources, keys, said, strict=True)
        ]
        yield from self._beside(FEEDBACK, keys, said, block.time_ms[-1], headers)

    def _correction(self, block: Block, row: int, source: Source) -> bytes:
        name, time_ms = block.transaction_id[row], block.time_ms[row]
        is_fraud = source == "customer"
        label = Label(f"{source}-{name}", name, block.key[row], is_fraud, source, time_ms + HOUR_MS)
        return encode_label(label, self._schema)

    def _beside(
        self,
        topic: str,
        keys: list[str],
        values: list[bytes],
        time_ms: int,
        headers: Sequence[Headers] = (),
    ) -> Iterator[Block]:
        if keys:
            times = [time_ms] * len(keys)
            yield Block([""] * len(keys), keys, values, times, topic=topic, headers=headers)


def _parts(batches: Iterator[EventBatch]) -> Iterator[EventBatch]:
    for batch in batches:
        for start in range(0, len(batch), EVENTS_OF_BLOCK):
            yield batch.slice(start, start + EVENTS_OF_BLOCK)


@dataclass
class Sent:
    """What was acknowledged until now, by topic, and what was not."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, published: Published) -> None:
        """Count a run of the publisher."""
        self.acknowledged[TRANSACTIONS] += published.transactions
        self.acknowledged[FEEDBACK] += published.labels
        self.acknowledged[OUTCOMES] += published.outcomes
        self.failed += published.failed
        if published.reason:
            self.reasons.append(published.reason)


class Feeder:
    """Publishes a stream in a thread, for the length of a `with` block."""

    def __init__(self, stream: Stream, servers: str, *, rate: float, sent: Sent) -> None:
        self._stream, self._servers = stream, servers
        self._pace, self._sent = Pace(rate=rate), sent
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Hold the stream back, wait until all that was sent is answered for."""
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _blocks(self) -> Generator[Block]:
        while not self._ended.is_set():
            yield from self._stream.next_blocks()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    self._sent.add(self._publish())
                except (SettingError, KafkaError) as error:
                    # The broker is away for longer than the client waits: try again.
                    self._sent.reasons.append(str(error))
        except Exception as error:
            self._error = error

    def _publish(self) -> Published:
        return publish_blocks(
            self._blocks(),
            self._servers,
            pace=self._pace,
            watch=Watch(),
            topics=(TRANSACTIONS, FEEDBACK, OUTCOMES),
        )


def with_options(stream: Stream, **changes: Any) -> None:
    """Change what the stream holds from now on."""
    stream.options = replace(stream.options, **changes)
