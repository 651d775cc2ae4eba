"""Traffic in which everything happens that the dashboard shows.

Simulated card payments, and beside them each day: transactions that were sent before, one that is
late, input that nothing can be made of, outcomes, labels that were sent before or belong to
nothing, and analysts, who answer within an hour or say the opposite of an earlier label. From the
drift day on customers spend twice as much, and a tenth of the cards is in other hands. The stream
pauses once, so that it can be looked at before the drift and after it.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from kafka import KafkaProducer

from pipeline.durations import DAY_MS
from pipeline.events import Label, Outcome
from pipeline.feedback_encoding import encode_label, encode_outcome
from pipeline.label_words import Source
from pipeline.partitioner import partition_of
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from producers.batch import EventBatch
from producers.encoding import TransactionEncoder, label_id_of
from producers.feed import LabelOptions
from producers.publisher import Pace, Published, Watch, publish
from producers.simulator import Drift, SimulatorOptions, simulate

CUSTOMERS, TERMINALS, SEED = 400, 800, 7
# Features are compared from day 30 on: their reference is whole on day 43, their window on day 56.
PAUSE_DAY, DRIFT_DAY, DAYS = 58, 60, 74
LABEL_DELAY_DAYS = 7
# Analysts look again at payments whose labels came two days ago.
SECOND_LOOK_DAYS = LABEL_DELAY_DAYS + 2
TAKEN_CARD_ENDING = "7"
ODD_ROWS_A_DAY = 5
LATE_MS = 3 * DAY_MS


@dataclass(frozen=True, slots=True)
class Sent:
    """Where one record goes, and what it says."""

    topic: str
    key: str
    value: bytes
    headers: Headers = ()


class Traffic:
    """Publishes the stream in a thread; it waits at the pause until `go_on` is called."""

    def __init__(self, settings: Settings, schema: Schema, *, rate: float) -> None:
        self._settings, self._schema, self._rate = settings, schema, rate
        self._encoder = TransactionEncoder(schema)
        self._signer = LabelSigner.of(settings)
        self._days: deque[EventBatch] = deque(maxlen=SECOND_LOOK_DAYS + 1)
        # What goes out with a day, by the first transaction of it.
        self._beside: dict[str, list[Sent]] = {}
        self._stopped = threading.Event()
        self._go_on = threading.Event()
        self.pauses = threading.Event()
        self.published: Published | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopped.set()
        self._go_on.set()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether there is more to come."""
        return self._thread.is_alive()

    def go_on(self) -> None:
        """Let what comes behind the pause be published."""
        self._go_on.set()

    def _run(self) -> None:
        with closing(KafkaProducer(bootstrap_servers=self._settings.kafka_servers)) as producer:

            def send_beside(transaction_id: str, sent_at: float) -> None:
                for sent in self._beside.pop(transaction_id, ()):
                    partition = partition_of(sent.key.encode(), self._settings.partitions)
                    key, headers = sent.key.encode(), list(sent.headers)
                    producer.send(sent.topic, sent.value, key, partition=partition, headers=headers)

            self.published = publish(
                self._batches(),
                self._schema,
                self._settings.kafka_servers,
                pace=Pace(rate=self._rate),
                labels=LabelOptions(delay_ms=LABEL_DELAY_DAYS * DAY_MS),
                signer=self._signer,
                watch=Watch(stop=self._stopped.is_set, on_send=send_beside),
            )

    def _batches(self) -> Iterator[EventBatch]:
        for number, batch in enumerate(_world()):
            if number == PAUSE_DAY:
                self.pauses.set()
                self._go_on.wait()
            self._days.append(batch)
            if number > 0:
                self._beside[batch.transaction_id[0]] = list(self._odd_ones(number))
            yield batch

    def _odd_ones(self, number: int) -> Iterator[Sent]:
        yesterday = self._days[-2]
        yield Sent(TRANSACTIONS, "c1", b"{not json")
        yield from self._again(yesterday.slice(len(yesterday) - ODD_ROWS_A_DAY, len(yesterday)))
        yield from self._late(yesterday.slice(0, 1))
        # Not the same number each day, so that what waits for its decision is seen to change.
        for nothing in range(number % ODD_ROWS_A_DAY):
            yield self._label(f"no-such-{number}-{nothing}", "c1", yesterday, 1, is_fraud=True)
        for row in range(ODD_ROWS_A_DAY):
            name, key, is_fraud = _row(yesterday, row)
            wrong = row == 0
            yield self._label(name, key, yesterday, 0, is_fraud=is_fraud != wrong, by="analyst")
            settled = Outcome(name, key, "settled", int(yesterday.event_time_ms[-1]))
            yield Sent(OUTCOMES, key, encode_outcome(settled, self._schema))
        if number >= SECOND_LOOK_DAYS:
            yield from self._second_look(self._days[0])

    def _again(self, batch: EventBatch) -> Iterable[Sent]:
        values = self._encoder.encode(batch)
        return (Sent(TRANSACTIONS, *pair) for pair in zip(batch.keys[0], values, strict=True))

    def _late(self, batch: EventBatch) -> Iterable[Sent]:
        ids = [f"late-{text}" for text in batch.transaction_id]
        times = batch.event_time_ms - LATE_MS
        return self._again(replace(batch, transaction_id=ids, event_time_ms=times))

    def _second_look(self, batch: EventBatch) -> Iterator[Sent]:
        """Say of some payments what was said already, and of one the opposite."""
        for row in range(ODD_ROWS_A_DAY, 2 * ODD_ROWS_A_DAY):
            name, key, is_fraud = _row(batch, row)
            yield self._label(name, key, batch, LABEL_DELAY_DAYS, is_fraud=is_fraud)
        yield self._label(name, key, batch, SECOND_LOOK_DAYS, is_fraud=not is_fraud, by="analyst")

    def _label(
        self,
        name: str,
        key: str,
        batch: EventBatch,
        after_days: int,
        *,
        is_fraud: bool,
        by: Source = "simulated",
    ) -> Sent:
        label_time_ms = int(batch.event_time_ms[-1]) + after_days * DAY_MS
        label_id = label_id_of(name) if by == "simulated" else f"{by}-{name}"
        label = Label(label_id, name, key, is_fraud, by, label_time_ms)
        value = encode_label(label, self._schema)
        return Sent(FEEDBACK, key, value, self._signer.headers(by, key.encode(), value))


def _row(batch: EventBatch, row: int) -> tuple[str, str, bool]:
    return batch.transaction_id[row], batch.keys[0][row], bool(batch.is_fraud[row])


def _world() -> Iterator[EventBatch]:
    drift = Drift(day=DRIFT_DAY, amount_factor=2.0)
    options = SimulatorOptions(
        customers=CUSTOMERS, terminals=TERMINALS, days=DAYS, seed=SEED, drift=drift
    )
    for number, batch in enumerate(simulate(options)):
        if number >= DRIFT_DAY:
            for row, card in enumerate(batch.keys[0]):
                if card.endswith(TAKEN_CARD_ENDING):
                    batch.is_fraud[row] = 1
        yield batch
