"""The latest examples of a stream, in bounded memory, as far back as a number of hours.

Examples are numbered in the order in which they were learned, and an example belongs to the hour
at which it was learned: the labels of a month are the labels that came in that month, however old
the events. Whole days go at once, so a window is known by the number of its oldest example and
can be read again from the log that the examples came from.

Beyond `examples_max` the window is thinned: of the verdict that has more examples, genuine as a
rule, half of them stay, chosen by a coin that is a hash of the example's number, and each that
stays counts twice. What follows is thinned likewise. The size of a batch changes nothing.

>>> window = Window(columns=1, examples_max=100)
>>> rows = np.arange(150, dtype=np.float32)[:, None]
>>> window.add(rows, (rows[:, 0] < 10).astype(np.int8), np.ones(150))
>>> len(window), window.levels
(80, (1, 0))
>>> taken = window.copy()
>>> int(taken.is_fraud.sum()), float(taken.weights.sum())
(10, 150.0)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.compiled import Float32s, Floats, Int8s, kernel
from models.hashing import splitmix64

# Half of the examples at each level: beyond this nothing would be left of any stream.
LEVEL_MAX = 40

FIRST_ROWS = 1024
DAY_HOURS = 24

Levels = tuple[int, int]
"""How often genuine examples and frauds were halved."""


@kernel
def places_kept(
    numbers: NDArray[np.int64], is_fraud: Int8s, genuine: int, fraud: int
) -> NDArray[np.int64]:
    """Give the places of those that the coin keeps at these levels."""
    places = np.empty(len(numbers), np.int64)
    kept = 0
    for place in range(len(numbers)):
        mixed = splitmix64(np.uint64(numbers[place]))
        level = fraud if is_fraud[place] == 1 else genuine
        if mixed >> np.uint64(64 - LEVEL_MAX) < np.uint64(1) << np.uint64(LEVEL_MAX - level):
            places[kept] = place
            kept += 1
    return places[:kept]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples to fit by."""

    rows: Float32s
    is_fraud: Int8s
    weights: Floats


class Window:
    """The latest examples.

    Parameters
    ----------
    columns
        Number of features.
    examples_max
        How many examples are held at most.
    """

    def __init__(self, columns: int, examples_max: int) -> None:
        self._max = examples_max
        self._rows = np.empty((0, columns), dtype=np.float32)
        self._is_fraud = np.empty(0, dtype=np.int8)
        self._weights = np.empty(0)
        self._numbers = np.empty(0, dtype=np.int64)
        self._size = 0
        self.levels: Levels = (0, 0)
        self.next = 0

    def __len__(self) -> int:
        return self._size

    @property
    def counts(self) -> tuple[int, int]:
        """How many genuine examples and how many frauds are held."""
        frauds = int(self._is_fraud[: self._size].sum())
        return self._size - frauds, frauds

    def add(self, rows: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """Take examples; those that weigh nothing are counted, not held."""
        numbers = np.arange(self.next, self.next + len(rows))
        self.next += len(rows)
        done = 0
        while done < len(rows):
            places = done + places_kept(numbers[done:], is_fraud[done:], *self.levels)
            places = places[weights[places] > 0.0]
            room = self._max - self._size
            self._append(places[:room], numbers, rows, is_fraud, weights)
            if len(places) <= room:
                return
            # One that should stay does not fit.
            done = int(places[room])
            self._halve()

    def drop_before(self, number: int) -> None:
        """Let go of the examples before this number."""
        count = int(np.searchsorted(self._numbers[: self._size], number))
        if count:
            self._keep(np.arange(count, self._size))

    def raise_levels(self, levels: Levels) -> None:
        """Thin the window as one of these levels."""
        self.levels = levels
        numbers, is_fraud = self._numbers[: self._size], self._is_fraud[: self._size]
        self._keep(places_kept(numbers, is_fraud, *levels))

    def add_columns(self, count: int) -> None:
        """Make room for that many more features, missing in the examples so far."""
        unseen = np.full((len(self._rows), count), np.nan, dtype=np.float32)
        self._rows = np.hstack([self._rows, unseen])

    def copy(self) -> Examples:
        """Give what is held, each example weighing as much as those it stands for."""
        is_fraud = self._is_fraud[: self._size].copy()
        scales = np.exp2(np.array(self.levels, dtype=np.float64))
        weights = self._weights[: self._size] * scales[is_fraud]
        return Examples(self._rows[: self._size].copy(), is_fraud, weights)

    def _halve(self) -> None:
        while self._size >= self._max:
            genuine, frauds = self.counts
            before = self.levels
            more = (1, 0) if genuine >= frauds else (0, 1)
            levels = (before[0] + more[0], before[1] + more[1])
            assert max(levels) < LEVEL_MAX, "a window of so few examples cannot be thinned"
            self.raise_levels(levels)

    def _append(
        self,
        places: NDArray[np.int64],
        numbers: NDArray[np.int64],
        rows: Float32s,
        is_fraud: Int8s,
        weights: Floats,
    ) -> None:
        stop = self._size + len(places)
        if stop > len(self._rows):
            self._grow(min(self._max, max(stop, 2 * len(self._rows), FIRST_ROWS)))
        part = slice(self._size, stop)
        self._rows[part], self._is_fraud[part] = rows[places], is_fraud[places]
        self._weights[part], self._numbers[part] = weights[places], numbers[places]
        self._size = stop

    def _grow(self, size: int) -> None:
        more = size - len(self._rows)
        self._rows = np.concatenate(
            [self._rows, np.empty((more, self._rows.shape[1]), dtype=np.float32)]
        )
        self._is_fraud = np.concatenate([self._is_fraud, np.zeros(more, dtype=np.int8)])
        self._weights = np.concatenate([self._weights, np.zeros(more)])
        self._numbers = np.concatenate([self._numbers, np.zeros(more, dtype=np.int64)])

    def _keep(self, places: NDArray[np.int64]) -> None:
        count = len(places)
        for column in (self._rows, self._is_fraud, self._weights, self._numbers):
            column[:count] = column[places]
        self._size = count
