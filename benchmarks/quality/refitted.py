"""Trees that are fitted again and again on a trailing window, as most teams do it.

At each midnight that is a refit, a model is fitted on the events of the window whose labels are
known by then, and scores what comes until the next refit. One thread fits, so that seconds of CPU
compare. The sizes below were tried on the Handbook's days 20 to 45 only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import Report
from benchmarks.quality.tables import Table
from pipeline.durations import DAY_MS

Floats = NDArray[np.float64]
Fitted = Callable[[NDArray[np.float32]], Floats]
"""Scores events, a row each."""
Fit = Callable[[NDArray[np.float32], NDArray[np.int8]], Fitted]
"""Fits a model on labelled events."""

SCORE_BEFORE = 0.01
FRAUDS_MIN = 5
TREES = 150
RATE = 0.05
LEAVES = 31
LEAF_EVENTS_MIN = 50
CHILD = 1.0
DEPTH = 6
SEED = 7


@dataclass(frozen=True, slots=True)
class Refitted:
    """A model fitted every `period_days` on the labelled events of `window_days`."""

    fit: Fit
    period_days: float
    window_days: float

    def run(self, table: Table, stop: int, report: Report) -> Floats:
        """Score the events before row `stop`, each by the latest model."""
        times = table.truth.event_time_ms[:stop]
        scores = np.full(stop, SCORE_BEFORE)
        period_ms = int(self.period_days * DAY_MS)
        first_ms = int(times[0]) // DAY_MS * DAY_MS
        fitted: Fitted | None = None
        row = 0
        while row < stop:
            now_ms = first_ms + (int(times[row]) - first_ms) // period_ms * period_ms
            fitted = self._fitted(table, now_ms) or fitted
            end = int(np.searchsorted(times, now_ms + period_ms))
            if fitted is not None:
                scores[row:end] = fitted(table.rows(row, end))
            row = end
            report(row)
        return scores

    def _fitted(self, table: Table, now_ms: int) -> Fitted | None:
        """Fit on what is known at a moment; on too few frauds there is no model."""
        end = table.known_at(now_ms)
        since_ms = now_ms - table.delay_ms - int(self.window_days * DAY_MS)
        start = int(np.searchsorted(table.truth.event_time_ms, since_ms))
        known = np.flatnonzero(table.truth.is_fraud[start:end] >= 0)
        is_fraud = table.truth.is_fraud[start:end][known]
        if is_fraud.sum() < FRAUDS_MIN:
            return None
        return self.fit(table.rows(start, end)[known], is_fraud)


def lightgbm(features: NDArray[np.float32], is_fraud: NDArray[np.int8]) -> Fitted:
    """Fit LightGBM, lightly regularised."""
    import lightgbm  # noqa: PLC0415 - of the group `bench`

    parameters = {
        "objective": "binary",
        "learning_rate": RATE,
        "num_leaves": LEAVES,
        "min_data_in_leaf": min(LEAF_EVENTS_MIN, len(features) // 20),
        "lambda_l2": 5.0,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": 1,
        "seed": SEED,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    booster = lightgbm.train(parameters, lightgbm.Dataset(features, is_fraud), TREES)
    return lambda rows: np.asarray(booster.predict(rows, num_threads=1), dtype=np.float64)


def xgboost(features: NDArray[np.float32], is_fraud: NDArray[np.int8]) -> Fitted:
    """Fit XGBoost by histograms, of the same size."""
    import xgboost  # noqa: PLC0415 - of the group `bench`

    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eta": RATE,
        "max_depth": DEPTH,
        "min_child_weight": CHILD,
        "lambda": 5.0,
        "subsample": 0.8,
        "colsample_bytree": 0.8,
        "nthread": 1,
        "seed": SEED,
    }
    booster = xgboost.train(parameters, xgboost.DMatrix(features, is_fraud, nthread=1), TREES)
    return lambda rows: booster.predict(xgboost.DMatrix(rows, nthread=1)).astype(np.float64)
