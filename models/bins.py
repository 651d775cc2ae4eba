"""Where a number is cut into bins, learned from a sample of the stream.

One weight for each bin lets an additive model follow any curve, and a bin of its own for what is
missing needs no guess of a value. Values that are common (a flag, a count, zero) get a bin each;
the rest is cut at quantiles that lie closer together in the tails, where fraud is.

>>> edges = edges_of(np.array([0, 0, 1, 2, 2, 2], dtype=np.float32))
>>> edges[:3]
array([0.5, 1.5, inf], dtype=float32)
>>> encode(np.array([[-3.0], [0.5], [np.nan]], dtype=np.float32), edges[None, :])
array([[ 1],
       [ 2],
       [25]], dtype=int32)
"""

import numpy as np
from numpy.typing import NDArray

from models.compiled import Float32s, Floats, Int32s, kernel

VALUE_BINS = 24
EDGES = VALUE_BINS - 1
MISSING_BIN = VALUE_BINS
BINS = VALUE_BINS + 1

# A value with a twentieth of the sample or more is a case of its own, for instance "no fraud seen
# yet". At most five of them, so that at least 13 edges are left for the rest.
COMMON_SHARE_MIN = 0.05
COMMON_MAX = 5

# Quantiles evenly spaced in log-odds, out to 0.5 % and 99.5 %.
TAIL_LOGIT = 5.3

FLOAT32_MAX = float(np.finfo(np.float32).max)

# An old bin that no value of the sample falls into is still carried over, by its lower edge. The
# share is small so that it decides only where nothing else does.
EDGE_SHARE = 1e-3


@kernel
def encode(features: Float32s, edges: Float32s) -> Int32s:
    """Give the coordinate of each value's bin: 1 + column x BINS + bin. Coordinate 0 is the bias.

    An edge belongs to the bin above it. Unused edges are infinite; infinite values are held
    within float32.
    """
    rows, columns = features.shape
    coordinates = np.empty((rows, columns), np.int32)
    for row in range(rows):
        for column in range(columns):
            value = features[row, column]
            place = 0
            if np.isnan(value):
                place = MISSING_BIN
            else:
                value = min(value, np.float32(FLOAT32_MAX))
                for edge in range(EDGES):
                    place += edges[column, edge] <= value
            coordinates[row, column] = 1 + column * BINS + place
    return coordinates


def no_edges(columns: int) -> Float32s:
    """Give the edges of features of which nothing is known: one bin each."""
    return np.full((columns, EDGES), np.inf, dtype=np.float32)


def edges_of(values: Float32s) -> Float32s:
    """Give the edges for a sample of one feature; unused ones are infinite."""
    held = np.clip(values[~np.isnan(values)], -FLOAT32_MAX, FLOAT32_MAX)
    distinct, counts = np.unique(held, return_counts=True)
    edges = np.full(EDGES, np.inf, dtype=np.float32)
    starts = _starts(counts)
    edges[: len(starts)] = _between(distinct[starts - 1], distinct[starts])
    return edges


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give which of the distinct values begin a bin; the first value needs no edge."""
    if len(counts) <= VALUE_BINS:
        return np.arange(1, max(1, len(counts)))
    common = np.argsort(-counts, kind="stable")[:COMMON_MAX]
    common = common[counts[common] >= COMMON_SHARE_MIN * counts.sum()]
    alone = np.union1d(common, common + 1)
    starts = np.union1d(alone, _quantile_starts(counts, common, EDGES - len(alone)))
    return starts[(starts > 0) & (starts < len(counts))]


def _quantile_starts(
    counts: NDArray[np.int64], common: NDArray[np.int64], wanted: int
) -> NDArray[np.int64]:
    rest = counts.copy()
    rest[common] = 0
    total = rest.sum()
    shares = 1.0 / (1.0 + np.exp(-np.linspace(-TAIL_LOGIT, TAIL_LOGIT, wanted)))
    ranks = (shares * total).astype(np.int64)
    starts: NDArray[np.int64] = np.searchsorted(np.cumsum(rest), ranks, side="right")
    return starts


def _between(lower: Float32s, upper: Float32s) -> Float32s:
    """Give the middle; `upper` itself where float32 has nothing between the two."""
    middle = (lower.astype(np.float64) / 2 + upper.astype(np.float64) / 2).astype(np.float32)
    return np.where(middle > lower, middle, upper).astype(np.float32)


@kernel
def shares_of(old_bins: Int32s, new_bins: Int32s, edge_bins: Int32s) -> Floats:
    """Give the share of each old bin of one feature (a row) that falls into each new one.

    `old_bins` and `new_bins` say where each value of a sample falls, `edge_bins` into which new
    bin the lower edge of each old one falls.
    """
    shares = np.zeros((BINS, BINS))
    for value in range(len(old_bins)):
        shares[old_bins[value], new_bins[value]] += 1.0
    for old in range(BINS):
        shares[old, edge_bins[old]] += EDGE_SHARE
        total = 0.0
        for new in range(BINS):
            total += shares[old, new]
        for new in range(BINS):
            shares[old, new] /= total
    return shares


def carried_shares(sample: Float32s, old_edges: Float32s, new_edges: Float32s) -> Floats:
    """Give `shares_of` one feature's sample, when its edges are replaced."""
    values = np.ascontiguousarray(sample[:, None])
    with np.errstate(over="ignore"):
        below = np.nextafter(old_edges[0], np.float32(-np.inf))
    lowest = np.concatenate([[below], old_edges, [np.float32(np.nan)]]).astype(np.float32)
    return shares_of(
        encode(values, old_edges[None, :])[:, 0] - 1,
        encode(values, new_edges[None, :])[:, 0] - 1,
        encode(lowest[:, None], new_edges[None, :])[:, 0] - 1,
    )
