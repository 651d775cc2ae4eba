"""How good the scores of a run were, as a whole and stretch by stretch.

A score is judged by the verdict that came later. Ranking is
measured by average precision and card precision, because fraud is rare and people look at the top;
log loss, Brier and calibration error say whether a score can be read as a probability. What is not
defined (ranking without a fraud or without a genuine event) is `None`, never a number.

>>> quality = evaluate([0.9, 0.8, 0.3, 0.1], [True, False, True, False])
>>> quality.events, quality.frauds, quality.average_precision
(4, 2, 0.833)
>>> evaluate([0.1, 0.2], [False, False]).roc_auc is None
True
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    roc_auc_score,
)

from pipeline.durations import DAY_MS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

CALIBRATION_BINS = 15
CARDS_TOP = 100

# A model that says 0 of a fraud would otherwise cost infinitely much; scikit-learn clips alike.
SCORE_MARGIN = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the scores of a run were; `None` where a number is not defined."""

    events: int
    frauds: int
    average_precision: float | None
    roc_auc: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    card_precision_top_100: float | None


@dataclass(frozen=True, slots=True)
class Block:
    """The quality of one stretch of a run; `first` and `last` are row numbers, inclusive."""

    first: int
    last: int
    events: int
    frauds: int
    average_precision: float | None
    log_loss: float


def evaluate(
    scores: ArrayLike,
    is_fraud: ArrayLike,
    *,
    event_time_ms: ArrayLike | None = None,
    card: ArrayLike | None = None,
) -> Quality:
    """Judge a whole run.

    Parameters
    ----------
    event_time_ms, card
        Needed for card precision; `card` is coded as integers from 0.
    """
    score, fraud = columns(scores, is_fraud)
    return Quality(
        events=len(score),
        frauds=int(fraud.sum()),
        average_precision=average_precision(score, fraud),
        roc_auc=roc_auc(score, fraud),
        log_loss=mean_or_none(log_losses(score, fraud)),
        brier=mean_or_none(squared_errors(score, fraud)),
        calibration_error=calibration_error(score, fraud),
        card_precision_top_100=None
        if event_time_ms is None or card is None
        else card_precision(score, fraud, event_time_ms=event_time_ms, card=card),
    )


def log_losses(scores: Floats, is_fraud: Bools) -> Floats:
    """Give the log loss of each event, in nats."""
    given = np.clip(np.where(is_fraud, scores, 1.0 - scores), SCORE_MARGIN, 1.0)
    losses: Floats = -np.log(given)
    return losses


def squared_errors(scores: Floats, is_fraud: Bools) -> Floats:
    """Give the squared error of each event; its mean is the Brier score."""
    return np.square(scores - is_fraud)


def average_precision(scores: Floats, is_fraud: Bools) -> float | None:
    """Give the area under precision and recall."""
    return float(average_precision_score(is_fraud, scores)) if _is_mixed(is_fraud) else None


def roc_auc(scores: Floats, is_fraud: Bools) -> float | None:
    """Give the probability that a fraud scores above a genuine event."""
    return float(roc_auc_score(is_fraud, scores)) if _is_mixed(is_fraud) else None


def calibration_error(
    scores: Floats, is_fraud: Bools, *, bins: int = CALIBRATION_BINS
) -> float | None:
    """Give the mean distance between score and fraud rate over bins of equal width."""
    if not len(scores):
        return None
    code = np.minimum((scores * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(code, weights=scores - is_fraud)).sum() / len(scores))


def card_precision(
    scores: ArrayLike,
    is_fraud: ArrayLike,
    *,
    event_time_ms: ArrayLike,
    card: ArrayLike,
    top: int = CARDS_TOP,
) -> float | None:
    """Give the mean over UTC days of the share of compromised cards among the `top` suspicious.

    A card is as suspicious as its highest score of the day; of equal ones the lower number is
    first. A day with fewer cards than `top` is still divided by `top`.

    >>> day = [0, 1, 2]
    >>> card_precision([0.9, 0.8, 0.1], [1, 0, 1], event_time_ms=day, card=[7, 8, 9], top=2)
    0.5
    """
    score, fraud = columns(scores, is_fraud)
    if not len(score):
        return None
    days, cards = np.asarray(event_time_ms, np.int64) // DAY_MS, np.asarray(card, np.int64)
    day, number, highest, compromised = _by_card_and_day(score, fraud, days, cards)
    order = np.lexsort((number, -highest, day))
    starts = _starts(day[order])
    lengths = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    return float(compromised[order][rank < top].sum() / (top * len(starts)))


def _by_card_and_day(
    scores: Floats, is_fraud: Bools, day: Ints, card: Ints
) -> tuple[Ints, Ints, Floats, Bools]:
    """Fold events to one row for each card and day: its highest score, any fraud."""
    order = np.lexsort((card, day))
    starts = _starts(day[order], card[order])
    first = order[starts]
    highest = np.maximum.reduceat(scores[order], starts)
    return day[first], card[first], highest, np.logical_or.reduceat(is_fraud[order], starts)


def _starts(*sorted_columns: Ints) -> NDArray[np.intp]:
    """Give the rows at which a group of equal values begins."""
    begins = np.zeros(len(sorted_columns[0]), np.bool_)
    begins[0] = True
    for column in sorted_columns:
        begins[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(begins)


def quality_over_time(
    scores: ArrayLike,
    is_fraud: ArrayLike,
    *,
    blocks: int = 20,
    event_time_ms: ArrayLike | None = None,
    period_ms: int | None = None,
) -> tuple[Block, ...]:
    """Judge a run stretch by stretch, to show whether quality rises.

    Rows are in the order in which they were scored. Stretches have equal counts, or with
    `event_time_ms` and `period_ms` equal lengths of event time (then empty ones are left out).

    >>> scores, verdicts = [0.5, 0.4, 0.9, 0.1], [False, True, True, False]
    >>> [block.average_precision for block in quality_over_time(scores, verdicts, blocks=2)]
    [0.5, 1.0]
    """
    score, fraud = columns(scores, is_fraud)
    if not len(score):
        return ()
    if event_time_ms is None or period_ms is None:
        code = np.arange(len(score)) * min(blocks, len(score)) // len(score)
    else:
        # Scored order is not quite event-time order: a late event belongs to the open stretch.
        code = np.maximum.accumulate(np.asarray(event_time_ms, np.int64) // period_ms)
    edges = [*_starts(code).tolist(), len(score)]
    return tuple(
        _block(score, fraud, first, end) for first, end in zip(edges, edges[1:], strict=False)
    )


def _block(scores: Floats, is_fraud: Bools, first: int, end: int) -> Block:
    score, fraud = scores[first:end], is_fraud[first:end]
    return Block(
        first=first,
        last=end - 1,
        events=end - first,
        frauds=int(fraud.sum()),
        average_precision=average_precision(score, fraud),
        log_loss=float(log_losses(score, fraud).mean()),
    )


def columns(scores: ArrayLike, is_fraud: ArrayLike) -> tuple[Floats, Bools]:
    """Give scores and verdicts as columns of one length."""
    score, fraud = np.asarray(scores, np.float64), np.asarray(is_fraud, np.bool_)
    assert score.shape == fraud.shape, (score.shape, fraud.shape)
    assert score.ndim == 1, score.shape
    return score, fraud


def _is_mixed(is_fraud: Bools) -> bool:
    return bool(is_fraud.any()) and not bool(is_fraud.all())


def mean_or_none(values: Floats) -> float | None:
    """Give the mean; of nothing there is none."""
    return float(values.mean()) if len(values) else None
