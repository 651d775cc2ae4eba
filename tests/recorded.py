"""What a live run leaves in its logs, made in memory: for the tests of those who read it again."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from models import make_model
from pipeline.admission import Admission
from pipeline.controls import Controls
from pipeline.durations import DAY_MS
from pipeline.engine import Engine, Version
from pipeline.features import FeatureKernel
from pipeline.feedback import MemoryWaiting
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.records import TrainingExample, encode_record, pack_features
from pipeline.rules import NO_RULES, Rules
from pipeline.settings import Settings
from pipeline.transactions import TransactionDecoder
from pipeline.version_fold import TrainingLog, TrainingRecords
from tests.strategies import CARD, MONDAY_MS, example, traffic

KERNEL = FeatureKernel(CARD)
NAMES = ("additive", "logistic")
# When the records of these logs arrived, later than any event.
ARRIVED_MS = MONDAY_MS + 100 * DAY_MS


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it stands in a log."""

    partition: int
    offset: int
    value: bytes | None
    timestamp: int = ARRIVED_MS
    key: bytes | None = None


def training(count: int = 400) -> list[TrainingExample | None]:
    """Give a training log with a duplicate and a record that is none in it."""
    chance = np.random.default_rng(3)
    log: list[TrainingExample | None] = [
        example(
            place,
            schema_hash=KERNEL.schema_hash,
            features=pack_features(chance.normal(size=len(KERNEL.names))),
            verdict=("genuine", "fraud")[place % 3 == 0],
            event_time=MONDAY_MS + place * 60_000,
            keys={"card": f"c{place % 7}", "terminal": f"m{place % 4}"},
        )
        for place in range(count - 2)
    ]
    log.insert(count // 4, log[count // 4 - 1])
    log.insert(count // 2, None)
    return log


def as_log(examples: Sequence[TrainingExample | None]) -> TrainingLog:
    """Give examples as the log that the core reads."""

    def read(start: int) -> TrainingRecords:
        yield from zip(range(start, len(examples)), examples[start:], strict=True)

    return read


def folded(
    examples: Sequence[TrainingExample | None], offset: int, names: Sequence[str] = NAMES
) -> Learner:
    """Fold a log up to an offset, one example at a time."""
    models = [make_model(name, KERNEL.names) for name in names]
    learner = Learner(CARD, KERNEL.schema_hash, models)
    for one in examples[:offset]:
        if one is not None:
            learner.learn(learner.fresh([one]))
    learner.profiles.offset = offset
    return learner


@dataclass
class Partition:
    """One partition of transactions and decisions, as a worker with these settings leaves it."""

    number: int
    settings: Settings
    log: Sequence[TrainingExample | None]
    transactions: list[Record] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._learner = folded(self.log, 0, ())
        self._label_offset = 0
        profiles = MemoryProfiles(CARD, self._learner.profiles)
        self._engine = Engine(CARD, self.settings, profiles, MemoryWaiting(1))
        self._decoder = TransactionDecoder(CARD)

    def learn_labels(self, offset: int) -> None:
        """Let labels teach the profiles up to an offset of the training log."""
        for one in self.log[self._learner.offset : offset]:
            if one is not None:
                self._learner.learn(self._learner.fresh([one]))
        self._learner.profiles.offset = offset

    def decide(
        self,
        values: Sequence[bytes | None],
        version: int,
        *,
        size: int = 1_000,
        rules: Rules = NO_RULES,
    ) -> None:
        """Take transactions, and decide them with the models as of a training offset."""
        models = folded(self.log, version).models
        champion, *challengers = (Version(model, version) for model in models)
        self._engine.adopt(champion, challengers, rules)
        for start in range(0, len(values), size):
            self._decide(values[start : start + size])

    def say(self, controls: Controls) -> None:
        """Let operators say what holds from now on."""
        self._engine.adopt_controls(controls)

    def decide_by_rules(self, values: Sequence[bytes | None], rules: Rules) -> None:
        """Take transactions, and decide them without a model."""
        self._engine.adopt_rules(rules)
        self._decide(values)

    def _decide(self, values: Sequence[bytes | None]) -> None:
        first = len(self.transactions)
        self.transactions += [
            Record(self.number, first + place, value) for place, value in enumerate(values)
        ]
        batch, rows, _ = self._decoder.decode(values)
        # With one partition in the settings every card is at home in each of these.
        admission = Admission(CARD, self.settings, 0)
        batch, rows, _ = admission.admit(
            batch, rows, [ARRIVED_MS] * len(values), [None] * len(values)
        )
        offsets = [first + row for row in rows]
        for decision in self._engine.decide(batch).records("transactions", self.number, offsets):
            self.put(encode_record(decision))

    def put(self, value: bytes | None) -> Record:
        """Append a record to the decisions."""
        self.decisions.append(Record(self.number, len(self.decisions), value))
        return self.decisions[-1]


def transactions(seed: int, events: int) -> list[bytes]:
    """Give seeded traffic in its wire form."""
    batch = traffic(seed, events)
    return [
        json.dumps(
            {
                "transaction_id": batch.transaction_id[row],
                "event_time": int(batch.event_time_ms[row]),
                "card_id": batch.keys[0][row],
                "terminal_id": batch.keys[1][row],
                "amount": f"{batch.amount_minor[row] / 100:.2f}",
                "currency": "EUR",
            }
        ).encode()
        for row in range(events)
    ]


def chunks(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """Give records some at a time."""
    for start in range(0, len(records), size):
        yield records[start : start + size]
