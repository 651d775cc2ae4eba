"""Where a number is cut into bins, learned from a sample of the stream.

One weight for each bin lets an additive model follow any curve, and a bin of its own for what is
missing needs no guess of a value. Values that are common (a flag, a count, zero) get a bin each;
the rest is cut at quantiles that lie closer together in the tails, and where the share of frauds
changes most.

>>> values = np.array([0, 0, 1, 2, 2, 2], dtype=np.float32)
>>> edges = edges_of(values, np.zeros(6, dtype=np.int8))
>>> edges[:3]
array([0.5, 1.5, inf], dtype=float32)
>>> encode(np.array([[-3.0], [0.5], [np.nan]], dtype=np.float32), edges[None, :])
array([[ 1],
       [ 2],
       [25]], dtype=int32)
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.compiled import Float32s, Floats, Int8s, Int32s, kernel

VALUE_BINS = 24
EDGES = VALUE_BINS - 1
MISSING_BIN = VALUE_BINS
BINS = VALUE_BINS + 1

# A value with a twentieth of the sample or more is a case of its own, for instance "no fraud seen
# yet". At most five of them, so that at least 13 edges are left for the rest.
COMMON_SHARE_MIN = 0.05
COMMON_MAX = 5

# So many of the edges are cut where the share of frauds changes most; each must tell more than the
# noise of a split that tells nothing.
SPLITS = 10
SPLIT_GAIN_MIN = 1.0

# Quantiles evenly spaced in log-odds, out to 0.5 % and 99.5 %.
TAIL_LOGIT = 5.3

FLOAT32_MAX = float(np.finfo(np.float32).max)

# An old bin that no value of the sample falls into is still carried over, by its lower edge. The
# share is small so that it decides only where nothing else does.
EDGE_SHARE = 1e-3


@kernel
def bin_of(value: np.float32, edges: Float32s, column: int) -> int:
    """Give the bin of a column's value: how many of its edges, which ascend, are not above it."""
    held = min(value, np.float32(FLOAT32_MAX))
    # Of 23 edges 11 are left after the first question, then 5, then 2; and there is no branch that
    # a processor could guess wrong.
    place = 12 if edges[column, 11] <= held else 0
    place += 6 if edges[column, place + 5] <= held else 0
    place += 3 if edges[column, place + 2] <= held else 0
    last = place
    place += 1 if edges[column, last] <= held else 0
    place += 1 if edges[column, last + 1] <= held else 0
    return MISSING_BIN if np.isnan(value) else place


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
            place = bin_of(features[row, column], edges, column)
            coordinates[row, column] = 1 + column * BINS + place
    return coordinates


def no_edges(columns: int) -> Float32s:
    """Give the edges of features of which nothing is known: one bin each."""
    return np.full((columns, EDGES), np.inf, dtype=np.float32)


def edges_of(
    values: Float32s, is_fraud: Int8s, *, bins: int = VALUE_BINS, splits: int = SPLITS
) -> Float32s:
    """Give the edges of one feature for so many bins, by a sample; unused ones are infinite.

    The splits are chosen as those of a decision tree, each the best of all (Fayyad and Irani,
    Multi-Interval Discretization of Continuous-Valued Attributes, IJCAI 1993).
    """
    present = ~np.isnan(values)
    held = np.clip(values[present], -FLOAT32_MAX, FLOAT32_MAX)
    distinct, places, counts = np.unique(held, return_inverse=True, return_counts=True)
    told = is_fraud[present].astype(np.float64)
    frauds = np.bincount(places, weights=told, minlength=len(counts)).astype(np.float64)
    edges = np.full(bins - 1, np.inf, dtype=np.float32)
    if len(counts) <= bins:
        starts = np.arange(1, max(1, len(counts)))
    else:
        starts = _starts(counts, bins - 1 - splits)
        starts = with_splits(counts, frauds, starts, bins - 1)
    edges[: len(starts)] = _between(distinct[starts - 1], distinct[starts])
    return edges


def _starts(counts: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Give which of the distinct values begin a bin; the first value needs no edge."""
    common = np.argsort(-counts, kind="stable")[: min(COMMON_MAX, wanted // 2)]
    common = common[counts[common] >= COMMON_SHARE_MIN * counts.sum()]
    alone = np.union1d(common, common + 1)
    starts = np.union1d(alone, _quantile_starts(counts, common, max(0, wanted - len(alone))))
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


@kernel
def with_splits(
    counts: NDArray[np.int64], frauds: Floats, starts: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """Add splits to the starts of bins, the one that tells most about fraud first.

    `counts` and `frauds` are those of each distinct value, in ascending order of the values.
    """
    begins = np.zeros(len(counts) + 1, np.bool_)
    begins[0] = begins[len(counts)] = True
    for start in starts:
        begins[start] = True
    for _ in range(limit - len(starts)):
        best, gain = best_split(counts, frauds, begins)
        if gain <= SPLIT_GAIN_MIN:
            break
        begins[best] = True
    begins[0] = begins[len(counts)] = False
    return np.flatnonzero(begins)


@kernel
def best_split(
    counts: NDArray[np.int64], frauds: Floats, begins: NDArray[np.bool_]
) -> tuple[int, float]:
    """Give the split of a bin that gains most log-likelihood, and how much; 0 if there is none."""
    best, most = 0, 0.0
    first = 0
    while first < len(counts):
        end = first + 1
        while not begins[end]:
            end += 1
        total, bad = counts[first:end].sum(), frauds[first:end].sum()
        whole = log_likelihood(bad, total)
        below, bad_below = 0.0, 0.0
        for place in range(first, end - 1):
            below += counts[place]
            bad_below += frauds[place]
            gain = log_likelihood(bad_below, below) - whole
            gain += log_likelihood(bad - bad_below, total - below)
            if gain > most:
                best, most = place + 1, gain
        first = end
    return best, most


@kernel
def log_likelihood(frauds: float, count: float) -> float:
    """Give the log-likelihood of so many frauds under their own share, slightly smoothed."""
    share = (frauds + 0.5) / (count + 1.0)
    return frauds * math.log(share) + (count - frauds) * math.log(1.0 - share)


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


def bin_text(edges: Float32s, place: int) -> str:
    """Say where a bin of a column lies; the bin after the last edge's is for what is missing.

    >>> column = np.array([0.5, 1.5, np.inf], dtype=np.float32)
    >>> bin_text(column, 0), bin_text(column, 1), bin_text(column, 2), bin_text(column, 4)
    ('below 0.5', '0.5 to 1.5', 'from 1.5', 'missing')
    """
    if place > len(edges):
        return "missing"
    high = float(edges[place]) if place < len(edges) else np.inf
    if place == 0:
        return f"below {high:.4g}" if np.isfinite(high) else "any"
    low = float(edges[place - 1])
    return f"{low:.4g} to {high:.4g}" if np.isfinite(high) else f"from {low:.4g}"
