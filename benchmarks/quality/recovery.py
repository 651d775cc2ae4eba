"""How fast a model is itself again after the stream has changed.

The level is the mean log loss of the four weeks before the change. Recovered is the first day on
which the mean of the latest week, all of it after the change, is within a tenth of the level; what
was lost until then is the excess over the level, added up over days.

>>> recovery(np.array([0.01] * 40 + [0.05] * 7 + [0.01] * 20), change=40)["days_to_recover"]
14
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durations import DAY_MS
from pipeline.evaluation import log_losses

LEVEL_DAYS = 28
MEAN_DAYS = 7
TOLERANCE = 1.1
AFTER_DAYS = 28


def daily_log_loss(
    scores: NDArray[np.float64], is_fraud: NDArray[np.int8], event_time_ms: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Give the mean log loss of each day of a stream, NaN on a day without events."""
    day = event_time_ms // DAY_MS - event_time_ms[0] // DAY_MS
    losses = np.bincount(day, weights=log_losses(scores, is_fraud == 1))
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = losses / np.bincount(day)
    return found


def recovery(daily: NDArray[np.float64], *, change: int) -> dict[str, Any]:
    """Say how a change on a day was survived; `None` days where it never was."""
    level = float(daily[change - LEVEL_DAYS : change].mean())
    after = daily[change:]
    means = np.convolve(after, np.full(MEAN_DAYS, 1 / MEAN_DAYS), mode="valid")
    back = np.flatnonzero(means <= TOLERANCE * level)
    return {
        "level_before": level,
        "log_loss_after": float(after[:AFTER_DAYS].mean()),
        "days_to_recover": int(back[0]) + MEAN_DAYS if len(back) else None,
        "excess_log_loss_days": float(np.maximum(after - level, 0.0)[:AFTER_DAYS].sum()),
    }
