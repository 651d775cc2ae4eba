"""Stored events through the core, with labels at their true delay.

Event time is cut into ticks. At a tick, everything that became known up to its start is learned;
then the tick's events are decided. So no score knows a label that came after it, and the size of
the batches changes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models import make_model
from models.contract import Model
from models.snapshot import Snapshot
from pipeline.column_labels import ColumnLabels, LabelledPart, examples_of
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Decisions, Engine, Version
from pipeline.errors import SnapshotError
from pipeline.evaluation import Quality
from pipeline.events import Label, Transactions
from pipeline.examples import Examples
from pipeline.features import FeatureKernel
from pipeline.feedback import MemoryWaiting, Settled, WentThrough, matured_label, went_through
from pipeline.label_source import ConstantDelay, LabelSource
from pipeline.label_words import SOURCES
from pipeline.learner import Learner
from pipeline.memory import give_back
from pipeline.model_timing import TimedModel
from pipeline.profiles import MemoryProfiles
from pipeline.quality.budget import ALERTS_A_DAY
from pipeline.records import ACTIONS
from pipeline.rules import NO_RULES, Rules
from pipeline.schema import Schema
from pipeline.score_log import ScoreLog
from pipeline.settings import Settings
from pipeline.texts import Vocabulary, coded

# How often, in event time, what was learned is adopted; a live trainer publishes sooner than this.
TICK_MS = HOUR_MS
# Unused memory goes back to the machine this often, which takes some milliseconds.
GIVE_BACK_EVENTS = 100_000

Labelled = tuple[Transactions, NDArray[np.int8]]
"""Events, and whether each is a fraud: 1, 0, or -1 where nobody knows."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a replay runs.

    Parameters
    ----------
    label_delay_ms
        Event time from an event to its label.
    start_ms, end_ms
        Quality is measured on events from `start_ms` to before `end_ms`; all are learned from.
    alerts_a_day
        How many events of a day are looked at, where quality is measured at a budget.
    """

    label_delay_ms: int
    start_ms: int | None = None
    end_ms: int | None = None
    alerts_a_day: int = ALERTS_A_DAY


@dataclass(frozen=True, slots=True)
class Learned:
    """Examples that every model has just learned.

    Parameters
    ----------
    label_time_ms, source
        When each label became known, and who told it, as a number of `SOURCES`.
    scores
        What each model said of them when they were decided, by its name.
    """

    examples: Examples
    label_time_ms: NDArray[np.int64]
    source: NDArray[np.int8]
    scores: dict[str, NDArray[np.float64]]
    models: tuple[Model, ...]


@dataclass(slots=True)
class ReplayResult:
    """What a replay found; `quality` has one entry for each model, the champion first.

    `duplicates` came again, and `conflicts` with the id of another event: neither was decided.
    """

    events: int = 0
    seconds: float = 0.0
    finished: bool = True
    first_ms: int | None = None
    last_ms: int | None = None
    duplicates: int = 0
    conflicts: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    quality: dict[str, Quality] = field(default_factory=dict)
    model_version: str = ""

    @property
    def passed(self) -> int:
        """Events read, whatever became of them."""
        return self.events + self.duplicates + self.conflicts

    @property
    def events_per_second(self) -> float:
        """Events decided a second of wall time, reading and learning included."""
        return self.events / self.seconds if self.seconds else 0.0


class Replay:
    """One pass over stored events.

    `scores` is what the quality is measured on. With a `snapshot`, its model alone scores, and
    nothing is learned: the profiles know of no label either.

    Parameters
    ----------
    decided, judged
        Called with every batch of decisions; `judged` with the truth of each as well: 1, 0, or -1
        where nobody knows.
    settled, learned
        Called with labels that became known, in the order of their log, and with the examples
        that were learned of them. Who asks for `settled` has every label made an object of, which
        costs as much as all the rest of a replay.
    labels
        What tells which labels and outcomes become known, and when; by default every label comes
        after the constant delay of the options.
    rules
        Rules that act or watch beside the model.
    maturity
        Of which decisions silence proves that they were genuine.
    """

    def __init__(
        self,
        schema: Schema,
        settings: Settings,
        options: ReplayOptions,
        *,
        decided: Callable[[Decisions], None] | None = None,
        judged: Callable[[Decisions, NDArray[np.int8]], None] | None = None,
        settled: Callable[[Sequence[Settled]], None] | None = None,
        learned: Callable[[Learned], None] | None = None,
        snapshot: Snapshot | None = None,
        labels: LabelSource | None = None,
        maturity: WentThrough = went_through,
        rules: Rules = NO_RULES,
    ) -> None:
        self._settings, self._options = settings, options
        self._decided = decided or (lambda decisions: None)
        self._judged = judged or (lambda decisions, is_fraud: None)
        self._settled = settled or (lambda labels: None)
        self._learned = learned or (lambda found: None)
        self._learns = snapshot is None
        self._rules = rules
        self._names = names = (settings.model, *settings.challenger_names)
        if snapshot is not None:
            self._names = names = (snapshot.model.name,)
        self._waiting = MemoryWaiting(settings.feedback_limit, maturity)
        kernel = FeatureKernel(schema)
        self.models = [
            TimedModel(make_model(name, kernel.names, settings.model_options)) for name in names
        ]
        # A clock on a model's verbs leaves it the model it is.
        models = cast("list[Model]", self.models)
        self._learner = Learner(schema, kernel.schema_hash, models)
        self._keyed = [item.name for item in schema.keyed]
        self._keyed_by_id = schema.is_keyed_by_id
        # Of ids and words that come as texts: those of each keyed field, and the currency.
        self._words = [Vocabulary() for _ in (*schema.keyed, "currency")]
        profiles = MemoryProfiles(schema, self._learner.profiles)
        self._engine = Engine(schema, settings, profiles, self._waiting)
        self._labels = labels or ConstantDelay(options.label_delay_ms)
        # Silence must not speak before the label does, or the order of labels is another.
        in_order = options.label_delay_ms <= settings.maturity_days * DAY_MS
        self._columns: ColumnLabels | None = None
        if labels is None and settled is None and in_order:
            self._columns = ColumnLabels(options.label_delay_ms, settings.feedback_limit)
        self.scores = ScoreLog(names)
        self._tick_end_ms = 0
        self._training_seq = 0
        self.result = ReplayResult()
        if snapshot is not None:
            self._adopt_only(snapshot, kernel.schema_hash)

    @property
    def champion(self) -> Model:
        """The model whose score decides, as it is now."""
        return self._learner.models[0]

    def run(
        self, batches: Iterable[Labelled], progress: Callable[[ReplayResult], None]
    ) -> ReplayResult:
        """Replay all batches, once; an interrupt ends it early, with what was measured so far."""
        assert not self.result.passed, "a replay is one pass"
        started = time.perf_counter()
        given_back = 0
        try:
            for batch, is_fraud in batches:
                coded = self._coded(batch)
                for start, stop in self._cuts(batch):
                    self._step(coded.slice(start, stop), is_fraud[start:stop])
                    self.result.seconds = time.perf_counter() - started
                    progress(self.result)
                if self.result.passed >= given_back + GIVE_BACK_EVENTS:
                    given_back = self.result.passed
                    give_back()
        except KeyboardInterrupt:
            self.result.finished = False
        self.result.seconds = time.perf_counter() - started
        # Nothing more is decided or learned, and measuring needs the room.
        self._columns = None
        del self._engine, self._waiting
        give_back()
        self.result.quality = self.scores.quality(
            self._options.start_ms, self._options.end_ms, alerts_a_day=self._options.alerts_a_day
        )
        return self.result

    def _coded(self, batch: Transactions) -> Transactions:
        """Give a batch with each id and word as a number, which all tables are then found by."""
        first = 1 if self._keyed_by_id else 0
        keys = [
            ids if place < first else coded(ids, self._words[place])
            for place, ids in enumerate(batch.keys)
        ]
        currency = coded(batch.currency, self._words[len(keys)])
        return replace(batch, keys=tuple(keys), currency=currency)

    def _cuts(self, batch: Transactions) -> Iterator[tuple[int, int]]:
        """Cut a batch where ticks begin, and no larger than a batch may be."""
        ticks = batch.event_time_ms // TICK_MS
        edges = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(batch)]
        limit = self._settings.batch_events_max
        for start, stop in zip(edges, edges[1:], strict=False):
            for place in range(start, stop, limit):
                yield place, min(place + limit, stop)

    def _step(self, batch: Transactions, is_fraud: NDArray[np.int8]) -> None:
        first_ms = int(batch.event_time_ms[0])
        if self._learns and first_ms >= self._tick_end_ms:
            tick_start_ms = first_ms // TICK_MS * TICK_MS
            self._learn_until(tick_start_ms)
            self._tick_end_ms = tick_start_ms + TICK_MS
        self._decide(batch, is_fraud)

    def _decide(self, batch: Transactions, is_fraud: NDArray[np.int8]) -> None:
        decisions = self._engine.decide(batch)
        if self._learns:
            self._wait(batch, decisions, is_fraud)
        truth = is_fraud[decisions.rows]
        self._decided(decisions)
        self._judged(decisions, truth)
        result = self.result
        self.scores.add(decisions, truth, first_row=result.passed)
        result.events += len(decisions)
        result.conflicts += len(decisions.conflicts)
        result.duplicates += len(batch) - len(decisions) - len(decisions.conflicts)
        result.last_ms = int(batch.event_time_ms[-1])
        result.first_ms = result.first_ms or int(batch.event_time_ms[0])
        counts = np.bincount(decisions.actions, minlength=len(ACTIONS)).tolist()
        result.actions.update(dict(zip(ACTIONS, counts, strict=True)))

    def _wait(self, batch: Transactions, decisions: Decisions, is_fraud: NDArray[np.int8]) -> None:
        """Keep decisions for their labels: as columns, as long as all of them fit."""
        if self._columns is not None:
            if self._columns.add(batch, decisions, is_fraud):
                return
            self._columns.hand_over(self._waiting, self._labels, training_seq=self._training_seq)
            self._columns = None
        self._waiting.add(decisions)
        self._labels.decided(batch, decisions, is_fraud)

    def _learn_until(self, now_ms: int) -> None:
        """Learn all labels that were known at a moment, and adopt what was learned."""
        if self._columns is not None:
            self._learn_parts(self._columns.due(now_ms), self._columns.delay_ms)
        else:
            self._learn_known(now_ms)
        self._learner.profiles.offset = self._training_seq
        self.result.model_version = self._adopt()

    def _learn_parts(self, parts: Sequence[LabelledPart], delay_ms: int) -> None:
        """Learn decisions whose labels came, as columns."""
        if not parts:
            return
        examples = examples_of(parts)
        self._training_seq += len(examples)
        self.result.labels["learned"] += len(examples)
        self._learner.learn_columns(examples)
        said = zip(*(part.scores() for part in parts), strict=True)
        scores = [np.concatenate(of_model) for of_model in said]
        source = np.full(len(examples), SOURCES.index("simulated"), np.int8)
        self._tell(examples, examples.event_time_ms + delay_ms, source, scores)

    def _tell(
        self, examples: Examples, label_time_ms: NDArray[np.int64], source: NDArray[np.int8],
        scores: Sequence[NDArray[np.float64]],
    ) -> None:  # fmt: skip
        models = tuple(timed.model for timed in self.models)
        by_name = dict(zip(self._names, scores, strict=True))
        self._learned(Learned(examples, label_time_ms, source, by_name, models))

    def _learn_known(self, now_ms: int) -> None:
        known = self._labels.due(now_ms)
        for outcome in known.outcomes:
            self._waiting.set_outcome(outcome)
        self._learn(known.labels)
        maturity_ms = int(self._settings.maturity_days * DAY_MS)
        matured = self._waiting.take_matured(now_ms, maturity_ms)
        self._learn([matured_label(decision, maturity_ms) for decision in matured])

    def _learn(self, labels: Sequence[Label]) -> None:
        settled = self._engine.label(labels, training_seq=self._training_seq)
        self._settled(settled)
        self.result.labels.update(item.path for item in settled)
        examples = [item.example(partition=0) for item in settled if item.decision]
        self._training_seq += len(examples)
        fresh = self._learner.fresh(examples)
        columns = Examples.of(fresh, names=self._keyed)
        self._learner.learn_columns(columns)
        if fresh:
            said = [(example.score, *example.challengers.values()) for example in fresh]
            self._tell(
                columns,
                np.array([example.label_time for example in fresh], np.int64),
                np.array([SOURCES.index(example.source) for example in fresh], np.int8),
                list(np.array(said, np.float64).T),
            )

    def _adopt(self) -> str:
        champion, *challengers = (
            Version(model, self._learner.offset) for model in self._learner.models
        )
        self._engine.adopt(champion, challengers, self._rules)
        return champion.name

    def _adopt_only(self, snapshot: Snapshot, schema_hash: str) -> None:
        self.models = [TimedModel(snapshot.model)]
        if snapshot.schema_hash != schema_hash:
            raise SnapshotError(
                f"snapshot {snapshot.version}: its features have the hash {snapshot.schema_hash}, "
                f"those of the schema {schema_hash}: it was learned with another schema"
            )
        [model] = cast("list[Model]", self.models)
        self._engine.adopt(Version(model, snapshot.training_offset), rules=self._rules)
        self.result.model_version = snapshot.version
