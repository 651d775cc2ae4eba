"""A bounded sample of a stream, the same on every run.

Reservoir sampling with a hash of the example's number for the coin. Up to `span` examples, each
has the same chance to be in the sample; from then on older ones fade, so that the sample follows
a stream that changes.

>>> sample = Sample(columns=1, size=2, span=100)
>>> rows = np.arange(50, dtype=np.float32)[:, None]
>>> sample.add(rows, np.zeros(50, dtype=np.int8), np.ones(50))
>>> sample.seen, sample.rows[:, 0]
(50, array([ 2., 36.], dtype=float32))
"""

import numpy as np
from numpy.typing import NDArray

from models import states
from models.compiled import Float32s, Floats, Int8s, kernel
from models.contract import Arrays
from models.hashing import splitmix64


@kernel
def places_of(first: int, count: int, size: int, span: int) -> NDArray[np.int64]:
    """Say where examples numbered from `first` go; `size` or more: nowhere."""
    places = np.empty(count, np.int64)
    for example in range(count):
        number = first + example
        if number < size:
            places[example] = number
        else:
            mixed = splitmix64(np.uint64(number))
            places[example] = np.int64(mixed % np.uint64(min(number + 1, span)))
    return places


class Sample:
    """Some of the examples of a stream; all of them, in order, as long as they fit.

    Parameters
    ----------
    columns
        Number of features.
    size
        How many examples are kept.
    span
        About how many of the latest examples the sample stands for.
    """

    def __init__(self, columns: int, size: int, span: int) -> None:
        self._size, self._span = size, span
        self.seen = 0
        self._rows = np.full((size, columns), np.nan, dtype=np.float32)
        self._is_fraud = np.zeros(size, dtype=np.int8)
        self._weights = np.zeros(size)

    @property
    def is_all(self) -> bool:
        """Whether every example seen is still here, in order."""
        return self.seen <= self._size

    @property
    def rows(self) -> Float32s:
        """Features of the examples kept."""
        return self._rows[: self.seen]

    @property
    def labels(self) -> tuple[Int8s, Floats]:
        """Label and weight of the examples kept."""
        return self._is_fraud[: self.seen], self._weights[: self.seen]

    def add(self, rows: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """See examples, and keep some."""
        places = places_of(self.seen, len(rows), self._size, self._span)
        for row in np.flatnonzero(places < self._size):
            self._rows[places[row]] = rows[row]
            self._is_fraud[places[row]] = is_fraud[row]
            self._weights[places[row]] = weights[row]
        self.seen += len(rows)

    def add_columns(self, count: int) -> None:
        """Make room for that many more features, missing in the examples so far."""
        unseen = np.full((self._size, count), np.nan, dtype=np.float32)
        self._rows = np.hstack([self._rows, unseen])

    def arrays(self, prefix: str) -> Arrays:
        """Give copies of what is kept, under names that begin with `prefix`."""
        is_fraud, weights = self.labels
        return {
            f"{prefix}_rows": self.rows.copy(),
            f"{prefix}_is_fraud": is_fraud.copy(),
            f"{prefix}_weights": weights.copy(),
        }

    def restore(self, arrays: Arrays, prefix: str, seen: int) -> None:
        """Take back what `arrays` gave, after so many examples seen."""
        self.seen, kept = seen, min(seen, self._size)
        shape = (kept, self._rows.shape[1])
        self._rows[:kept] = states.array(arrays, f"{prefix}_rows", np.float32, shape)
        self._is_fraud[:kept] = states.array(arrays, f"{prefix}_is_fraud", np.int8, (kept,))
        self._weights[:kept] = states.array(arrays, f"{prefix}_weights", np.float64, (kept,))
