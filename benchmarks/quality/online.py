"""Rivals that learn online: at each full hour the labels that are known, then the hour's events."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from river import forest

from benchmarks.progress import Report
from benchmarks.quality.tables import Table
from models import make_model
from models.contract import score_of
from pipeline.durations import HOUR_MS

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]

SEED = 7
FOREST_TREES = 10
ROWS_READ = 65_536


class Learner(Protocol):
    """What learns rows and scores rows."""

    def learn(self, rows: Float32s, is_fraud: Int8s) -> None:
        """Learn labelled events in their order."""

    def scores(self, rows: Float32s) -> Floats:
        """Score events, a row each."""


@dataclass(frozen=True, slots=True)
class Online:
    """A learner that is made for the features' names and goes through the stream once."""

    make: Callable[[tuple[str, ...]], Learner]

    def run(self, table: Table, stop: int, report: Report) -> Floats:
        """Score the events before row `stop`; learn each label when it is known."""
        learner = self.make(table.names)
        scored, learned = _Reader(table), _Reader(table)
        times, scores = table.truth.event_time_ms[:stop], np.empty(stop)
        row = done = 0
        while row < stop:
            hour_ms = int(times[row]) // HOUR_MS * HOUR_MS
            known = min(table.known_at(hour_ms), row)
            for rows, is_fraud in learned.labelled(done, known):
                learner.learn(rows, is_fraud)
            done = max(known, done)
            end = int(np.searchsorted(times, hour_ms + HOUR_MS))
            scores[row:end] = learner.scores(scored.rows(row, end))
            row = end
            report(row)
        return scores


class _Reader:
    """Reads rows in order, many at a time."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._start, self._rows = 0, np.empty((0, len(table.names)), dtype=np.float32)

    def rows(self, start: int, stop: int) -> Float32s:
        if stop > self._start + len(self._rows):
            self._start = start
            self._rows = self._table.rows(
                start, min(max(stop, start + ROWS_READ), len(self._table))
            )
        return self._rows[start - self._start : stop - self._start]

    def labelled(self, start: int, stop: int) -> Iterator[tuple[Float32s, Int8s]]:
        if start < stop:
            is_fraud = self._table.truth.is_fraud[start:stop]
            known = is_fraud >= 0
            yield self.rows(start, stop)[known], is_fraud[known]


class ContractLearner:
    """One of our own models, on any table."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        self._model = make_model(name, names)

    def learn(self, rows: Float32s, is_fraud: Int8s) -> None:
        """Learn labelled events in their order."""
        self._model.learn(np.ascontiguousarray(rows), is_fraud, np.ones(len(rows)))

    def scores(self, rows: Float32s) -> Floats:
        """Score events, a row each."""
        return self._model.scores(rows)


class Forest:
    """River's adaptive random forest."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._forest = forest.ARFClassifier(n_models=FOREST_TREES, seed=SEED)

    def learn(self, rows: Float32s, is_fraud: Int8s) -> None:
        """Learn labelled events in their order."""
        for row, fraud in zip(rows.tolist(), is_fraud.tolist(), strict=True):
            self._forest.learn_one(self._named(row), bool(fraud))

    def scores(self, rows: Float32s) -> Floats:
        """Score events, a row each."""
        found = (self._forest.predict_proba_one(self._named(row)) for row in rows.tolist())
        return np.array([each.get(True, 0.0) for each in found])

    def _named(self, row: list[float]) -> dict[str, float]:
        # Trees split on values; what is missing is left out, as for every River model.
        return {name: value for name, value in zip(self._names, row, strict=True) if value == value}  # noqa: PLR0124


class VowpalWabbit:
    """Vowpal Wabbit's adaptive linear learner, with logistic loss; `pairs` adds all of them."""

    def __init__(self, names: tuple[str, ...], *, pairs: bool = False) -> None:
        from vowpalwabbit import Workspace  # noqa: PLC0415 - of the group `bench`

        quadratic = " -q ff" if pairs else ""
        self._workspace: Any = Workspace(
            f"--loss_function logistic --quiet -b 22 --random_seed {SEED}{quadratic}"
        )
        self._names = names

    def learn(self, rows: Float32s, is_fraud: Int8s) -> None:
        """Learn labelled events in their order."""
        for row, fraud in zip(rows.tolist(), is_fraud.tolist(), strict=True):
            self._workspace.learn(f"{1 if fraud else -1} {self._text(row)}")

    def scores(self, rows: Float32s) -> Floats:
        """Score events, a row each."""
        predict = self._workspace.predict
        return np.array([score_of(predict(self._text(row))) for row in rows.tolist()])

    def _text(self, row: list[float]) -> str:
        pairs = zip(self._names, row, strict=True)
        given = (f"{name}:{value:.6g}" for name, value in pairs if math.isfinite(value))
        return f"|f {' '.join(given)}"
