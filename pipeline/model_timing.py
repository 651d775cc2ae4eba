"""What each model of a run costs, measured where it is called: models side by side share one pass.

The clock is only read: nothing that is decided or learned depends on it. Processor time is that of
the whole process while the model was called, so threads of the model count; those that work on
after the call, and other processes, do not.

>>> import numpy as np
>>> from models import make_model
>>> timed = TimedModel(make_model("additive", ("amount",)))
>>> before = timed.learn(np.zeros((1, 1), np.float32), np.zeros(1, np.int8), np.ones(1))
>>> timed.learned, timed.seconds > 0.0
(1, True)
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from models.compiled import Float32s, Floats, Int8s
from models.contract import Model, Scored

T = TypeVar("T")


class TimedModel:
    """A model with a clock on its verbs; everything else is the model's own."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each."""
        return self._timed(lambda: self.model.score(features))

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone."""
        return self._timed(lambda: self.model.scores(features))

    def tick(self, hour: int) -> None:
        """Hear that the event time of what is learned reached this hour of the epoch."""
        self._timed(lambda: self.model.tick(hour))

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event."""
        return self._timed(lambda: self.model.learn(features, is_fraud, weights))

    def learn_decided(
        self, features: Float32s, is_fraud: Int8s, weights: Floats, said: Mapping[str, Floats]
    ) -> Floats:
        """Learn events that were decided before."""
        return self._timed(lambda: self.model.learn_decided(features, is_fraud, weights, said))

    def member_scores(self, features: Float32s) -> Mapping[str, Floats]:
        """Give what the members of a mixture say."""
        return self._timed(lambda: self.model.member_scores(features))

    def _timed(self, call: Callable[[], T]) -> T:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            return call()
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - processor
