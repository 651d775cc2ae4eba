"""The road of one transaction, top to bottom; nothing here knows Kafka, Redis or a clock.

`decide` takes events in the order of their log: profiles are opened, features are read and the
events recorded, the models in force score, the policy chooses an action. Then lists and breaker may
overrule it, and the mode says whether anything is to be done. `label` joins labels to what was
decided; what it gives is learned by `Learner`, in another process or in this one. Where no model
can be had, rules decide; others act or watch beside the model (`rules.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.breaker import Breaker
from pipeline.controls import Controls, fold, mode_of
from pipeline.events import Label, Transactions
from pipeline.features import FeatureKernel
from pipeline.feedback import Settled, Waiting, join
from pipeline.memory_ids import MemoryIds
from pipeline.policy import APPROVE, DECLINE, REVIEW, MarkedReasons, Policy, Reasons
from pipeline.profiles import Profiles
from pipeline.recent_ids import RecentIds, Sifted
from pipeline.records import ACTIONS, BREAKER, LIST_BLOCKED, DecisionRecord, Mode, Taken
from pipeline.rules import NO_RULES, Rules
from pipeline.schema import Schema
from pipeline.settings import ACT, Settings


@dataclass(frozen=True, slots=True)
class Version:
    """A model and the training offset that it was learned to."""

    model: Model
    offset: int

    @property
    def name(self) -> str:
        """The name that decisions are stamped with."""
        return f"{self.model.name}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of a batch, as columns; `rows` are the rows of the batch it was given for.

    Rows that are missing are `conflicts`, whose ids stand for other events, or duplicates: they
    were decided before.
    """

    rows: NDArray[np.int64]
    transactions: Transactions
    entity_names: tuple[str, ...]
    features: NDArray[np.float32]
    scores: NDArray[np.float64]
    actions: NDArray[np.int64]
    reasons: Sequence[Reasons]
    model_version: str
    policy_version: str
    label_offset: int
    schema_hash: str
    challengers: dict[str, NDArray[np.float64]]
    mode: Mode
    control_offset: int
    members: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    conflicts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    degraded: bool = False
    rules: Sequence[list[str]] = ()
    rules_version: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def transaction_ids(self) -> Sequence[str]:
        """The ids, in the order of the decisions."""
        return self.transactions.transaction_id

    @property
    def action_counts(self) -> list[int]:
        """How many there are of each action, in the order of `ACTIONS`."""
        counts: list[int] = np.bincount(self.actions, minlength=len(ACTIONS)).tolist()
        return counts

    @property
    def overruled(self) -> Counter[str]:
        """How many a list or the breaker decided, by the reason that says so."""
        reasons = self.reasons
        return Counter(reasons.marks.values() if isinstance(reasons, MarkedReasons) else ())

    @property
    def taken(self) -> list[Taken]:
        """What is to be done of each: its action, or nothing in observe mode."""
        acted: list[Taken] = [ACTIONS[action] for action in self.actions.tolist()]
        return acted if self.mode == ACT else ["none"] * len(acted)

    def records(self, topic: str, partition: int, offsets: Sequence[int]) -> list[DecisionRecord]:
        """Give the decisions in their wire form; `offsets` are those of the whole batch."""
        sources = [(topic, partition, offsets[row]) for row in self.rows.tolist()]
        return self._records(0, sources)

    def record(self, place: int) -> DecisionRecord:
        """Give one decision in its wire form; where its transaction came from is not known."""
        return self._records(place, [("", 0, 0)])[0]

    def _records(self, first: int, sources: list[tuple[str, int, int]]) -> list[DecisionRecord]:
        """Give so many decisions as there are sources, from the first on."""
        part = slice(first, first + len(sources))
        events = self.transactions
        width = self.features.shape[1] * 4
        packed = self.features[part].astype("<f4").tobytes()
        challengers = {name: scores[part].tolist() for name, scores in self.challengers.items()}
        members = {name: scores[part].tolist() for name, scores in self.members.items()}
        keys = list(zip(*(ids[part] for ids in events.keys), strict=True))
        times, amounts = events.event_time_ms[part].tolist(), events.amount_minor[part].tolist()
        scores, actions = self.scores[part].tolist(), self.actions[part].tolist()
        currency, reasons = events.currency[part], self.reasons[part]
        incumbents = events.incumbents[part] or (None,) * len(sources)
        # Of many no rule was asked; they may share a list, which nobody changes.
        rules: Sequence[list[str]] = self.rules[part] if self.rules else [[]] * len(sources)
        is_acted_on = self.mode == ACT
        return [
            DecisionRecord(
                transaction_id=transaction_id,
                event_time=times[place],
                keys=dict(zip(self.entity_names, keys[place], strict=True)),
                amount=amounts[place],
                currency=currency[place],
                action=ACTIONS[actions[place]],
                score=scores[place],
                reasons=reasons[place],
                model_version=self.model_version,
                policy_version=self.policy_version,
                propensity=1.0,
                label_offset=self.label_offset,
                schema_hash=self.schema_hash,
                features=packed[place * width : (place + 1) * width],
                challengers={name: given[place] for name, given in challengers.items()},
                source=sources[place],
                members={name: given[place] for name, given in members.items()},
                degraded=self.degraded,
                incumbent=incumbents[place],
                rules=rules[place],
                rules_version=self.rules_version,
                mode=self.mode,
                action_taken=ACTIONS[actions[place]] if is_acted_on else "none",
                control_offset=self.control_offset,
            )
            for place, transaction_id in enumerate(events.transaction_id[part])
        ]


class Engine:
    """Decides events and joins their labels; it never learns."""

    def __init__(
        self,
        schema: Schema,
        settings: Settings,
        profiles: Profiles,
        waiting: Waiting,
        ids: RecentIds | None = None,
    ) -> None:
        self._ids = MemoryIds(settings) if ids is None else ids
        self.kernel = FeatureKernel(schema)
        self._names = tuple(item.name for item in schema.keyed)
        self._profiles = profiles
        self._waiting = waiting
        self._policy = Policy(
            self.kernel.table,
            review_score_min=settings.review_score_min,
            decline_score_min=settings.decline_score_min,
        )
        self.breaker = Breaker(settings)
        self._controls = fold(mode_of(settings), ())
        self._champion: Version | None = None
        self._challengers: tuple[Version, ...] = ()
        self._rules: Rules | None = None
        self._beside = NO_RULES

    def adopt(
        self, champion: Version, challengers: Sequence[Version] = (), rules: Rules = NO_RULES
    ) -> None:
        """Score with these versions from the next batch on, these rules beside them."""
        self._champion, self._challengers = champion, tuple(challengers)
        self._rules, self._beside = None, rules

    def adopt_rules(self, rules: Rules) -> None:
        """Decide by these rules alone from the next batch on: no model can be had."""
        self._champion, self._challengers, self._rules = None, (), rules

    def adopt_controls(self, controls: Controls) -> None:
        """Hold by what operators said from the next batch on."""
        self._controls = controls

    def decide(self, batch: Transactions) -> Decisions:
        """Score a batch in order and say what to do with each event."""
        sifted = self._ids.sift(batch)
        if len(sifted.fresh) < len(batch):
            batch = batch.take(sifted.fresh)
        view = self._profiles.open(batch)
        features = self.kernel.read_and_record(batch, view)
        if self._rules is not None:
            return self._ruled(self._rules, sifted, batch, features, view.label_offset)
        assert self._champion is not None, "no model was adopted"
        scored = self._champion.model.score(features)
        members = dict(scored.members)
        for version in self._challengers:
            members |= version.model.member_scores(features)
        ruling = self._beside.overrule(
            features,
            batch.amount_minor,
            self._policy.actions(scored.scores),
            self._policy.reasons(scored.contributions),
        )
        actions, reasons = self._overruled(batch, ruling.actions, ruling.reasons)
        return Decisions(
            rows=sifted.fresh,
            transactions=batch,
            entity_names=self._names,
            features=features,
            scores=scored.scores,
            actions=actions,
            reasons=reasons,
            rules=ruling.held,
            rules_version=ruling.version,
            model_version=self._champion.name,
            policy_version=self._policy.version,
            label_offset=view.label_offset,
            schema_hash=self.kernel.schema_hash,
            challengers={
                version.name: version.model.scores(features) for version in self._challengers
            },
            members=members,
            conflicts=sifted.conflicts,
            mode=self._controls.mode,
            control_offset=self._controls.offset,
        )

    def _ruled(
        self,
        rules: Rules,
        sifted: Sifted,
        batch: Transactions,
        features: NDArray[np.float32],
        label_offset: int,
    ) -> Decisions:
        """Decide by rules; the score is the one from which the policy takes the same action."""
        ruling = rules.judge(features, batch.amount_minor)
        actions, reasons = self._overruled(batch, ruling.actions, ruling.reasons)
        return Decisions(
            rows=sifted.fresh,
            transactions=batch,
            entity_names=self._names,
            features=features,
            scores=self._policy.scores_of(ruling.actions),
            actions=actions,
            reasons=reasons,
            model_version=rules.version,
            policy_version=self._policy.version,
            label_offset=label_offset,
            schema_hash=self.kernel.schema_hash,
            challengers={},
            conflicts=sifted.conflicts,
            degraded=True,
            rules=ruling.held,
            rules_version=ruling.version,
            mode=self._controls.mode,
            control_offset=self._controls.offset,
        )

    def _overruled(
        self, batch: Transactions, actions: NDArray[np.int64], reasons: Sequence[Reasons]
    ) -> tuple[NDArray[np.int64], Sequence[Reasons]]:
        """Let the lists, then the breaker, overrule what was chosen; scores and learning stay."""
        listed = {}
        if self._controls.blocked or self._controls.allowed:
            columns = dict(zip(self._names, batch.keys, strict=True))
            listed = self._controls.listed(columns, batch.event_time_ms.tolist())
        is_free = np.ones(len(batch), np.bool_)
        is_free[list(listed)] = False
        is_reviewed = self.breaker.reviews(
            batch.event_time_ms, batch.amount_minor, actions == DECLINE, is_free
        )
        marks = listed | dict.fromkeys(np.flatnonzero(is_reviewed).tolist(), BREAKER)
        if not marks:
            return actions, reasons
        actions = np.where(is_reviewed, REVIEW, actions)
        for row, reason in listed.items():
            actions[row] = DECLINE if reason == LIST_BLOCKED else APPROVE
        return actions, MarkedReasons(reasons, marks)

    def label(self, labels: Sequence[Label], *, training_seq: int) -> list[Settled]:
        """Join labels, in the order of their log, to what was decided.

        `training_seq` is the number of the first example that comes of them.
        """
        return list(join(self._waiting, labels, training_seq=training_seq))
