"""How sure a number is: what it would have been had the days of the run been other days like them.

Days are drawn with replacement, as many as there were, and each number is taken again; the middle
95 % of what comes is the interval. Events of one day belong together (one compromised terminal, one
sale), so days are drawn and not events; what lasts longer than a day still makes the interval too
narrow. It says nothing about another model that might have been learned: that is what `folds` is
for.

>>> wilson(8, 10)
Interval(low=0.49, high=0.943)
>>> wilson(0, 0) is None
True
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.durations import DAY_MS
from pipeline.evaluation import (
    Measured,
    card_precisions,
    equal_mass,
    equal_width,
    log_losses,
    squared_errors,
)
from pipeline.quality.budget import ALERT_RATE, ALERTS_A_DAY, in_budget

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Days = NDArray[np.int32]
"""A small number for each event, the first 0: its day or its bin."""

# Fewer days than these are no sample of anything.
DAYS_MIN = 7
DRAWS = 200
CONFIDENCE = 0.95
# Of the standard normal distribution, 95 % lies so near to 0.
DEVIATIONS = 1.959963984540054
SEED = 7

RANKING = ("average_precision", "roc_auc", "recall_in_top_frauds", "recall_at_1_percent")


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true number 95 times in a hundred."""

    low: float
    high: float


def wilson(hits: int, trials: int) -> Interval | None:
    """Give the interval of a share by Wilson's score; of no trial there is none."""
    if not trials:
        return None
    share, square = hits / trials, DEVIATIONS**2
    scale = 2 * (trials + square)
    middle = (2 * trials * share + square) / scale
    half = DEVIATIONS / scale * sqrt(4 * trials * share * (1 - share) + square)
    return Interval(middle - half if hits else 0.0, middle + half if hits < trials else 1.0)


def bootstrap_by_day(
    found: Measured, *, alerts_a_day: int = ALERTS_A_DAY, draws: int = DRAWS, seed: int = SEED
) -> dict[str, Interval]:
    """Give the interval of each number of `Quality`, by its name; nothing for a short run."""
    numbers = (found.event_time_ms // DAY_MS).astype(np.int32)
    days = np.unique(numbers)
    day = np.searchsorted(days, numbers).astype(np.int32)
    del numbers
    if len(days) < DAYS_MIN or found.is_fraud.all() or not found.is_fraud.any():
        return {}
    chance = np.random.default_rng(seed)
    shares = np.full(len(days), 1.0 / len(days))
    drawn: Floats = chance.multinomial(len(days), shares, size=draws).astype(np.float64)
    values = _means(found, day, drawn) | _ranked(found, day, drawn)
    values |= _budgets(found, day, drawn, alerts_a_day)
    tail = (1.0 - CONFIDENCE) / 2.0
    return {
        name: Interval(*np.nanquantile(column, (tail, 1.0 - tail)).tolist())
        for name, column in values.items()
        if not np.isnan(column).all()
    }


def _means(found: Measured, day: Days, drawn: Floats) -> dict[str, Floats]:
    """Give what is a mean over events or days, for each draw of days."""
    scores, fraud = found.scores, found.is_fraud
    events = drawn @ np.bincount(day)
    values = {
        "log_loss": drawn @ np.bincount(day, log_losses(scores, fraud)) / events,
        "brier": drawn @ np.bincount(day, squared_errors(scores, fraud)) / events,
    }
    for name, bins_of in (
        ("calibration_error", equal_width),
        ("calibration_error_equal_mass", equal_mass),
    ):
        sums = _errors(found, day, bins_of(scores).astype(np.int32), days=drawn.shape[1])
        values[name] = np.abs(drawn @ sums).sum(axis=1) / events
    plain, handbook = card_precisions(
        scores, fraud, found.event_time_ms, found.card, found.frauds_known
    )
    values["card_precision_top_100"] = drawn @ plain / drawn.sum(axis=1)
    values["card_precision_handbook"] = drawn @ handbook / drawn.sum(axis=1)
    return values


def _errors(found: Measured, day: Days, code: Days, *, days: int) -> Floats:
    """Add up by day and bin how far the scores are from the truth."""
    bins = int(code.max()) + 1
    errors = found.scores - found.is_fraud
    sums = np.bincount(day * np.int32(bins) + code, errors, minlength=days * bins)
    return sums.reshape(days, bins).astype(np.float64, copy=False)


def _budgets(found: Measured, day: Days, drawn: Floats, alerts_a_day: int) -> dict[str, Floats]:
    marked = in_budget(found.scores, day, a_day=alerts_a_day) & found.is_fraud
    money = found.amount_minor.astype(np.float64)
    days = drawn.shape[1]

    def by_day(rows: Bools, weights: Floats | None = None) -> Floats:
        part = None if weights is None else weights[rows]
        return drawn @ np.bincount(day[rows], part, minlength=days)

    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall_at_budget": by_day(marked) / by_day(found.is_fraud),
            "value_detection_rate": by_day(marked, money) / by_day(found.is_fraud, money),
        }


def _ranked(found: Measured, day: Days, drawn: Floats) -> dict[str, Floats]:
    """Give what depends on the order of all scores, for each draw of days."""
    order = np.argsort(-found.scores, kind="stable")
    out = np.empty((len(drawn), len(RANKING)))
    ranked(
        found.scores[order], found.is_fraud[order], day[order].astype(np.int64), drawn,
        ALERT_RATE, out,
    )  # fmt: skip
    return {name: out[:, place] for place, name in enumerate(RANKING)}


@kernel
def ranked(
    scores: Floats, is_fraud: Bools, day: Ints, drawn: Floats, alert_rate: float, out: Floats
) -> None:
    """Give the numbers of `RANKING` for each draw; events stand from the highest score down.

    An event counts as often as its day was drawn. Equal scores are one step, as in scikit-learn,
    but for the two recalls, where the earlier event comes first.
    """
    for draw in range(drawn.shape[0]):
        weights = drawn[draw]
        events = frauds = 0.0
        for row in range(len(scores)):
            events += weights[day[row]]
            frauds += weights[day[row]] * is_fraud[row]
        if frauds in (0.0, events):
            out[draw, :] = np.nan
            continue
        seen = caught = precision_sum = above = in_top = in_rate = 0.0
        rate_top = max(1.0, np.ceil(events * alert_rate))
        first = 0
        while first < len(scores):
            end = first
            step = step_frauds = 0.0
            while end < len(scores) and scores[end] == scores[first]:
                weight = weights[day[end]]
                if is_fraud[end]:
                    in_top += min(weight, max(0.0, frauds - seen - step))
                    in_rate += min(weight, max(0.0, rate_top - seen - step))
                    step_frauds += weight
                step += weight
                end += 1
            step_genuine = step - step_frauds
            above += step_genuine * (caught + step_frauds / 2.0)
            seen += step
            caught += step_frauds
            if step_frauds > 0.0:
                precision_sum += step_frauds * caught / seen
            first = end
        out[draw, 0] = precision_sum / frauds
        out[draw, 1] = above / (frauds * (events - frauds))
        out[draw, 2] = in_top / frauds
        out[draw, 3] = in_rate / frauds
