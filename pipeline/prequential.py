"""How good the scores of the latest labelled events were: prequential, that is test, then train.

Every score was given before its verdict was known, so none of it was learned from when it was
judged. The window is bounded; sums since the start go on beside it.

>>> window = PrequentialWindow(limit=3)
>>> window.observe([0.9, 0.2, 0.8, 0.1], [1, 0, 0, 0], [60_000] * 4)
>>> window.quality.events, window.totals.events, window.quality.brier
(3, 4, 0.23)
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.durations import DAY_MS
from pipeline.evaluation import (
    Bools,
    Floats,
    calibration_error,
    columns,
    log_losses,
    mean_or_none,
    squared_errors,
)
from pipeline.quality.ranking import average_precision

# Labels of the first day are mostly verdicts on reviewed events, which are no fair sample.
SLOW_LABEL_MS = DAY_MS

Example = tuple[int, int]
"""A training example by its feedback partition and its number there."""


@dataclass(frozen=True, slots=True)
class WindowQuality:
    """How good the scores of the latest labelled events were, and how old their labels are.

    `slow_label_share` is the share of labels that took a day or more: where it is low, the window
    speaks of reviewed events and not of the stream.
    """

    events: int
    frauds: int
    log_loss: float | None
    brier: float | None
    average_precision: float | None
    calibration_error: float | None
    label_delay_ms_median: float | None
    slow_label_share: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since the start: a mean over any stretch is a difference of two of them."""

    events: int = 0
    frauds: int = 0
    log_loss_sum: float = 0.0
    brier_sum: float = 0.0


class PrequentialWindow:
    """The latest labelled events and what their scores were worth; at its limit the oldest goes.

    An example that supersedes an earlier one (`revise`) corrects the window. The totals keep the
    first verdict, since a counter must not go down.

    Parameters
    ----------
    limit
        Labelled events in the window, at most.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0, limit
        self.limit = limit
        self._totals = Totals()
        self._scores = np.zeros(limit)
        self._is_fraud = np.zeros(limit, np.bool_)
        self._delay_ms = np.zeros(limit, np.int64)
        self._places: OrderedDict[Example, int] = OrderedDict()
        self._quality: WindowQuality | None = None

    @property
    def totals(self) -> Totals:
        """Sums since the start, every event by its first verdict."""
        return self._totals

    @property
    def quality(self) -> WindowQuality:
        """The quality over the window; computed when asked for, and once."""
        if self._quality is None:
            self._quality = self._compute()
        return self._quality

    def observe(
        self,
        scores: ArrayLike,
        is_fraud: ArrayLike,
        label_delay_ms: ArrayLike,
        *,
        examples: Sequence[Example] = (),
    ) -> None:
        """Take labelled events in the order of their labels.

        `examples` names those that may be revised.
        """
        score, fraud = columns(scores, is_fraud)
        delay_ms = np.asarray(label_delay_ms, np.int64)
        assert len(score) == len(delay_ms), (len(score), len(delay_ms))
        if not len(score):
            return
        self._remember_places(examples)
        self._count(score, fraud)
        kept = slice(-self.limit, None)
        place = (self._totals.events - np.arange(len(score), 0, -1))[kept] % self.limit
        self._scores[place] = score[kept]
        self._is_fraud[place] = fraud[kept]
        self._delay_ms[place] = delay_ms[kept]
        self._quality = None

    def revise(self, example: Example, superseded: Example, *, is_fraud: bool) -> bool:
        """Let the verdict of a superseded example be another; `False` where it left the window."""
        number = self._places.pop(superseded, -1)
        if number < max(0, self._totals.events - self.limit):
            return False
        # The entry is behind newer ones now: it may be forgotten late, never early.
        self._places[example] = number
        self._is_fraud[number % self.limit] = is_fraud
        self._quality = None
        return True

    def _remember_places(self, examples: Sequence[Example]) -> None:
        for number, example in enumerate(examples, start=self._totals.events):
            self._places[example] = number
        while len(self._places) > self.limit:
            self._places.popitem(last=False)

    def _count(self, scores: Floats, is_fraud: Bools) -> None:
        totals = self._totals
        self._totals = Totals(
            events=totals.events + len(scores),
            frauds=totals.frauds + int(is_fraud.sum()),
            log_loss_sum=totals.log_loss_sum + float(log_losses(scores, is_fraud).sum()),
            brier_sum=totals.brier_sum + float(squared_errors(scores, is_fraud).sum()),
        )

    def _compute(self) -> WindowQuality:
        count = min(self._totals.events, self.limit)
        score, fraud = self._scores[:count], self._is_fraud[:count]
        delay_ms = self._delay_ms[:count]
        return WindowQuality(
            events=count,
            frauds=int(fraud.sum()),
            log_loss=mean_or_none(log_losses(score, fraud)),
            brier=mean_or_none(squared_errors(score, fraud)),
            average_precision=average_precision(score, fraud),
            calibration_error=calibration_error(score, fraud),
            label_delay_ms_median=float(np.median(delay_ms)) if count else None,
            slow_label_share=mean_or_none((delay_ms >= SLOW_LABEL_MS).astype(np.float64)),
        )
