"""Gradient-boosted trees that are grown anew in the background, by the latest labels.

The strongest model that teams retrain every night, behind the same contract as those that learn
from each label: examples gather in a window, and at times that the log alone decides a fit of that
window begins. Its trees come into force an hour of event time later; only if they are not grown by
then does the learner wait, and who scores never does. So a version is a function of the log,
whatever the speed of the machine.

The window is not part of the state. A model that is made again is handed the examples from
`window_start` to where it stands (`remember`), and begins a fit that was pending once more.

>>> model = Boosted(features=("hour",))
>>> hours = np.tile(np.array([[2.0], [3.0], [4.0]], dtype=np.float32), (500, 1))
>>> is_fraud = np.tile(np.array([0, 1, 0], dtype=np.int8), 500)
>>> before = model.learn(hours, is_fraud, np.ones(1500))
>>> model.score(hours[:3]).scores.round(2)
array([0., 1., 0.])
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from models import states
from models.compiled import Float32s, Floats, Int8s, kernel
from models.contract import Arrays, Header, Scored, limited
from models.doubling import next_doubling
from models.options import ModelOptions
from models.refit import Growth, Refit
from models.trees import Trees, no_trees, scores_of
from models.verbs import ArrayModel
from models.window import DAY_HOURS, LEVEL_MAX, Levels, Window
from pipeline.errors import SnapshotError

# Trees of fewer say nothing.
FIRST_FRAUDS, FIRST_GENUINE = 30, 30
# A fit begins again when so many times as many frauds are known, however soon that is.
FRAUDS_GROWTH = 2
# How long trees take to come into force: longer than a fit of a full window takes.
EFFECT_HOURS = 1
# Where nobody says the hour, as with River's verbs, fits are due by the number of examples: at
# each doubling, and from some point at a fixed distance.
FIRST_DUE, DUE_DISTANCE_MAX = 64, 1 << 16
# Before the first fit, the share of frauds so far; as many made-up examples hold it to the prior.
PRIOR_STRENGTH = 100.0

WINDOW_DAYS_MAX = 3_660.0
EXAMPLES_MIN, EXAMPLES_MAX = 1_000, 1 << 26

# The constructor's numbers, by their type.
FLOATS = ("refit_days", "refit_window_days", "boosted_rate", "prior")
INTEGERS = ("refit_examples_max", "boosted_trees", "boosted_leaves")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A fit that was begun: at which hour, by the examples before `stop`, thinned how far."""

    hour: int
    stop: int
    levels: Levels


class Boosted(ArrayModel):
    """LightGBM, refitted on the examples of the latest days.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    refit_days
        Event time between two fits. The first begins with 30 frauds, and others come sooner as
        long as the frauds known double in less time than this.
    refit_window_days
        A fit sees what was learned in this much event time.
    refit_examples_max
        Examples in the window, at most; beyond, it is thinned (`window.py`).
    boosted_trees, boosted_leaves, boosted_rate
        Trees of a fit, leaves of a tree at most, how far each tree steps.
    prior
        Share of frauds to assume before anything is learned.

    References
    ----------
    Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NIPS 2017.
    """

    name: ClassVar[str] = "boosted"

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        refit_days: float = 7.0,
        refit_window_days: float = 60.0,
        refit_examples_max: int = 400_000,
        boosted_trees: int = 200,
        boosted_leaves: int = 15,
        boosted_rate: float = 0.05,
        prior: float = 0.01,
    ) -> None:
        _check(refit_days, refit_window_days, refit_examples_max, prior)
        self.refit_days, self.refit_window_days = refit_days, refit_window_days
        self.refit_examples_max, self.prior = refit_examples_max, prior
        self.boosted_trees, self.boosted_leaves = boosted_trees, boosted_leaves
        self.boosted_rate = boosted_rate
        self._growth = Growth(boosted_trees, boosted_leaves, boosted_rate)
        self._trees = no_trees()
        self._window = Window(0, refit_examples_max)
        # The days of the window, and the number of the first example of each.
        self._days: list[tuple[int, int]] = []
        self._learned = self._frauds = 0
        self._hour = -1
        self._fit_hour, self._fit_frauds = -1, 0
        self._pending: _Pending | None = None
        self._refit: Refit | None = None
        self._levels_restored: Levels = (0, 0)
        super().__init__(features)

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        return cls(
            features,
            refit_days=options.refit_days,
            refit_window_days=options.refit_window_days,
            refit_examples_max=options.refit_examples_max,
            boosted_trees=options.boosted_trees,
            boosted_leaves=options.boosted_leaves,
            boosted_rate=options.boosted_rate,
        )

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._learned

    @property
    def knows_something(self) -> bool:
        """Whether there are trees yet."""
        return len(self._trees) > 0

    @property
    def window_start(self) -> int:
        """The number of the first example that must be remembered when the model is made again."""
        return self._days[0][1] if self._days else 0

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each.

        A contribution is how far the splits by a feature moved the log-odds on the way from the
        roots to the leaves.
        """
        rows = self._checked(features)
        bias = self._trees.bias if self.knows_something else self._share_logit
        return limited(self._scores(rows), self._trees.explained(rows), bias)

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        return self._scores(self._checked(features))

    def _scores(self, rows: Float32s) -> Floats:
        # Walked without trees as well, so that the first score compiles what the later ones need.
        logits = self._trees.logits(rows)
        return scores_of(logits if self.knows_something else logits + self._share_logit)

    @property
    def _share_logit(self) -> float:
        return share_logit(self._frauds, self._learned, self.prior)

    def tick(self, hour: int) -> None:
        """Let trees come into force, let days go and begin a fit, if this hour is the time for it.

        Waits for the trees that are due, if they are not grown yet.
        """
        if hour <= self._hour:
            return
        self._hour = hour
        if self._pending is not None and hour >= self._pending.hour + EFFECT_HOURS:
            self._take_effect()
        self._begin_day(hour // DAY_HOURS)
        if self._pending is None:
            self._end_days(hour - self.refit_window_days * DAY_HOURS)
            if self._is_due(hour):
                self._begin_fit()

    def _begin_day(self, day: int) -> None:
        if len(self._days) > 1 and self._days[-1][1] == self._learned:
            # Nothing was learned on the day that was begun last.
            self._days.pop()
        if not self._days or day > self._days[-1][0]:
            # What was learned before anybody said the hour belongs to the first day.
            self._days.append((day, self._learned if self._days else 0))

    def _end_days(self, hour: float) -> None:
        """Let go of the days that ended before this hour."""
        while len(self._days) > 1 and self._days[1][0] * DAY_HOURS <= hour:
            self._days.pop(0)
        self._window.drop_before(self.window_start)

    def _is_due(self, hour: int) -> bool:
        since = hour - self._fit_hour
        return self._has_enough and (
            self._fit_hour < 0
            or since >= self.refit_days * DAY_HOURS
            or self._frauds >= FRAUDS_GROWTH * self._fit_frauds
        )

    @property
    def _has_enough(self) -> bool:
        genuine, frauds = self._window.counts
        return genuine >= FIRST_GENUINE and frauds >= FIRST_FRAUDS

    def _begin_fit(self) -> None:
        self._pending = _Pending(self._hour, self._learned, self._window.levels)
        self._fit_hour, self._fit_frauds = self._hour, self._frauds
        self._refit = Refit(self._window.copy(), self._growth)

    def _take_effect(self) -> None:
        """Wait for the trees that are pending, and score by them."""
        if self._refit is not None:
            self._trees = self._refit.trees()
        self._pending = self._refit = None

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        self._go_on()
        scores = np.empty(len(rows))
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self._room())
            part = slice(start, stop)
            scores[part] = self._learn_part(rows[part], is_fraud[part], weights[part])
            if self._hour < 0 and self._learned == next_due(self._learned - 1) and self._has_enough:
                self._begin_fit()
                self._take_effect()
            start = stop
        return scores

    def _room(self) -> int:
        """Say how many examples can be learned at once."""
        if self._hour < 0:
            return next_due(self._learned) - self._learned
        return 1 << 20

    def _learn_part(self, rows: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        if self.knows_something:
            scores = self._scores(rows)
        else:
            scores = scores_of(share_logits(is_fraud, self._frauds, self._learned, self.prior))
        self._window.add(rows, is_fraud, weights)
        self._learned += len(rows)
        self._frauds += int(is_fraud.sum())
        return scores

    def remember(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """Take up again, in order, the examples from `window_start` to where the model stands."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        assert self._window.next + len(rows) <= self._learned, "these were not learned before"
        before, pending = 0, self._pending
        if pending is not None and self._refit is None:
            before = min(len(rows), pending.stop - self._window.next)
            self._window.add(rows[:before], is_fraud[:before], weights[:before])
            if self._window.next == pending.stop:
                self._refit = Refit(self._window.copy(), self._growth)
                self._window.raise_levels(self._levels)
        self._window.add(rows[before:], is_fraud[before:], weights[before:])

    def _go_on(self) -> None:
        """Go on behind what was learned, though not all of the window was remembered."""
        if self._window.next < self._learned:
            self._window.next = self._learned
            self._window.raise_levels(self._levels)

    def _add_columns(self, count: int) -> None:
        """Make room for that many more features, which were missing in all that was learned."""
        self._window.add_columns(count)

    @property
    def _levels(self) -> Levels:
        """How far the window is thinned where the model stands."""
        first, second = self._window.levels, self._levels_restored
        return max(first[0], second[0]), max(first[1], second[1])

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""
        header: Header = {name: getattr(self, name) for name in (*FLOATS, *INTEGERS)}
        header |= {"names": list(self._names), "open": self.features is None}
        header |= {"learned": self._learned, "frauds": self._frauds}
        header |= {"hours": self._hour + 1, "fit_hours": self._fit_hour + 1}
        header |= {"fit_frauds": self._fit_frauds}
        pending = self._pending
        fits = [] if pending is None else [(pending.hour, pending.stop, *pending.levels)]
        arrays: Arrays = {
            "days": np.array(self._days, dtype=np.int64).reshape(-1, 2),
            "levels": np.array(self._levels, dtype=np.int64),
            "pending": np.array(fits, dtype=np.int64).reshape(-1, 4),
        }
        return header, arrays | self._trees.arrays()

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; handed the examples of its window, it goes on bit for bit."""
        numbers: dict[str, Any] = {name: states.number(header, name) for name in FLOATS}
        numbers |= {name: states.integer(header, name) for name in INTEGERS}
        try:
            model = cls(states.names(header, "names"), **numbers)
        except ValueError as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        model._learned = states.integer(header, "learned")
        model._frauds = states.integer(header, "frauds")
        model._hour = states.integer(header, "hours") - 1
        model._fit_hour = states.integer(header, "fit_hours") - 1
        model._fit_frauds = states.integer(header, "fit_frauds")
        model._trees = Trees.restored(arrays, len(model._names))
        model._restore_window(arrays)
        return model

    def _restore_window(self, arrays: Arrays) -> None:
        days = _whole(arrays, "days", 2)
        ascends = (np.diff(days, axis=0) > 0).all() and (days[:1, 1] >= 0).all()
        if not (ascends and (days[:, 1] <= self._learned).all()):
            raise SnapshotError("state: days must ascend to what was learned")
        fits = _whole(arrays, "pending", 4)
        levels = states.array(arrays, "levels", np.int64, (2,))
        for found in (*fits[:, 2:], levels):
            if not ((found >= 0) & (found < LEVEL_MAX)).all():
                raise SnapshotError(f"state: levels must be 0 to {LEVEL_MAX - 1}")
        self._days = [(int(day), int(number)) for day, number in days]
        self._window.next = self.window_start
        genuine, fraud = levels.tolist()
        self._window.levels = self._levels_restored = (genuine, fraud)
        for hour, stop, *before in fits.tolist():
            if not self.window_start <= stop <= self._learned or hour > self._hour:
                raise SnapshotError("state: pending must be a fit of what was learned")
            self._pending = _Pending(hour, stop, (before[0], before[1]))
            self._window.levels = self._pending.levels


def next_due(learned: int) -> int:
    """Say after how many examples a fit is due, where nobody says the hour.

    >>> [next_due(learned) for learned in (0, 63, 64, 40_000, 100_000, 140_000)]
    [64, 64, 128, 65536, 131072, 196608]
    """
    return next_doubling(learned, first=FIRST_DUE, distance_max=DUE_DISTANCE_MAX)


@kernel
def share_logit(frauds: int, learned: int, prior: float) -> float:
    """Give the log-odds of the share of frauds so far, which made-up examples hold to the prior."""
    share = (frauds + prior * PRIOR_STRENGTH) / (learned + PRIOR_STRENGTH)
    return math.log(share / (1.0 - share))


@kernel
def share_logits(is_fraud: Int8s, frauds: int, learned: int, prior: float) -> Floats:
    """Give the log-odds of the share of frauds before each of some examples."""
    logits = np.empty(len(is_fraud))
    for row in range(len(is_fraud)):
        logits[row] = share_logit(frauds, learned + row, prior)
        frauds += is_fraud[row]
    return logits


def _whole(arrays: Arrays, name: str, columns: int) -> NDArray[np.int64]:
    rows = arrays[name].shape[0] if name in arrays and arrays[name].ndim > 0 else 0
    return states.array(arrays, name, np.int64, (rows, columns))


def _check(days: float, window_days: float, examples_max: int, prior: float) -> None:
    whole = EXAMPLES_MIN <= examples_max <= EXAMPLES_MAX
    if not (1.0 <= days <= window_days <= WINDOW_DAYS_MAX and whole and 0.0 < prior < 1.0):
        raise ValueError(
            f"refit_days must be at least 1, refit_window_days not less and at most "
            f"{WINDOW_DAYS_MAX:.0f}, refit_examples_max {EXAMPLES_MIN} to {EXAMPLES_MAX}, prior "
            f"between 0 and 1 (got {days}, {window_days}, {examples_max}, {prior})"
        )
