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

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.durations import DAY_MS
from pipeline.quality.budget import (
    ALERTS_A_DAY,
    in_budget,
    recall,
    recall_in_top,
    top_of_rate,
    value_detected,
)
from pipeline.quality.cards import card_days, handbook_by_day, plain_by_day, starts_of
from pipeline.quality.ranking import average_precision, roc_auc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

CALIBRATION_BINS = 15

# A model that says 0 of a fraud would otherwise cost infinitely much; scikit-learn clips alike.
SCORE_MARGIN = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the scores of a run were; `None` where a number is not defined.

    Parameters
    ----------
    calibration_error, calibration_error_equal_mass
        Over 15 bins of equal width, and over 15 of equally many events.
    card_precision_top_100, card_precision_handbook
        With no card removed, and by the rule of the Fraud Detection Handbook.
    recall_in_top_frauds
        Share of the frauds among as many of the highest scores as there are frauds.
    recall_at_1_percent
        Share of the frauds among the highest hundredth of the scores.
    recall_at_budget, value_detection_rate
        Share of the frauds, and of their money, among the highest scores of each day, as many as
        are looked at.
    """

    events: int
    frauds: int
    average_precision: float | None
    roc_auc: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    calibration_error_equal_mass: float | None = None
    card_precision_top_100: float | None = None
    card_precision_handbook: float | None = None
    recall_in_top_frauds: float | None = None
    recall_at_1_percent: float | None = None
    recall_at_budget: float | None = None
    value_detection_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The judged events of a run with the scores of one model; all columns of one length.

    Parameters
    ----------
    frauds_known
        Time and card of all frauds, those before the judged period as well.
    """

    scores: Floats
    is_fraud: Bools
    event_time_ms: Ints
    card: NDArray[np.int32]
    amount_minor: Ints
    frauds_known: tuple[Ints, NDArray[np.int32]]


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
    amount_minor: ArrayLike | None = None,
    frauds_known: tuple[ArrayLike, ArrayLike] | None = None,
    alerts_a_day: int = ALERTS_A_DAY,
) -> Quality:
    """Judge a whole run.

    Parameters
    ----------
    event_time_ms, card
        Needed for card precision and the budget; `card` is coded as integers from 0.
    amount_minor
        Needed for the money that is detected.
    frauds_known
        Time and card of all frauds, those before the judged period as well; without, of the judged.
    alerts_a_day
        The budget: how many events of a day are looked at.
    """
    score, fraud = columns(scores, is_fraud)
    quality = Quality(
        events=len(score),
        frauds=int(fraud.sum()),
        average_precision=average_precision(score, fraud),
        roc_auc=roc_auc(score, fraud),
        log_loss=mean_or_none(log_losses(score, fraud)),
        brier=mean_or_none(squared_errors(score, fraud)),
        calibration_error=calibration_error(score, fraud),
        calibration_error_equal_mass=calibration_error_equal_mass(score, fraud),
        recall_in_top_frauds=recall_in_top(score, fraud, top=int(fraud.sum())),
        recall_at_1_percent=recall_in_top(score, fraud, top=top_of_rate(len(score))),
    )
    if event_time_ms is None or not len(score):
        return quality
    times = np.asarray(event_time_ms, np.int64)
    marked = in_budget(score, times // DAY_MS, a_day=alerts_a_day)
    amounts = None if amount_minor is None else np.asarray(amount_minor, np.int64)
    quality = replace(
        quality,
        recall_at_budget=recall(marked, fraud),
        value_detection_rate=None if amounts is None else value_detected(marked, fraud, amounts),
    )
    if card is None:
        return quality
    plain, handbook = card_precisions(score, fraud, times, card, frauds_known)
    return replace(
        quality,
        card_precision_top_100=float(plain.mean()),
        card_precision_handbook=float(handbook.mean()),
    )


def card_precisions(
    scores: Floats,
    is_fraud: Bools,
    event_time_ms: Ints,
    card: ArrayLike,
    frauds_known: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[Floats, Floats]:
    """Give card precision day by day: the plain one, and by the Handbook's rule."""
    cards = card_days(scores, is_fraud, event_time_ms=event_time_ms, card=card)
    times, known = frauds_known or (event_time_ms[is_fraud], np.asarray(card)[is_fraud])
    _, plain = plain_by_day(cards)
    _, handbook = handbook_by_day(
        cards,
        fraud_day=np.asarray(times, np.int64) // DAY_MS,
        fraud_card=np.asarray(known, np.int64),
    )
    return plain, handbook


def log_losses(scores: Floats, is_fraud: Bools) -> Floats:
    """Give the log loss of each event, in nats."""
    given = np.clip(np.where(is_fraud, scores, 1.0 - scores), SCORE_MARGIN, 1.0)
    losses: Floats = -np.log(given)
    return losses


def squared_errors(scores: Floats, is_fraud: Bools) -> Floats:
    """Give the squared error of each event; its mean is the Brier score."""
    return np.square(scores - is_fraud)


def calibration_error(
    scores: Floats, is_fraud: Bools, *, bins: int = CALIBRATION_BINS
) -> float | None:
    """Give the mean distance between score and fraud rate over bins of equal width."""
    if not len(scores):
        return None
    code = equal_width(scores, bins)
    return float(np.abs(np.bincount(code, weights=scores - is_fraud)).sum() / len(scores))


def calibration_error_equal_mass(
    scores: Floats, is_fraud: Bools, *, bins: int = CALIBRATION_BINS
) -> float | None:
    """Give the mean distance between score and fraud rate over bins of equally many events."""
    if not len(scores):
        return None
    code = equal_mass(scores, bins)
    return float(np.abs(np.bincount(code, weights=scores - is_fraud)).sum() / len(scores))


def equal_width(scores: Floats, bins: int = CALIBRATION_BINS) -> Ints:
    """Give the bin of each score, of bins of equal width."""
    return np.minimum((scores * bins).astype(np.int64), bins - 1)


def equal_mass(scores: Floats, bins: int = CALIBRATION_BINS) -> Ints:
    """Give the bin of each score, of bins that hold equally many as far as equal scores allow."""
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


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
    edges = [*starts_of(code).tolist(), len(score)]
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


def mean_or_none(values: Floats) -> float | None:
    """Give the mean; of nothing there is none."""
    return float(values.mean()) if len(values) else None
