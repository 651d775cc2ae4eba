"""What every model can do, so that champion, challenger and expert are the same kind of thing.

A model has two verbs over arrays, `score` and `learn`, and River's verbs over one event or a
frame. The size of a batch never changes a bit of a result: a decision can be computed again
alone, years later, and a replay may cut the stream where it likes.

>>> from models import make_model
>>> model: Model = make_model("additive", ("amount", "hour"))
>>> events = np.array([[9.5, 3.0], [80.0, 12.0]], dtype=np.float32)
>>> scored = model.score(events)
>>> scored.scores
array([0.01, 0.01])
>>> before = model.learn(events, np.array([1, 0], dtype=np.int8), np.ones(2))
>>> model.learned, model.feature_names
(2, ('amount', 'hour'))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.compiled import Float32s, Floats, Int8s, kernel

if TYPE_CHECKING:
    import pandas as pd

# Scores stay 3e-7 away from 0 and 1. Log loss stays finite, and log-odds can be read back from a
# score to 1e-9: nearer to 1, a float64 no longer holds them.
LOGIT_MAX = 15.0

Arrays = dict[str, NDArray[np.generic]]
"""A model's arrays by name: float64 for what was learned, always finite; float32 for feature
values as they came, which may be NaN."""

Header = dict[str, object]
"""The rest of a model's state, as JSON holds it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a batch, and why.

    Parameters
    ----------
    scores
        Estimated probability of fraud of each event, 0 to 1.
    contributions
        How far each feature moved each event's log-odds from `bias`, the log-odds of the
        usual event; a row an event.
    bias
        `contributions[i].sum() + bias` are the log-odds of `scores[i]`.
    members
        What the members of a mixture say, by name; of those that know nothing there is nothing.
    """

    scores: Floats
    contributions: Floats
    bias: float
    members: Mapping[str, Floats] = field(default_factory=dict)


class Model(Protocol):
    """What gives scores and learns.

    Missing values are NaN. Features are rounded to float32 first, since that is how a decision
    stores them. Scoring changes nothing; one thread learns, and none scores meanwhile.
    """

    @property
    def name(self) -> str:
        """The model's name in the table `MODELS`."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""

    @property
    def learned(self) -> int:
        """How many examples were learned."""

    @property
    def knows_something(self) -> bool:
        """Whether scores are more than the share of frauds so far."""

    @property
    def window_start(self) -> int:
        """The number of the first example that must be remembered when the model is made again.

        Examples are numbered in the order in which they were learned; `learned` where none is
        needed, since the state holds all that the model is.
        """

    def remember(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """Take up again, in order, the examples from `window_start` to where the model stands."""

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each."""

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""

    def member_scores(self, features: Float32s) -> Mapping[str, Floats]:
        """Give what `Scored.members` gives, alone."""

    def tick(self, hour: int) -> None:
        """Hear that the event time of what is learned reached this hour of the epoch.

        Hours rise; one that is not later than the last changes nothing.
        """

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""

    def weights(self, limit: int) -> list[tuple[str, float]]:
        """Give at most so many of the strongest weights by name, for people; the first strongest.

        A model that has none to show gives nothing.
        """

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the members of a mixture; others have none."""

    def learn_decided(
        self,
        features: Float32s,
        is_fraud: Int8s,
        weights: Floats,
        said: Mapping[str, Floats],
    ) -> Floats:
        """Learn events that were decided before.

        `said` is what members said then, by name; NaN where one was not asked.
        """

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
        """Score one event given by feature name; names that are missing count as NaN."""

    def learn_one(self, x: dict[str, float], y: bool, w: float = 1.0) -> None:
        """Learn one event given by feature name."""

    def predict_proba_many(self, X: "pd.DataFrame") -> "pd.DataFrame":
        """Score a frame, a row an event: columns `False` and `True`."""

    def learn_many(self, X: "pd.DataFrame", y: "pd.Series[Any]") -> None:
        """Learn a frame as `learn_one` in a loop would, bit for bit."""

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""


@kernel
def score_of(logit: float) -> float:
    """Give the score whose log-odds are `logit`, which is first held within LOGIT_MAX.

    >>> score_of(0.0), score_of(-1e9) == score_of(-LOGIT_MAX)
    (0.5, True)
    """
    return 1.0 / (1.0 + math.exp(-min(LOGIT_MAX, max(-LOGIT_MAX, logit))))


@kernel
def _shrink(contributions: Floats, bias: float, limited_bias: float) -> None:
    for row in range(len(contributions)):
        total = 0.0
        for contribution in contributions[row]:
            total += contribution
        logit = min(LOGIT_MAX, max(-LOGIT_MAX, total + bias))
        if total != 0.0 and (logit != total + bias or bias != limited_bias):
            contributions[row] *= (logit - limited_bias) / total


def limited(scores: Floats, contributions: Floats, bias: float) -> Scored:
    """Shrink contributions that lead beyond LOGIT_MAX, so that they add up to the score's log-odds.

    Signs and order within an event are kept. The contributions are changed in place.

    >>> far = limited(np.array([score_of(99.0)]), np.array([[100.0, -2.0]]), bias=1.0)
    >>> far.contributions
    array([[14.285714, -0.285714]])
    >>> float(far.contributions.sum()) + far.bias
    15.0
    """
    limited_bias = min(LOGIT_MAX, max(-LOGIT_MAX, bias))
    _shrink(contributions, bias, limited_bias)
    return Scored(scores, contributions, limited_bias)
