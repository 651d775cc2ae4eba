"""The costliest mistakes, and what was learned from each.

A missed fraud was approved and turned out to be fraud: it costs its amount. A false decline was
declined and turned out to be genuine: it costs what the settings say. For each: the score then,
right after its label was learned, and now, all of the features as they were stored, and which
features' contributions moved most between then and now. That is how it shows what was learned.

>>> costs = Costs(decline_cost_minor=1000.0, decline_cost_share=0.1)
>>> costs.of("missed_fraud", 5000), costs.of("false_decline", 5000)
(5000.0, 1500.0)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.engine import Decisions
from pipeline.feedback import Settled
from pipeline.policy import APPROVE, DECLINE, Policy, Reasons
from pipeline.records import TrainingExample, unpack_features

Kind = Literal["missed_fraud", "false_decline", "caught_fraud"]

# Beyond so many nobody reads them; each keeps its features and contributions, a kilobyte.
TOP_MAX = 1000
MOVED_MAX = 3


@dataclass(frozen=True, slots=True)
class Costs:
    """What mistakes cost, in minor units; as the settings of the same names."""

    decline_cost_minor: float
    decline_cost_share: float

    def of(self, kind: Kind, amount_minor: int) -> float:
        """Give what a mistake costs; for a fraud that was caught, what it would have cost."""
        if kind == "false_decline":
            return self.decline_cost_minor + self.decline_cost_share * amount_minor
        return float(amount_minor)


@dataclass(slots=True)
class Totals:
    """Counts and minor units of all that is known; a review counts as catching its fraud."""

    labels: int = 0
    missed_frauds: int = 0
    value_lost_minor: float = 0.0
    caught_frauds: int = 0
    value_saved_minor: float = 0.0
    false_declines: int = 0
    decline_cost_minor: float = 0.0

    def add(self, kind: Kind, cost: float, sign: int) -> None:
        """Count one, or with -1 take it back."""
        if kind == "missed_fraud":
            self.missed_frauds += sign
            self.value_lost_minor += sign * cost
        elif kind == "caught_fraud":
            self.caught_frauds += sign
            self.value_saved_minor += sign * cost
        else:
            self.false_declines += sign
            self.decline_cost_minor += sign * cost


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, and what was learned from it.

    Parameters
    ----------
    score_learned, score_now
        What the same features scored right after the label was learned, and at the end; `None`
        where no version of the model could be had.
    moved
        Features whose contributions moved most: name, contribution then, contribution now.
    """

    kind: Kind
    transaction_id: str
    event_time: int
    label_time: int
    keys: dict[str, str]
    amount_minor: int
    cost_minor: float
    model_version: str
    score_then: float
    score_learned: float | None
    score_now: float | None
    reasons: Reasons
    moved: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A mistake of the ledger; `place` is where in the training log its label stands."""

    cost: float
    kind: Kind
    place: int
    example: TrainingExample

    @property
    def features(self) -> NDArray[np.float32]:
        """The features as scored, a batch of one."""
        return unpack_features(self.example.features).reshape(1, -1)


class Ledger:
    """Adds mistakes up in the order of the training log, and keeps the costliest.

    Parameters
    ----------
    limit
        How many mistakes are kept; the cheapest goes.
    start_ms, end_ms
        Only events from `start_ms` to before `end_ms` count.
    """

    def __init__(
        self, costs: Costs, *, limit: int, start_ms: int | None = None, end_ms: int | None = None
    ) -> None:
        assert 0 < limit <= TOP_MAX, limit
        self._costs, self._limit = costs, limit
        self._start_ms, self._end_ms = start_ms, end_ms
        self._marks: dict[int, int] = {}
        self._counted: dict[str, tuple[Kind, float]] = {}
        self._kept: dict[str, Entry] = {}
        self.totals = Totals()

    def add(self, example: TrainingExample, place: int) -> bool:
        """Count an example; says whether it is a mistake that is kept, for now.

        A corrected label takes back what the one before it said. The labeller numbers what it
        emits, so that a record that was published twice counts once.
        """
        if example.training_seq <= self._marks.get(example.partition, -1):
            return False
        self._marks[example.partition] = example.training_seq
        if not self._covers(example.event_time):
            return False
        name = example.transaction_id
        known = self._counted.pop(name, None)
        self._kept.pop(name, None)
        if known is not None:
            self.totals.add(*known, -1)
        self.totals.labels += example.supersedes is None
        kind = kind_of(example)
        if kind is None:
            return False
        cost = self._costs.of(kind, example.amount)
        self._counted[name] = kind, cost
        self.totals.add(kind, cost, 1)
        return kind != "caught_fraud" and self._keep(Entry(cost, kind, place, example))

    @property
    def costliest(self) -> list[Entry]:
        """The mistakes that are kept, the costliest first; of equals the earlier."""
        return sorted(self._kept.values(), key=lambda entry: (-entry.cost, entry.place))

    def entry(self, transaction_id: str) -> Entry:
        """Give a mistake that is kept."""
        return self._kept[transaction_id]

    def keeps(self, transaction_id: str) -> bool:
        """Say whether a mistake is among the costliest."""
        return transaction_id in self._kept

    def _covers(self, event_ms: int) -> bool:
        after = self._start_ms is None or event_ms >= self._start_ms
        return after and (self._end_ms is None or event_ms < self._end_ms)

    def _keep(self, entry: Entry) -> bool:
        name = entry.example.transaction_id
        self._kept[name] = entry
        if len(self._kept) > self._limit:
            cheapest = min(self._kept.values(), key=lambda kept: (kept.cost, -kept.place))
            del self._kept[cheapest.example.transaction_id]
        return name in self._kept


def kind_of(example: TrainingExample) -> Kind | None:
    """Say what an action turned out to be; `None`: right, and of no cost."""
    if example.is_fraud:
        return "missed_fraud" if example.action == "approve" else "caught_fraud"
    return "false_decline" if example.action == "decline" else None


class Narrator:
    """Puts a mistake's story together from the model as it was and as it is."""

    def __init__(self, names: tuple[str, ...], policy: Policy) -> None:
        self._names, self._policy = names, policy

    def tell(
        self,
        entry: Entry,
        *,
        then: NDArray[np.float64] | None,
        learned: float | None,
        now: Model | None,
    ) -> Mistake:
        """Tell one; `then` are the contributions at the decision, `learned` the score after."""
        example = entry.example
        after = None if now is None else now.score(entry.features)
        return Mistake(
            kind=entry.kind,
            transaction_id=example.transaction_id,
            event_time=example.event_time,
            label_time=example.label_time,
            keys=example.keys,
            amount_minor=example.amount,
            cost_minor=entry.cost,
            model_version=example.model_version,
            score_then=example.score,
            score_learned=learned,
            score_now=None if after is None else float(after.scores[0]),
            reasons=[] if then is None else self._policy.reasons(then[None, :])[0],
            moved=[]
            if then is None or after is None
            else self._moved(then, after.contributions[0]),
        )

    def _moved(
        self, then: NDArray[np.float64], now: NDArray[np.float64]
    ) -> list[tuple[str, float, float]]:
        order = np.argsort(-np.abs(now - then), kind="stable")[:MOVED_MAX]
        return [
            (self._names[column], float(then[column]), float(now[column]))
            for column in order.tolist()
            if now[column] != then[column]
        ]


class HasChampion(Protocol):
    """A replay, as far as mistakes need it."""

    @property
    def champion(self) -> Model:
        """The model whose score decides, as it is now."""


class ReplayMistakes:
    """Follows a replay; `decided` and `settled` are its callbacks.

    The truth of the file is used to know which decisions to keep the contributions of, before
    their labels are known to anyone; they change no decision.
    """

    def __init__(self, ledger: Ledger, narrator: Narrator) -> None:
        self._ledger, self._narrator = ledger, narrator
        self._frauds: set[str] = set()
        self._then: dict[str, NDArray[np.float64]] = {}
        self._unscored: list[Entry] = []
        self._learned: dict[str, float] = {}
        self.run: HasChampion | None = None

    def expect(self, transaction_ids: Sequence[str], is_fraud: NDArray[np.int8]) -> None:
        """Hear the truth of a batch before it is decided."""
        self._frauds.update(transaction_ids[row] for row in np.flatnonzero(is_fraud == 1).tolist())

    def decided(self, decisions: Decisions) -> None:
        """Keep the contributions of decisions that are mistakes."""
        self._score_learned()
        ids, actions = decisions.transaction_ids, decisions.actions
        rows = [
            row
            for row in range(len(ids))
            if (actions[row] == APPROVE and ids[row] in self._frauds)
            or (actions[row] == DECLINE and ids[row] not in self._frauds)
        ]
        self._frauds.difference_update(ids)
        if rows:
            scored = self._champion.score(decisions.features[rows])
            for row, contributions in zip(rows, scored.contributions, strict=True):
                self._then[ids[row]] = contributions.copy()

    def settled(self, labels: Sequence[Settled]) -> None:
        """Count labels that are about to be learned."""
        for item in labels:
            if item.decision is None:
                continue
            example = item.example(partition=0)
            name = example.transaction_id
            if self._ledger.add(example, item.training_seq):
                self._unscored.append(self._ledger.entry(name))
            else:
                self._then.pop(name, None)

    def finish(self) -> list[Mistake]:
        """Tell the costliest mistakes, at the end of the replay."""
        self._score_learned()
        return [
            self._narrator.tell(
                entry,
                then=self._then.get(entry.example.transaction_id),
                learned=self._learned.get(entry.example.transaction_id),
                now=self._champion,
            )
            for entry in self._ledger.costliest
        ]

    @property
    def _champion(self) -> Model:
        assert self.run is not None, "the replay was not given"
        return self.run.champion

    def _score_learned(self) -> None:
        """Score what was settled with the model that has now learned it."""
        for entry in self._unscored:
            name = entry.example.transaction_id
            if self._ledger.keeps(name):
                self._learned[name] = float(self._champion.scores(entry.features)[0])
        self._unscored = []
        gone = [name for name in self._learned if not self._ledger.keeps(name)]
        for name in gone:
            del self._learned[name]
            self._then.pop(name, None)
