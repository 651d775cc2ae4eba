"""River's own scaler and logistic regression: the plain baseline that any other model must beat.

Nothing is learned here that River does not learn; this module gives it the contract of a model:
rows instead of dicts, contributions, and a state that holds no pickle. Scores alone are worked out
of River's own numbers, in its order and bit for bit, since it takes 25 us for each event. So River,
which takes seconds to load, is loaded where something is learned, and by no worker.

>>> from river import datasets, evaluate, metrics
>>> evaluate.progressive_val_score(datasets.Phishing(), Logistic(), metrics.ROCAUC())
ROCAUC: 95.07%
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from river.__version__ import __version__ as river_version

from models import states
from models.compiled import Float32s, Floats, Int8s, kernel
from models.contract import Arrays, Header, Scored, limited, score_of
from models.verbs import ArrayModel
from pipeline.errors import SnapshotError

# No honest value is a million standard deviations from its mean; beyond it a sum could overflow.
# What is learned needs no limit: within n examples none is further than sqrt(n).
SCALED_MAX = 1e6

# Steps beyond 1 do not settle, even on scaled features.
RATE_MAX = 1.0

Row = dict[str, float]


class Logistic(ArrayModel):
    """River's `StandardScaler() | LogisticRegression()`.

    A value that is missing (NaN) or infinite is left out of its event: the scaler does not learn
    it and it contributes 0, as the mean of its feature would.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    rate
        Step of the stochastic gradient descent.

    References
    ----------
    Robbins and Monro, A Stochastic Approximation Method, Annals of Mathematical Statistics, 1951.

    Examples
    --------
    >>> model = Logistic(features=("amount",))
    >>> amounts = np.tile(np.array([[10.0], [20.0]], dtype=np.float32), (500, 1))
    >>> before = model.learn(amounts, np.tile(np.array([0, 1], dtype=np.int8), 500), np.ones(1000))
    >>> model.score(amounts[:2]).scores
    array([0.102, 0.898])
    >>> model.score(np.array([[np.nan]], dtype=np.float32)).contributions
    array([[0.]])
    """

    name: ClassVar[str] = "logistic"

    def __init__(self, features: tuple[str, ...] | None = None, rate: float = 0.01) -> None:
        if not 0.0 < rate <= RATE_MAX:
            raise ValueError(f"rate must be above 0 and at most {RATE_MAX} (got {rate})")
        self.rate = rate
        self._learned, self._iterations = 0, 0
        self._arrays = _nothing_learned(0)
        # River's objects, once there is something to learn; then they may be ahead of the arrays.
        self._scaler: Any = None
        self._regression: Any = None
        self._is_ahead = False
        super().__init__(features)

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._learned

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each."""
        rows = self._checked(features)
        self._take_back(self._names)
        arrays, intercept = self._arrays, float(self._arrays["intercept"][0])
        # As River takes the root of a variance: another root may differ in its last bit.
        spreads = np.array([value**0.5 for value in arrays["variances"].tolist()], np.float64)
        scores, contributions = score_rows(
            rows, arrays["means"], spreads, arrays["weights"], intercept
        )
        return limited(scores, contributions, intercept)

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        self._hand_over()
        self._is_ahead = True
        scores = np.empty(len(rows))
        for number, present in enumerate(self._present(rows)):
            scores[number] = self._score(self._scaled(present))
            self._scaler.learn_one(present)
            scaled = self._scaler.transform_one(present)
            weight = float(weights[number])
            self._regression.learn_one(scaled, bool(is_fraud[number]), w=weight)
        self._learned += len(rows)
        return scores

    def weights(self, limit: int) -> list[tuple[str, float]]:
        """Give the strongest weights; each is for a feature scaled to a spread of 1."""
        self._take_back(self._names)
        found = dict(zip(self._names, self._arrays["weights"].tolist(), strict=True))
        return sorted(found.items(), key=lambda item: (-abs(item[1]), item[0]))[:limit]

    def _present(self, rows: Float32s) -> Iterator[Row]:
        """Give each row as River wants it, without the values that are missing or infinite."""
        for row, is_finite in zip(rows.tolist(), np.isfinite(rows), strict=True):
            present = dict(zip(self._names, row, strict=True))
            for column in np.flatnonzero(~is_finite):
                del present[self._names[column]]
            yield present

    def _scaled(self, present: Row) -> Row:
        scaled: Row = self._scaler.transform_one(present)
        if max(map(abs, scaled.values()), default=0.0) <= SCALED_MAX:
            return scaled
        return {name: min(SCALED_MAX, max(-SCALED_MAX, value)) for name, value in scaled.items()}

    def _score(self, scaled: Row) -> float:
        # River's own sum, so that this is the score that its learning starts from. River's
        # predict_proba_one gives exactly 0 or 1 beyond log-odds of 30, and log loss would be
        # infinite.
        return score_of(float(self._regression._raw_dot_one(scaled)))

    def _add_columns(self, count: int) -> None:
        self._take_back(self._names[:-count])
        self._scaler = self._regression = None
        for name, values in _nothing_learned(count).items():
            if name != "intercept":
                self._arrays[name] = np.concatenate([self._arrays[name], values])

    def _hand_over(self) -> None:
        """Let River have what was learned, and learn on."""
        if self._scaler is not None:
            return
        # They bring SciPy and scikit-learn: seconds that whoever only scores can do without.
        from river import linear_model, optim, preprocessing, utils  # noqa: PLC0415

        found = {name: values.tolist() for name, values in self._arrays.items()}

        def by_name(array: str) -> Row:
            return dict(zip(self._names, found[array], strict=True))

        self._scaler = preprocessing.StandardScaler()
        self._scaler.counts.update(by_name("counts"))
        self._scaler.means.update(by_name("means"))
        self._scaler.vars.update(by_name("variances"))
        optimizer = optim.SGD(self.rate)
        optimizer.n_iterations = self._iterations
        self._regression = linear_model.LogisticRegression(optimizer=optimizer)
        self._regression.intercept = found["intercept"][0]
        # All names from the start, in the order of the columns: River sums in this order, and a
        # restored model must sum as the first did.
        self._regression._weights = utils.VectorDict(by_name("weights"))

    def _take_back(self, names: Sequence[str]) -> None:
        """Take what River has learned of these names, bit for bit."""
        if not self._is_ahead:
            return
        scaler, regression = self._scaler, self._regression
        weights = regression.weights
        self._iterations = regression.optimizer.n_iterations
        self._arrays = {
            "counts": np.array([scaler.counts[name] for name in names], dtype=np.int64),
            "means": np.array([scaler.means.get(name, 0.0) for name in names], np.float64),
            "variances": np.array([scaler.vars.get(name, 0.0) for name in names], np.float64),
            "weights": np.array([weights[name] for name in names], dtype=np.float64),
            "intercept": np.array([regression.intercept], dtype=np.float64),
        }
        self._is_ahead = False

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""
        self._take_back(self._names)
        header: Header = {"names": list(self._names), "open": self.features is None}
        header |= {"rate": self.rate, "learned": self._learned, "river": river_version}
        header["iterations"] = self._iterations
        return header, {name: values.copy() for name, values in self._arrays.items()}

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""
        if (version := states.text(header, "river")) != river_version:
            raise SnapshotError(f"state: River must be {river_version} (got {version})")
        try:
            model = cls(states.names(header, "names"), states.number(header, "rate"))
        except ValueError as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        model._learned = states.integer(header, "learned")
        model._iterations = states.integer(header, "iterations")
        model._arrays = found = {
            name: states.array(arrays, name, empty.dtype.type, empty.shape)
            for name, empty in _nothing_learned(len(model._names)).items()
        }
        if (found["counts"] < 0).any() or (found["variances"] < 0.0).any():
            raise SnapshotError("state: counts and variances must be at least 0")
        return model


def _nothing_learned(columns: int) -> dict[str, NDArray[Any]]:
    return {
        "counts": np.zeros(columns, dtype=np.int64),
        "means": np.zeros(columns),
        "variances": np.zeros(columns),
        "weights": np.zeros(columns),
        "intercept": np.zeros(1),
    }


@kernel
def score_rows(
    rows: Float32s, means: Floats, spreads: Floats, weights: Floats, intercept: float
) -> tuple[Floats, Floats]:
    """Give scores and contributions, bit for bit as River gives those of each event."""
    scores = np.empty(len(rows))
    contributions = np.empty(rows.shape)
    for row in range(len(rows)):
        logit = 0.0
        for column in range(rows.shape[1]):
            value = float(rows[row, column])
            scaled = 0.0
            if spreads[column] > 0.0 and np.isfinite(value):
                scaled = (value - means[column]) / spreads[column]
                scaled = min(SCALED_MAX, max(-SCALED_MAX, scaled))
            contributions[row, column] = weights[column] * scaled
            logit += contributions[row, column]
        scores[row] = score_of(logit + intercept)
    return scores, contributions
