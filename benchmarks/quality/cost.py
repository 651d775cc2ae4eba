"""What `additive` costs on one core: features, score, learning, each timed by itself.

The events of the Handbook's stream stand in memory; each hour's are opened, read, recorded and
scored, and what is labelled by then is learned, into the model and into the profiles. Nothing
else runs in the process, which is held to one core.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import progress
from benchmarks.quality.streams import Stream
from models import make_model
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import Transactions
from pipeline.feature_kernels import record_verdicts
from pipeline.features import FeatureKernel, unusual_amounts
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from producers.batch import EventBatch, joined

# The first days compile and fill; the rest is timed.
WARM_DAYS = 10
EVENTS_MAX = 500_000


class _Timer:
    """CPU seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


class _System:
    """The kernels and the model, and nothing between them."""

    def __init__(self, stream: Stream, model: str) -> None:
        self._schema = stream.schema
        self._kernel = FeatureKernel(stream.schema)
        self._learned = LearnedProfiles(stream.schema)
        self._profiles = MemoryProfiles(stream.schema, self._learned)
        self._model = make_model(model, self._kernel.names)
        self.timer = _Timer()

    def decide(self, batch: Transactions) -> NDArray[np.float32]:
        with self.timer.step("profiles"):
            view = self._profiles.open(batch)
        with self.timer.step("features"):
            features = self._kernel.read_and_record(batch, view)
        with self.timer.step("score, with contributions"):
            self._model.score(features)
        return features

    def learn(
        self, batch: Transactions, features: NDArray[np.float32], is_fraud: NDArray[np.int8]
    ) -> None:
        with self.timer.step("learn"):
            self._model.tick(int(batch.event_time_ms[-1]) // HOUR_MS)
            self._model.learn(features, is_fraud, np.ones(len(batch)))
        with self.timer.step("labels into profiles"):
            corrects = np.zeros(len(batch), dtype=np.bool_)
            times, amounts = batch.event_time_ms, batch.amount_minor
            unusual = unusual_amounts(features, self._schema)
            for rows in self._learned.rows(batch.keys):
                record_verdicts(
                    rows.values, rows.slots, times, amounts, unusual, is_fraud, corrects
                )


def measure_cost(stream: Stream, model: str, delay_days: float) -> dict[str, Any]:
    """Time a stream's events on one core, its first days left out."""
    with _one_core():
        return _timed(stream, model, delay_days)


@contextmanager
def _one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _timed(stream: Stream, model: str, delay_days: float) -> dict[str, Any]:
    events = _first(stream.events())
    batch, times = events.transactions(), events.event_time_ms
    system = _System(stream, model)
    features = np.empty((len(batch), 0), dtype=np.float32)
    timed_from = learned = 0
    edges = [0, *(np.flatnonzero(np.diff(times // HOUR_MS)) + 1).tolist(), len(batch)]
    with progress("cost", "events", len(batch)) as report:
        for start, stop in zip(edges, edges[1:], strict=False):
            if not timed_from and times[start] >= times[0] + WARM_DAYS * DAY_MS:
                timed_from, system.timer.seconds = start, {}
            known = min(int(np.searchsorted(times, times[start] - delay_days * DAY_MS)), start)
            if known > learned:
                part = batch.slice(learned, known)
                system.learn(part, features[learned:known], events.is_fraud[learned:known])
                learned = known
            found = system.decide(batch.slice(start, stop))
            if not features.shape[1]:
                features = np.empty((len(batch), found.shape[1]), dtype=np.float32)
            features[start:stop] = found
            report(stop)
    seconds, count = system.timer.seconds, len(batch) - timed_from
    return {
        "events": count,
        "events_per_second": count / sum(seconds.values()),
        "us_per_event": {name: each / count * 1e6 for name, each in seconds.items()},
        "cpu_seconds": sum(seconds.values()) / count * stream.total,
    }


def _first(batches: Iterator[EventBatch]) -> EventBatch:
    taken: list[EventBatch] = []
    for batch in batches:
        taken.append(batch)
        if sum(map(len, taken)) >= EVENTS_MAX:
            break
    return joined(taken)
