"""The overfitting gauge: does a model know what it learned better than what it had not seen?

Every so often the model scores again the latest examples that it learned (train loss); what it said
of the very same examples when they were decided, before it had their labels, is the prequential
loss. A gap that grows while the prequential loss does not fall is learning by heart. Some gap is
right: a model that could not say better of what it learned would have learned nothing.

>>> gauge = OverfittingGauge(limit=100)
>>> gauge.readings
()
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.durations import DAY_MS
from pipeline.evaluation import log_losses
from pipeline.examples import Examples
from pipeline.replay import Learned

Floats = NDArray[np.float64]

# Some 150 frauds among them at the Handbook's rate; 4 MB of features.
EXAMPLES_MAX = 20_000
READ_EVERY_MS = 7 * DAY_MS


@dataclass(frozen=True, slots=True)
class GaugeReading:
    """Losses on the latest examples, before and after a model learned them; in nats.

    Parameters
    ----------
    event_time_ms
        How far in event time the model had learned.
    train_log_loss
        Of the model as it is now; `prequential_log_loss` is of the scores that were decided on.
    """

    model: str
    event_time_ms: int
    examples: int
    frauds: int
    train_log_loss: float
    prequential_log_loss: float

    @property
    def gap(self) -> float:
        """How much less the model is surprised by what it learned."""
        return self.prequential_log_loss - self.train_log_loss


class OverfittingGauge:
    """Keeps the latest examples that were learned, and reads the gauge every seven days of them.

    Parameters
    ----------
    limit
        Examples that are kept; the oldest go.
    """

    def __init__(self, limit: int = EXAMPLES_MAX) -> None:
        assert limit > 0, limit
        self._limit = limit
        self._kept: deque[tuple[Examples, dict[str, Floats]]] = deque()
        self._count = 0
        self._read_ms: int | None = None
        self._readings: list[GaugeReading] = []
        self._models: tuple[Model, ...] = ()
        self._known_ms = 0

    def add(self, found: Learned) -> None:
        """Take examples that were just learned."""
        self._models = found.models
        self._kept.append((found.examples, found.scores))
        self._count += len(found.examples)
        while self._count - len(self._kept[0][0]) >= self._limit:
            self._count -= len(self._kept.popleft()[0])
        self._known_ms = max(self._known_ms, int(found.examples.event_time_ms.max()))
        if self._read_ms is None:
            self._read_ms = self._known_ms
        if self._known_ms >= self._read_ms + READ_EVERY_MS:
            self.read()

    @property
    def readings(self) -> tuple[GaugeReading, ...]:
        """All that was read, in the order of time, the champion first."""
        return tuple(self._readings)

    @property
    def recent_features(self) -> NDArray[np.float32]:
        """The features of the latest examples, a row each."""
        kept = [examples.features for examples, _ in self._kept]
        return np.concatenate(kept) if kept else np.zeros((0, 0), np.float32)

    def read(self) -> None:
        """Read the gauge now, once for each moment."""
        if not self._kept or (self._readings and self._read_ms == self._known_ms):
            return
        self._read_ms = self._known_ms
        features = self.recent_features
        is_fraud = np.concatenate([examples.is_fraud for examples, _ in self._kept]) == 1
        for name, model in zip(self._kept[0][1], self._models, strict=True):
            said = np.concatenate([scores[name] for _, scores in self._kept])
            self._readings.append(
                GaugeReading(
                    model=name,
                    event_time_ms=self._known_ms,
                    examples=len(is_fraud),
                    frauds=int(is_fraud.sum()),
                    train_log_loss=float(log_losses(model.scores(features), is_fraud).mean()),
                    prequential_log_loss=float(log_losses(said, is_fraud).mean()),
                )
            )
