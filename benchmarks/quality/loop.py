"""The closed loop: value detected by a model that learns from what its own decisions let it see.

A hundred reviews a day, chargebacks 20 to 90 days late, declines that nobody ever hears of. Both
thresholds are the same for every model, and the one for a review is so low that the budget, and not
the threshold, is what binds: the highest scores of each hour are looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.refitted import FRAUDS_MIN, SCORE_BEFORE, Fitted, lightgbm
from benchmarks.quality.streams import STREAMS
from benchmarks.quality.tables import replayed
from models import MODELS
from models.compiled import Float32s, Floats, Int8s
from models.contract import Arrays, Header, Scored
from models.verbs import ArrayModel
from pipeline.errors import SnapshotError
from pipeline.replay import Replay
from pipeline.settings import Settings
from producers.closed_loop import ClosedLoop, LoopOptions

REVIEW_SCORE_MIN = 0.005
DECLINE_SCORE_MIN = 0.9
REVIEW_BUDGET = 100
DAY_HOURS = 24
WEEK_HOURS = 7 * DAY_HOURS


class Weekly(ArrayModel):
    """LightGBM as a model of the loop: refitted each week on what it was taught in the last days.

    It gives no reasons and keeps no state: it is here to be compared with.
    """

    name: ClassVar[str] = "weekly"
    window_days: ClassVar[int] = 30

    def __init__(self, features: tuple[str, ...] | None = None) -> None:
        super().__init__(features)
        self._parts: list[tuple[int, Float32s, Int8s]] = []
        self._hour = self._due_hour = self._learned = 0
        self._fitted: Fitted | None = None

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._learned

    def scores(self, features: Float32s) -> Floats:
        """Score events, a row each, by the latest fit."""
        if self._fitted is None:
            return np.full(len(features), SCORE_BEFORE)
        return self._fitted(features)

    def score(self, features: Float32s) -> Scored:
        """Score events; what moved each is not said."""
        return Scored(self.scores(features), np.zeros(features.shape), 0.0)

    def tick(self, hour: int) -> None:
        """Fit again when a week has passed."""
        self._hour = max(self._hour, hour)
        self._due_hour = self._due_hour or self._hour + WEEK_HOURS
        if self._hour >= self._due_hour:
            self._due_hour = self._hour + WEEK_HOURS
            self._fit()

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Keep examples for the next fit; give their scores by the latest one."""
        self._parts.append((self._hour, features.copy(), is_fraud.copy()))
        self._learned += len(features)
        return self.scores(features)

    def state(self) -> tuple[Header, Arrays]:
        """Refuse: nobody keeps this model."""
        raise SnapshotError(f"{self.name}: a model that is only compared with is not kept")

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Refuse: nobody keeps this model."""
        raise SnapshotError(f"{cls.name}: a model that is only compared with is not kept")

    def _add_columns(self, count: int) -> None:
        """Have nothing that depends on the number of columns."""

    def _fit(self) -> None:
        since = self._hour - self.window_days * DAY_HOURS
        self._parts = [part for part in self._parts if part[0] >= since]
        if not self._parts:
            return
        is_fraud: NDArray[np.int8] = np.concatenate([part[2] for part in self._parts])
        if is_fraud.sum() >= FRAUDS_MIN:
            self._fitted = lightgbm(np.concatenate([part[1] for part in self._parts]), is_fraud)


class Weekly90(Weekly):
    """The same on what it was taught in the last 90 days."""

    name: ClassVar[str] = "weekly90"
    window_days: ClassVar[int] = 90


RIVALS: dict[str, type[Weekly]] = {"lightgbm-weekly-30d": Weekly, "lightgbm-weekly-90d": Weekly90}


def run_loop(stream_name: str, model: str) -> tuple[Replay, dict[str, Any]]:
    """Run one model in the closed loop; give the replay and what its decisions were worth."""
    stream = STREAMS[stream_name]
    start_ms, end_ms = stream.judged_ms
    world = ClosedLoop(LoopOptions(review_budget=REVIEW_BUDGET, start_ms=start_ms, end_ms=end_ms))
    with _known(model) as name:
        settings = Settings(
            mode="act",
            model=name,
            challengers="none",
            review_score_min=REVIEW_SCORE_MIN,
            decline_score_min=DECLINE_SCORE_MIN,
        )
        run = replayed(stream, settings, 0, labels=world, name="loop")
    return run, asdict(world.report())


@contextmanager
def _known(model: str) -> Iterator[str]:
    """Put a rival into the table of models, where the engine looks, while it runs."""
    if model not in RIVALS:
        yield model
        return
    rival = RIVALS[model]
    MODELS[rival.name] = rival
    try:
        yield rival.name
    finally:
        del MODELS[rival.name]
