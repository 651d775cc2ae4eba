"""From a score to an action and its reasons.

Reasons are the model's exact contributions, added up by reason code: what spoke most for fraud
comes first. `docs/reference.md` lists the codes of the card schema.

>>> from pipeline.schema import load_schema
>>> from pipeline.features import feature_table
>>> policy = Policy(feature_table(load_schema("card")), review_score_min=0.2, decline_score_min=0.8)
>>> [ACTIONS[action] for action in policy.actions(np.array([0.1, 0.2, 0.95]))]
['approve', 'review', 'decline']
>>> contributions = np.zeros((1, len(feature_table(load_schema("card")))))
>>> contributions[0, :4] = 0.5, 1.0, 1.0, -3.0
>>> list(policy.reasons(contributions))
[[('TIME_UNUSUAL', 2.0), ('AMOUNT_UNUSUAL', 0.5)]]
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.features import Feature
from pipeline.records import ACTIONS, Action

REASONS_MAX = 3
APPROVE, REVIEW, DECLINE = range(len(ACTIONS))

Reasons = list[tuple[str, float]]


class _Rows(Sequence[Reasons]):
    """The reasons of each event of a batch, made when they are read: of most, nobody asks."""

    @abstractmethod
    def _row(self, row: int) -> Reasons:
        """Give the reasons of one row, from 0 on."""

    @overload
    def __getitem__(self, place: int) -> Reasons: ...

    @overload
    def __getitem__(self, place: slice) -> list[Reasons]: ...

    def __getitem__(self, place: int | slice) -> Reasons | list[Reasons]:
        rows = range(len(self))[place]
        return self._row(rows) if isinstance(rows, int) else [self._row(row) for row in rows]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class ReasonRows(_Rows):
    """Reasons of a model, from numbers.

    >>> rows = ReasonRows(("A", "B"), np.array([[1, -1], [-1, -1]]), np.array([[0.5, 0.0], [0, 0]]))
    >>> rows[0], rows[-1], list(rows) == rows
    ([('B', 0.5)], [], True)
    """

    def __init__(
        self, names: tuple[str, ...], codes: NDArray[np.int64], values: NDArray[np.float64]
    ) -> None:
        self.names, self.codes, self.values = names, codes, values

    def __len__(self) -> int:
        return len(self.codes)

    def _row(self, row: int) -> Reasons:
        codes, values = self.codes[row].tolist(), self.values[row].tolist()
        named = zip(codes, values, strict=True)
        return [(self.names[code], value) for code, value in named if code >= 0]


class PrecededReasons(_Rows):
    """Reasons of a batch, with others before them in the rows that have any."""

    def __init__(self, first: Mapping[int, Reasons], others: Sequence[Reasons]) -> None:
        self.first, self.others = first, others

    def __len__(self) -> int:
        return len(self.others)

    def _row(self, row: int) -> Reasons:
        return [*self.first.get(row, ()), *self.others[row]]


class MarkedReasons(PrecededReasons):
    """Reasons of a batch, some of which have another before them that says who overruled a model.

    It contributes nothing to the score.

    >>> rows = MarkedReasons([[("A", 1.0)], []], {1: "LIST_BLOCKED"})
    >>> rows[0], rows[:]
    ([('A', 1.0)], [[('A', 1.0)], [('LIST_BLOCKED', 0.0)]])
    """

    def __init__(self, reasons: Sequence[Reasons], marks: Mapping[int, str]) -> None:
        super().__init__({row: [(mark, 0.0)] for row, mark in marks.items()}, reasons)
        self.marks = marks


class Policy:
    """Thresholds in force, and the reason code of each feature."""

    def __init__(
        self, features: tuple[Feature, ...], *, review_score_min: float, decline_score_min: float
    ) -> None:
        self._review, self._decline = review_score_min, decline_score_min
        self._codes = tuple(dict.fromkeys(feature.reason_code for feature in features))
        self._code_of_feature = np.array(
            [self._codes.index(feature.reason_code) for feature in features], dtype=np.int64
        )
        text = f"review_score_min={review_score_min!r} decline_score_min={decline_score_min!r}"
        self.version = hashlib.sha256(text.encode()).hexdigest()[:12]

    def actions(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Give the action of each score, as its number in `ACTIONS`."""
        return (scores >= self._review).astype(np.int64) + (scores >= self._decline)

    def scores_of(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give the score from which each action is taken: what rules, which score nothing, say."""
        return np.array([0.0, self._review, self._decline])[actions]

    def action(self, score: float) -> Action:
        """Give the action of one score."""
        return ACTIONS[int(self.actions(np.array([score]))[0])]

    def reasons(self, contributions: NDArray[np.float64]) -> ReasonRows:
        """Give at most three reasons for each event, by what spoke most for fraud."""
        codes = np.full((len(contributions), REASONS_MAX), -1, dtype=np.int64)
        values = np.zeros((len(contributions), REASONS_MAX))
        top_reasons(contributions, self._code_of_feature, len(self._codes), codes, values)
        return ReasonRows(self._codes, codes, values)


@kernel
def top_reasons(
    contributions: NDArray[np.float64],
    code_of_feature: NDArray[np.int64],
    code_count: int,
    codes: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """Add contributions up by code, and keep the largest that are above zero, largest first."""
    for row in range(contributions.shape[0]):
        totals = np.zeros(code_count)
        for column in range(contributions.shape[1]):
            totals[code_of_feature[column]] += contributions[row, column]
        for place in range(codes.shape[1]):
            best = np.argmax(totals)
            if totals[best] <= 0.0:
                break
            codes[row, place] = best
            values[row, place] = totals[best]
            totals[best] = 0.0
