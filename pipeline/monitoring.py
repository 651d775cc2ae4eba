"""What the wall shows: how good the decisions were, and whether the stream has changed.

The monitor reads what was decided and what was learned, never the worker's memory, so it can be
started late, stopped or restarted without anybody noticing. Records that were published again
after a crash count once: the decisions of a partition come in the order of their transactions, and
the examples of a feedback partition by `training_seq`.

>>> from pipeline.records import DecisionRecord
>>> decision = DecisionRecord(
...     "t1", 1000, {"card": "c1"}, 950, "EUR", "review", 0.4, [], "additive@7", "p1", 1.0, 7,
...     "s1", b"", {}, ("transactions", 0, 3),
... )
>>> monitor = Monitor(window_events=1000)
>>> monitor.observe_decisions([decision])
>>> monitor.observe_decisions([decision])
>>> monitor.actions["review"], monitor.repeated["decisions"], monitor.amounts
(1, 1, {('review', 'EUR'): 950})
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.counts import Buckets
from pipeline.drift import Detection, ErrorDrift, ScorePsi
from pipeline.durations import DAY_MS
from pipeline.errors import REASONS
from pipeline.feature_drift import FeaturePsi
from pipeline.label_maturity import LabelledShare, LabelMaturity
from pipeline.label_words import SOURCES
from pipeline.prequential import PrequentialWindow, Totals, WindowQuality
from pipeline.records import (
    ACTIONS,
    FEATURE_DTYPE,
    VERDICTS,
    Action,
    DecisionRecord,
    TrainingExample,
)
from pipeline.rule_stats import RuleStats
from pipeline.top_cards import CardPrecision
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING
from pipeline.version_quality import VersionQuality

READ_TOPICS = (DECISIONS, TRAINING, DEAD_LETTERS)

# Models come and go with promotions; a label of a metric must not grow with them for ever.
MODELS_MAX = 16
# A merchant sells in a handful of currencies; the rest is shown together.
CURRENCIES_MAX = 32
OTHER = "other"
# Dead letters of the outbox that may come again after a crash lie at most this far back.
DEAD_LETTERS_REMEMBERED = 10_000
# Scores of a model that has learned almost nothing are no reference to pin.
REFERENCE_EXAMPLES_MIN = 1_000
# Features look back over a month: those of a stream younger than that grow with its age, and would
# be no reference for later ones.
REFERENCE_AGE_MS = 30 * DAY_MS

LABELLED_AGES_DAYS = (7, 30, 60)

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3_600, 86_400
# An analyst answers in minutes or hours, a card holder in days, a chargeback in up to 120 days.
LABEL_DELAY_SECONDS_BOUNDS = (
    *(minutes * MINUTE_SECONDS for minutes in (1, 5, 15)),
    *(hours * HOUR_SECONDS for hours in (1, 4, 12)),
    *(days * DAY_SECONDS for days in (1, 2, 4, 7, 14, 30, 60, 90, 120)),
)
# Most scores are small, and thresholds lie where frauds are.
SCORE_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why an input became a dead letter, and its place in the log it came from."""

    reason: str
    place: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class MonitorView:
    """What the monitor knows at one moment, for a table or a page."""

    events: int
    last_event_ms: int | None
    actions: dict[Action, int]
    amounts: dict[tuple[Action, str], int]
    champion: str | None
    training_offset: int | None
    training_end: int | None
    quality: dict[str, WindowQuality]
    totals: dict[str, Totals]
    labels: int
    labelled: tuple[LabelledShare, ...]
    card_precision: float | None
    card_precision_days: int
    drift_detections: tuple[Detection, ...]
    score_psi: float | None
    feature_psi: dict[str, float]
    dead_letters: dict[str, int]


def model_name(version: str) -> str:
    """Give the name of a model from its version.

    >>> model_name("additive@1234")
    'additive'
    """
    return version.partition("@")[0]


def trained_to(version: str) -> int | None:
    """Give the training offset in a version, or `None` where it has none.

    >>> trained_to("additive@1234")
    1234
    """
    offset = version.partition("@")[2]
    return int(offset) if offset.isascii() and offset.isdecimal() else None


@dataclass(slots=True)
class _Scores:
    """What one model said of the examples of a batch: rows, scores, and how far it had learned."""

    rows: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


class Monitor:
    """Follows decisions, training examples and dead letters in bounded memory.

    Parameters
    ----------
    window_events
        Labelled events in the window of quality.
    entity
        Name of the entity whose ids card precision counts (the partition key's).
    minor_digits
        2 where 1.00 is 100 minor units.
    psi
        The index of the score; give one of other limits for a small stream.
    features
        The index of each feature; without it features are not looked at.
    schema_hash
        Names the features that `features` knows; those of other decisions are counted, not read.
    rule_codes
        Codes of the rules in force, which are shown before they first hold.
    """

    def __init__(
        self,
        *,
        window_events: int,
        entity: str = "card",
        minor_digits: int = 2,
        psi: ScorePsi | None = None,
        features: FeaturePsi | None = None,
        schema_hash: str = "",
        rule_codes: Iterable[str] = (),
    ) -> None:
        self.window_events = window_events
        self.entity = entity
        self.minor_digits = minor_digits
        self.actions: dict[Action, int] = dict.fromkeys(ACTIONS, 0)
        self.amounts: dict[tuple[Action, str], int] = {}
        self.scores = Buckets(SCORE_BOUNDS)
        self.label_delays = {source: Buckets(LABEL_DELAY_SECONDS_BOUNDS) for source in SOURCES}
        self.windows: dict[str, PrequentialWindow] = {}
        self.drift = ErrorDrift()
        self.psi = psi or ScorePsi()
        self.features = features or FeaturePsi(())
        self.schema_hash = schema_hash
        self.features_ignored = 0
        self.versions = VersionQuality()
        self.maturity = LabelMaturity()
        self.card_precision = CardPrecision()
        self.dead_letters: dict[str, int] = {**dict.fromkeys(REASONS, 0), OTHER: 0}
        self.repeated = dict.fromkeys(READ_TOPICS, 0)
        self.refused = dict.fromkeys(READ_TOPICS, 0)
        self.corrections = {"inside": 0, "outside": 0}
        self.judged = {(action, verdict): 0 for action in ACTIONS for verdict in VERDICTS}
        self.judged_amounts = dict.fromkeys(self.judged, 0)
        self.rules = RuleStats(rule_codes)
        self.model_scores_ignored = 0
        self.first_event_ms: int | None = None
        self.last_event_ms: int | None = None
        self.last_published_ms: int | None = None
        self.behind = dict.fromkeys(READ_TOPICS, 0)
        self.model_version: str | None = None
        self.training_end: int | None = None
        self._decision_marks: dict[tuple[str, int], int] = {}
        self._training_marks: dict[int, int] = {}
        self._dead_places: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._currencies: set[str] = set()

    def observe_decisions(
        self, records: Sequence[DecisionRecord | None], *, published_ms: int | None = None
    ) -> None:
        """Take decisions; those of one partition in the order of its log, `None` for a bad one.

        `published_ms` is when the last of them was published, by the clock of who did.
        """
        if published_ms is not None:
            self.last_published_ms = max(published_ms, self.last_published_ms or published_ms)
        fresh = [record for record in records if record is not None and self._is_new(record)]
        self.refused[DECISIONS] += records.count(None)
        if not fresh:
            return
        scores = [record.score for record in fresh]
        self.scores.observe_many(scores)
        for record in fresh:
            self._count(record)
        self.model_version = fresh[-1].model_version
        moments = [record.event_time for record in fresh]
        if self.first_event_ms is None or self.last_event_ms is None:
            self.first_event_ms = self.last_event_ms = moments[0]
        self.first_event_ms = min(self.first_event_ms, *moments)
        self.last_event_ms = max(self.last_event_ms, *moments)
        if (trained_to(self.model_version) or 0) >= REFERENCE_EXAMPLES_MIN:
            self.psi.observe(scores)
        if self.features.names:
            self._observe_features(fresh)

    def observe_examples(
        self, examples: Sequence[TrainingExample | None], *, training_end: int | None = None
    ) -> None:
        """Take training examples in the order of their log, `None` for a bad one.

        `training_end` is the offset behind the last of them: how far a model could have learned.
        """
        self.training_end = self.training_end if training_end is None else training_end
        self.refused[TRAINING] += examples.count(None)
        fresh = [item for item in examples if item is not None and self._is_first(item)]
        for example in fresh:
            self._take_label(example)
        first = [example for example in fresh if example.supersedes is None]
        self._judge(first)
        for example in fresh:
            if example.supersedes is not None:
                self._correct(example, example.supersedes)

    def observe_dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Take dead letters; one that came before is not counted again."""
        for letter in letters:
            if letter.place in self._dead_places:
                self.repeated[DEAD_LETTERS] += 1
                continue
            self._dead_places[letter.place] = None
            if len(self._dead_places) > DEAD_LETTERS_REMEMBERED:
                self._dead_places.popitem(last=False)
            self.dead_letters[letter.reason if letter.reason in self.dead_letters else OTHER] += 1

    @property
    def champion(self) -> str | None:
        """The model that gave the latest decision."""
        return None if self.model_version is None else model_name(self.model_version)

    @property
    def training_offset(self) -> int | None:
        """The training offset of the model that gave the latest decision."""
        return None if self.model_version is None else trained_to(self.model_version)

    @property
    def labelled(self) -> tuple[LabelledShare, ...]:
        """How many of the older decisions have a label."""
        return tuple(self.maturity.share(age) for age in LABELLED_AGES_DAYS)

    def view(self) -> MonitorView:
        """Give all of it at this moment; later events do not change it."""
        return MonitorView(
            events=sum(self.actions.values()),
            last_event_ms=self.last_event_ms,
            actions=dict(self.actions),
            amounts=dict(self.amounts),
            champion=self.champion,
            training_offset=self.training_offset,
            training_end=self.training_end,
            quality={name: window.quality for name, window in self.windows.items()},
            totals={name: window.totals for name, window in self.windows.items()},
            labels=self.drift.events,
            labelled=self.labelled,
            card_precision=self.card_precision.value,
            card_precision_days=self.card_precision.days,
            drift_detections=self.drift.detections,
            score_psi=self.psi.value,
            feature_psi=self.features.values,
            dead_letters=dict(self.dead_letters),
        )

    def _observe_features(self, fresh: Sequence[DecisionRecord]) -> None:
        """Compare features, from the first decision on that is fit to be of the reference."""
        width = len(self.features.names) * FEATURE_DTYPE.itemsize
        known = [
            record
            for record in fresh
            if record.schema_hash == self.schema_hash and len(record.features) == width
        ]
        self.features_ignored += len(fresh) - len(known)
        if not self.features.reference_count:
            known = known[self._first_settled(known) :]
        if not known:
            return
        joined = b"".join(record.features for record in known)
        rows = np.frombuffer(joined, FEATURE_DTYPE).reshape(len(known), -1)
        self.features.observe(rows, np.array([record.event_time for record in known], np.int64))

    def _first_settled(self, records: Sequence[DecisionRecord]) -> int:
        """Give the place of the first decision of a stream and a model that are old enough."""
        assert self.first_event_ms is not None
        settled_ms = self.first_event_ms + REFERENCE_AGE_MS
        for place, record in enumerate(records):
            learned = trained_to(record.model_version) or 0
            if record.event_time >= settled_ms and learned >= REFERENCE_EXAMPLES_MIN:
                return place
        return len(records)

    def _is_new(self, record: DecisionRecord) -> bool:
        topic, partition, offset = record.source
        if offset <= self._decision_marks.get((topic, partition), -1):
            self.repeated[DECISIONS] += 1
            return False
        self._decision_marks[topic, partition] = offset
        return True

    def _is_first(self, example: TrainingExample) -> bool:
        if example.training_seq <= self._training_marks.get(example.partition, -1):
            self.repeated[TRAINING] += 1
            return False
        self._training_marks[example.partition] = example.training_seq
        return True

    def _count(self, record: DecisionRecord) -> None:
        self.actions[record.action] += 1
        place = (record.action, self._currency(record.currency))
        self.amounts[place] = self.amounts.get(place, 0) + record.amount
        self.rules.decided(record.rules, record.amount)
        self.maturity.observe_decision(record.event_time)
        card = record.keys.get(self.entity)
        if card is not None:
            self.card_precision.observe_decision(record.event_time, card, record.score)

    def _currency(self, currency: str) -> str:
        if currency in self._currencies:
            return currency
        if len(self._currencies) >= CURRENCIES_MAX:
            return OTHER
        self._currencies.add(currency)
        return currency

    def _take_label(self, example: TrainingExample) -> None:
        delay_seconds = _delay_ms(example) / 1000
        self.label_delays[example.source].observe(delay_seconds)
        corrects = example.supersedes is not None
        self.rules.labelled(
            example.rules, example.amount, is_fraud=example.is_fraud, corrects=corrects
        )
        if not corrects:
            self.maturity.observe_label(example.event_time)
            self.judged[example.action, example.verdict] += 1
            self.judged_amounts[example.action, example.verdict] += example.amount
        card = example.keys.get(self.entity)
        if card is not None:
            self.card_precision.observe_label(
                example.event_time, card, is_fraud=example.is_fraud, corrects=corrects
            )

    def _judge(self, examples: Sequence[TrainingExample]) -> None:
        if not examples:
            return
        self.drift.observe(
            [example.score for example in examples],
            [example.is_fraud for example in examples],
            [example.event_time for example in examples],
        )
        for name, said in _by_model(examples).items():
            window = self._window(name)
            if window is None:
                self.model_scores_ignored += len(said.rows)
                continue
            judged = [examples[row] for row in said.rows]
            is_fraud = [example.is_fraud for example in judged]
            moments = [example.event_time for example in judged]
            self.versions.observe(name, said.scores, is_fraud, moments, said.offsets)
            window.observe(
                said.scores,
                is_fraud,
                [_delay_ms(example) for example in judged],
                examples=[(example.partition, example.training_seq) for example in judged],
            )

    def _correct(self, example: TrainingExample, superseded: int) -> None:
        # Every window is asked: `any` of a generator would stop at the first that knows it.
        found = [
            window.revise(
                (example.partition, example.training_seq),
                (example.partition, superseded),
                is_fraud=example.is_fraud,
            )
            for window in self.windows.values()
        ]
        self.corrections["inside" if any(found) else "outside"] += 1
        for name, said in _by_model([example]).items():
            self.versions.correct(
                name, said.scores[0], example.event_time, is_fraud=example.is_fraud
            )

    def _window(self, name: str) -> PrequentialWindow | None:
        if name not in self.windows and len(self.windows) < MODELS_MAX:
            self.windows[name] = PrequentialWindow(self.window_events)
        return self.windows.get(name)


def _by_model(examples: Sequence[TrainingExample]) -> Mapping[str, _Scores]:
    models: defaultdict[str, _Scores] = defaultdict(_Scores)
    for row, example in enumerate(examples):
        # First, so that it has its window; and alone under its name, since after a rollback
        # another version of it may watch.
        given = {model_name(example.model_version): (example.score, example.model_version)}
        for version, score in example.challengers.items():
            given.setdefault(model_name(version), (score, version))
        for name, (score, version) in given.items():
            said = models[name]
            said.rows.append(row)
            said.scores.append(score)
            said.offsets.append(trained_to(version) or 0)
    return models


def _delay_ms(example: TrainingExample) -> int:
    # Clocks of two systems may differ: a label cannot be known before its event.
    return max(0, example.label_time - example.event_time)
