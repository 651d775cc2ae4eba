"""Scores, truth, time, card and action of every event of a run, as compact columns.

Quality can be measured only when the run is over, on a period that the caller chooses; so what it
needs is kept for each event, and nothing else: 30 bytes and 8 for each model, in columns that grow.

>>> log = ScoreLog(("additive",))
>>> log.columns() is None
True
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Decisions
from pipeline.evaluation import Measured, Quality, evaluate
from pipeline.numbering import Numbering
from pipeline.quality.budget import ALERTS_A_DAY


@dataclass(frozen=True, slots=True)
class ScoreColumns:
    """All events of a run in the order of their decisions.

    Parameters
    ----------
    is_fraud
        1, 0, or -1 where nobody knows.
    card
        The partition key, coded as integers from 0.
    action
        A number of `ACTIONS`.
    scores
        One column for each model, the champion first.
    row
        Number of the event in the stream as it was read, duplicates counted.
    labels_known
        How many labels had been learned when the event was scored.
    """

    is_fraud: NDArray[np.int8]
    event_time_ms: NDArray[np.int64]
    card: NDArray[np.int32]
    action: NDArray[np.int8]
    scores: dict[str, NDArray[np.float64]]
    amount_minor: NDArray[np.int64]
    row: NDArray[np.int32]
    labels_known: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.is_fraud)

    def measured(self, start_ms: int | None, end_ms: int | None) -> NDArray[np.bool_]:
        """Mark the labelled events from `start_ms` to before `end_ms`; `None` is without bound."""
        judged = self.is_fraud >= 0
        if start_ms is not None:
            judged &= self.event_time_ms >= start_ms
        if end_ms is not None:
            judged &= self.event_time_ms < end_ms
        return judged

    def of_model(self, name: str, rows: NDArray[np.bool_]) -> Measured:
        """Give these rows with the scores of one model."""
        frauds = self.is_fraud == 1
        part = part_of(rows)
        return Measured(
            scores=self.scores[name][part],
            is_fraud=frauds[part],
            event_time_ms=self.event_time_ms[part],
            card=self.card[part],
            amount_minor=self.amount_minor[part],
            frauds_known=(self.event_time_ms[frauds], self.card[frauds]),
        )


def part_of(rows: NDArray[np.bool_]) -> NDArray[np.bool_] | slice:
    """Give what selects these rows: of all a view, which costs nothing, where a copy would."""
    return slice(None) if rows.all() else rows


# Verdict, time, card, action, amount, row, labels known; then the scores of each model.
_TYPES = (np.int8, np.int64, np.int32, np.int8, np.int64, np.int32, np.int32)
# Events that a column has room for at first; when it is full, its room is doubled.
_ROOM = 1 << 16


class ScoreLog:
    """Takes decisions with what is known of them; grows with the run."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        types = [*_TYPES, *(np.float64 for _ in names)]
        self._columns: list[NDArray[Any]] = [np.empty(_ROOM, dtype) for dtype in types]
        self._count = 0
        self._cards = Numbering()

    def add(self, decisions: Decisions, is_fraud: NDArray[np.int8], *, first_row: int) -> None:
        """Keep the scores of a batch; `first_row` is the number of its first event in the stream.

        The number counts duplicates.
        """
        given = (
            is_fraud,
            decisions.transactions.event_time_ms,
            self._cards.of(decisions.transactions.keys[0]),
            decisions.actions,
            decisions.transactions.amount_minor,
            decisions.rows + first_row,
            decisions.label_offset,
            decisions.scores,
            *decisions.challengers.values(),
        )
        start, self._count = self._count, self._count + len(decisions)
        while self._count > len(self._columns[0]):
            for place, column in enumerate(self._columns):
                self._columns[place] = np.empty(2 * len(column), column.dtype)
                self._columns[place][:start] = column[:start]
        for column, values in zip(self._columns, given, strict=True):
            column[start : self._count] = values

    def columns(self) -> ScoreColumns | None:
        """Give what was kept; of no events there is nothing."""
        if not self._count:
            return None
        filled = [column[: self._count] for column in self._columns]
        is_fraud, times, cards, actions, amounts, rows, labels, *scores = filled
        return ScoreColumns(
            is_fraud=is_fraud,
            event_time_ms=times,
            card=cards,
            action=actions,
            scores=dict(zip(self._names, scores, strict=True)),
            amount_minor=amounts,
            row=rows,
            labels_known=labels,
        )

    def quality(
        self, start_ms: int | None, end_ms: int | None, *, alerts_a_day: int = ALERTS_A_DAY
    ) -> dict[str, Quality]:
        """Measure each model on the labelled events of a period."""
        log = self.columns()
        if log is None:
            return {}
        rows = log.measured(start_ms, end_ms)
        judged = {name: log.of_model(name, rows) for name in log.scores}
        return {
            name: evaluate(
                found.scores,
                found.is_fraud,
                event_time_ms=found.event_time_ms,
                card=found.card,
                amount_minor=found.amount_minor,
                frauds_known=found.frauds_known,
                alerts_a_day=alerts_a_day,
            )
            for name, found in judged.items()
        }
