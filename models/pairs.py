"""Pairs of features that say together what neither says alone, found from the stream.

Every pair of the strongest features is a candidate. While the model learns, the gradients of its
errors are summed up over a coarse grid of each candidate, in two halves of the stream. A pair whose
grid, fitted on one half, explains errors of the other half beyond what its two features explain one
by one becomes a part of the model. No candidate is tried any longer once there are enough pairs.

References
----------
Lou et al., Accurate Intelligible Models with Pairwise Interactions, KDD 2013 (GA2M and FAST).

>>> from models.bins import no_edges
>>> pairs = Pairs(columns=2)
>>> pairs.count, pairs.coordinates(np.zeros((3, 2), dtype=np.float32), no_edges(2)).shape
(0, (3, 2))
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import states
from models.bins import BINS, bin_of, bin_text, edges_of
from models.compiled import Float32s, Floats, Int8s, Int32s, kernel
from models.contract import Arrays
from pipeline.errors import SnapshotError

# A feature of a pair has six levels and one for what is missing.
VALUE_LEVELS = 6
LEVELS = VALUE_LEVELS + 1
PAIR_CELLS = LEVELS * LEVELS
LEVEL_EDGES = VALUE_LEVELS - 1
LEVEL_SPLITS = 3

PAIRS_MAX = 24
# All pairs of so many features are candidates.
STRONGEST = 24
# At one time so many pairs may be added, of different features; a feature is in three at most.
ADDED_MAX = 4
PAIRS_OF_FEATURE_MAX = 3
# In nats, over both halves. A pair of noise gains less than nothing where it was not fitted.
GAIN_MIN = 6.0
# Pull of a grid's cells towards 0, in sums of squared gradients.
SHRINKAGE = 5.0
# One in so many genuine examples is looked at, and counts for all of them; every fraud is.
GENUINE_STEP = 4
GRADIENT, CURVATURE = 0, 1


@kernel
def level_of(value: np.float32, edges: Float32s, column: int) -> int:
    """Give the level of a column's value; the last is for what is missing."""
    level = 0
    for edge in range(LEVEL_EDGES):
        level += 1 if edges[column, edge] <= value else 0
    return LEVELS - 1 if np.isnan(value) else level


@kernel
def levels_of(features: Float32s, edges: Float32s) -> Int32s:
    """Give the level of each value."""
    levels = np.empty(features.shape, np.int32)
    for row in range(features.shape[0]):
        for column in range(features.shape[1]):
            levels[row, column] = level_of(features[row, column], edges, column)
    return levels


@kernel
def coordinates_of(
    features: Float32s, edges: Float32s, level_edges: Float32s, pairs: Int32s
) -> Int32s:
    """Give the coordinates of each row: the bin of each feature, then the cell of each pair."""
    rows, columns = features.shape
    first = 1 + columns * BINS
    coordinates = np.empty((rows, columns + len(pairs)), np.int32)
    for row in range(rows):
        for column in range(columns):
            place = bin_of(features[row, column], edges, column)
            coordinates[row, column] = 1 + column * BINS + place
        for pair in range(len(pairs)):
            one, other = pairs[pair, 0], pairs[pair, 1]
            cell = level_of(features[row, one], level_edges, one) * LEVELS
            cell += level_of(features[row, other], level_edges, other)
            coordinates[row, columns + pair] = first + pair * PAIR_CELLS + cell
    return coordinates


@kernel
def add_gradients(
    number: int,
    levels: Int32s,
    candidates: Int32s,
    is_fraud: Int8s,
    weights: Floats,
    scores: Floats,
    sums: Float32s,
) -> None:
    """Sum up gradients and their squares over the grids; examples are numbered from `number`."""
    for row in range(len(levels)):
        mixed = np.uint64(number + row) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        weight = weights[row]
        if is_fraud[row] == 0:
            if mixed % np.uint64(2 * GENUINE_STEP) >= np.uint64(2):
                continue
            weight *= GENUINE_STEP
        half = np.int64(mixed % np.uint64(2))
        error = scores[row] - is_fraud[row]
        # A model that is too sure has a curvature near 0, but the square of its error is not.
        curvature = weight * max(error * error, scores[row] * (1.0 - scores[row]))
        for place in range(len(candidates)):
            one, other = levels[row, candidates[place, 0]], levels[row, candidates[place, 1]]
            cell = sums[half, place, one * LEVELS + other]
            cell[GRADIENT] += np.float32(weight * error)
            cell[CURVATURE] += np.float32(curvature)


def interaction_gain(fitted: Floats, judged: Floats) -> float:
    """Give what a grid fitted on one half explains of the other, beyond its rows and columns.

    Both are sums of gradients and of curvatures, of shape (LEVELS, LEVELS, 2). In nats, by the
    second-order expansion of the log loss.
    """
    gradient, left = fitted[..., GRADIENT].copy(), judged[..., GRADIENT].copy()
    curvature = fitted[..., CURVATURE]
    for axis in (0, 1, 0, 1):
        steps = -gradient.sum(axis, keepdims=True)
        steps /= curvature.sum(axis, keepdims=True) + SHRINKAGE
        gradient += curvature * steps
        left += judged[..., CURVATURE] * steps
    steps = -gradient / (curvature + SHRINKAGE)
    return float(-(steps * left).sum() - 0.5 * (steps * steps * judged[..., CURVATURE]).sum())


class Pairs:
    """The pairs of a model, and the search for them."""

    def __init__(self, columns: int) -> None:
        self.pairs: Int32s = np.zeros((0, 2), dtype=np.int32)
        self._edges = np.full((columns, LEVEL_EDGES), np.inf, dtype=np.float32)
        self._candidates: Int32s = np.zeros((0, 2), dtype=np.int32)
        self._sums: Float32s = np.zeros((2, 0, PAIR_CELLS, 2), dtype=np.float32)

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    def coordinates(self, rows: Float32s, edges: Float32s) -> Int32s:
        """Give each row's coordinates: in the bins of each feature, then in each pair's grid."""
        return coordinates_of(rows, edges, self._edges, self.pairs)

    def observe(
        self, number: int, rows: Float32s, is_fraud: Int8s, weights: Floats, scores: Floats
    ) -> None:
        """See examples, numbered from `number`, and the scores from before they were learned."""
        if len(self._candidates):
            levels = levels_of(rows, self._edges)
            add_gradients(number, levels, self._candidates, is_fraud, weights, scores, self._sums)

    def choose(self, strengths: Floats, rows: Float32s, is_fraud: Int8s) -> int:
        """Add the pairs that have shown a gain, and look for others; give how many were added.

        `strengths` says how much each feature moves the model, the rows are a sample to cut by.
        """
        added = self._best() if self.count < PAIRS_MAX else []
        self.pairs = np.vstack([self.pairs, self._candidates[added]])
        if self.count == PAIRS_MAX:
            self._look_for(np.zeros((0, 2), dtype=np.int32))
            return len(added)
        for column in np.setdiff1d(np.arange(len(self._edges)), self.pairs):
            self._edges[column] = edges_of(
                rows[:, column], is_fraud, bins=VALUE_LEVELS, splits=LEVEL_SPLITS
            )
        strongest = np.sort(np.argsort(-strengths, kind="stable")[:STRONGEST])
        one, other = np.triu_indices(len(strongest), k=1)
        self._look_for(np.stack([strongest[one], strongest[other]], axis=1).astype(np.int32))
        return len(added)

    def cell_text(self, pair: int, cell: int, names: Sequence[str]) -> str:
        """Say which cell of which pair it is."""
        sides = zip(self.pairs[pair].tolist(), divmod(cell, LEVELS), strict=True)
        return ", ".join(
            f"{names[column]} {bin_text(self._edges[column], level)}" for column, level in sides
        )

    def _look_for(self, candidates: Int32s) -> None:
        self._candidates = candidates
        self._sums = np.zeros((2, len(candidates), PAIR_CELLS, 2), dtype=np.float32)

    def _best(self) -> list[int]:
        halves = self._sums.astype(np.float64).reshape(2, -1, LEVELS, LEVELS, 2)
        gains = [
            interaction_gain(one, other) + interaction_gain(other, one)
            for one, other in zip(*halves, strict=True)
        ]
        uses = np.bincount(self.pairs.ravel(), minlength=len(self._edges))
        known = set(map(tuple, self.pairs.tolist()))
        best: list[int] = []
        for place in sorted(range(len(gains)), key=lambda place: (-gains[place], place)):
            one, other = self._candidates[place].tolist()
            if gains[place] < GAIN_MIN or len(best) == min(ADDED_MAX, PAIRS_MAX - self.count):
                break
            if (one, other) not in known and max(uses[one], uses[other]) < PAIRS_OF_FEATURE_MAX:
                best.append(place)
                # Only one new pair of a feature at a time: the next may say the same again.
                uses[[one, other]] = PAIRS_OF_FEATURE_MAX
        return best

    def add_columns(self, count: int) -> None:
        """Make room for that many more features."""
        unknown = np.full((count, LEVEL_EDGES), np.inf, dtype=np.float32)
        self._edges = np.vstack([self._edges, unknown])

    def arrays(self) -> Arrays:
        """Give copies of all that is known of pairs."""
        return {
            "pairs": self.pairs.copy(),
            "pair_edges": self._edges.copy(),
            "pair_candidates": self._candidates.copy(),
            "pair_sums": self._sums.reshape(-1).copy(),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take back what `arrays` gave."""
        columns = len(self._edges)
        self._edges = states.array(arrays, "pair_edges", np.float32, (columns, LEVEL_EDGES))
        if not (self._edges[:, 1:] >= self._edges[:, :-1]).all():
            raise SnapshotError("state: edges of pairs must ascend")
        self.pairs = _pairs(arrays, "pairs", columns, PAIRS_MAX)
        most = STRONGEST * (STRONGEST - 1) // 2
        self._candidates = _pairs(arrays, "pair_candidates", columns, most)
        shape = (2, len(self._candidates), PAIR_CELLS, 2)
        sums: NDArray[np.float32] = states.array(
            arrays, "pair_sums", np.float32, (int(np.prod(shape)),)
        )
        if not np.isfinite(sums).all():
            raise SnapshotError("state: sums of pairs must be finite numbers")
        self._sums = sums.reshape(shape)


def _pairs(arrays: Arrays, name: str, columns: int, most: int) -> Int32s:
    count = min(len(arrays.get(name, ())), most)
    found: Int32s = states.array(arrays, name, np.int32, (count, 2))
    if ((found < 0) | (found >= columns)).any() or (found[:, 0] >= found[:, 1]).any():
        raise SnapshotError(f"state: {name} must be pairs of columns in ascending order")
    return found
