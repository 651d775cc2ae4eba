"""River's verbs for every model, by way of the model's own two.

A model that scores and learns arrays is also a River classifier: one dict of features or a frame
at a time. Made without feature names, it takes names from the dicts and frames it learns.

>>> from models import Additive
>>> model = Additive()
>>> model.learn_one({"hour": 3.0, "amount": 900.0}, True)
>>> model.feature_names
('amount', 'hour')
>>> model.predict_proba_one({"amount": 900.0, "unknown": 1.0})
{False: 0.98331, True: 0.01669}
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from river import base

from models.compiled import Float32s, Floats, Int8s
from models.contract import Arrays, Header, Scored
from models.options import ModelOptions

if TYPE_CHECKING:
    import pandas as pd

# Beyond this a mistake is likelier than a model: each feature costs some 5 kB.
FEATURES_MAX = 1024

# The square of a gradient is summed: far larger weights would make it infinite.
WEIGHT_MAX = 1e6


class ArrayModel(base.MiniBatchClassifier):
    """A model over arrays, with River's verbs on top.

    Parameters
    ----------
    features
        Names of the columns, in order. None: they are learned from the dicts and frames that
        are learned; those that come together are taken in alphabetical order.
    """

    name: ClassVar[str]

    def __init__(self, features: tuple[str, ...] | None = None) -> None:
        self.features = features
        self._names: list[str] = []
        self._extend(features or ())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self._names)

    @property
    @abstractmethod
    def learned(self) -> int:
        """How many examples were learned."""

    @abstractmethod
    def score(self, features: Float32s) -> Scored:
        """Score events, a row each."""

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        return self.score(features).scores

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the members of a mixture; others have none."""
        return ()

    def member_scores(self, features: Float32s) -> Mapping[str, Floats]:
        """Give the scores of the members that know something, by name."""
        return {}

    def learn_decided(
        self,
        features: Float32s,
        is_fraud: Int8s,
        weights: Floats,
        said: Mapping[str, Floats],
    ) -> Floats:
        """Learn events that were decided before; `said` is what members said then, by name."""
        return self.learn(features, is_fraud, weights)

    @property
    def knows_something(self) -> bool:
        """Whether scores are more than the share of frauds so far."""
        return self.learned > 0

    @property
    def window_start(self) -> int:
        """The number of the first example that must be remembered when the model is made again."""
        return self.learned

    def remember(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """Take up again, in order, the examples from `window_start` to where the model stands."""

    def tick(self, hour: int) -> None:
        """Hear that the event time of what is learned reached this hour of the epoch."""

    def weights(self, limit: int) -> list[tuple[str, float]]:
        """Give at most so many of the strongest weights by name; a model may have none to show."""
        return []

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        return cls(features)

    @abstractmethod
    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""

    @abstractmethod
    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""

    @classmethod
    @abstractmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""

    @abstractmethod
    def _add_columns(self, count: int) -> None:
        """Make room for that many more features."""

    def predict_proba_one(self, x: dict[Any, Any], **_kwargs: Any) -> dict[Any, float]:
        """Score one event given by feature name; names that are missing count as NaN."""
        score = float(self.scores(self._row(x))[0])
        return {False: 1.0 - score, True: score}

    def learn_one(self, x: dict[Any, Any], y: base.typing.ClfTarget, w: float = 1.0) -> None:
        """Learn one event given by feature name."""
        self._meet(list(x))
        self.learn(self._row(x), np.array([bool(y)], dtype=np.int8), np.array([w]))

    def predict_proba_many(self, X: "pd.DataFrame") -> "pd.DataFrame":
        """Score a frame, a row an event: columns `False` and `True`."""
        # Whoever has a frame has paid for pandas already.
        import pandas as pd  # noqa: PLC0415

        scores = self.scores(self._rows(X))
        return pd.DataFrame({False: 1.0 - scores, True: scores}, index=X.index)

    def learn_many(self, X: "pd.DataFrame", y: "pd.Series[Any]") -> None:
        """Learn a frame as `learn_one` in a loop would, bit for bit."""
        if X.empty:
            return
        self._meet(list(X.columns))
        self.learn(self._rows(X), y.to_numpy().astype(np.int8), np.ones(len(X)))

    def _meet(self, names: list[str]) -> None:
        if self.features is None:
            self._extend(tuple(sorted(set(names).difference(self._names), key=str)))

    def _extend(self, names: tuple[str, ...]) -> None:
        together = [*self._names, *names]
        if len(together) > FEATURES_MAX:
            raise ValueError(f"at most {FEATURES_MAX} features (got {len(together)})")
        if len(set(together)) < len(together):
            raise ValueError(f"feature names must differ (got {together})")
        self._names = together
        if names:
            self._add_columns(len(names))

    def _row(self, x: dict[Any, Any]) -> Float32s:
        values = [x.get(name, np.nan) for name in self._names]
        return to_float32(np.array([values], dtype=np.float64))

    def _rows(self, frame: "pd.DataFrame") -> Float32s:
        values = np.full((len(frame), len(self._names)), np.nan)
        for column, name in enumerate(self._names):
            if name in frame:
                values[:, column] = frame[name].to_numpy(dtype=np.float64)
        return to_float32(values)

    def _checked(self, features: Float32s) -> Float32s:
        """Give the rows as the kernels want them, or say what is wrong with their shape."""
        if features.ndim != 2 or features.shape[1] != len(self._names):  # noqa: PLR2004
            raise ValueError(
                f"{self.name}: features must be rows of {len(self._names)} (got {features.shape})"
            )
        return to_float32(features)

    def _checked_labels(self, rows: int, is_fraud: Int8s, weights: Floats) -> None:
        if is_fraud.shape != (rows,) or weights.shape != (rows,):
            raise ValueError(
                f"{self.name}: {rows} rows need as many labels and weights "
                f"(got {is_fraud.shape} and {weights.shape})"
            )
        if not np.isin(is_fraud, (0, 1)).all():
            raise ValueError(f"{self.name}: a label must be 0 or 1")
        if not ((weights >= 0.0) & (weights <= WEIGHT_MAX)).all():
            raise ValueError(f"{self.name}: a weight must be from 0 to {WEIGHT_MAX:.0f}")


def to_float32(values: "np.ndarray[Any, np.dtype[Any]]") -> Float32s:
    """Round to what a decision stores; a number too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)
