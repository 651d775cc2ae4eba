"""Running standard values: how far a feature is from what is usual for it, whatever its unit.

Networks, distances and half-spaces need features of one size. Mean and spread are learned online
and robustly: a value counts no further than some spreads from the mean, so that one monstrous
amount does not make all others equal; and not for ever, so that they follow a stream that changes.

>>> scaler = Scaler(2)
>>> rows = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, np.nan]], dtype=np.float32)
>>> scaler.learn(np.tile(rows, (100, 1)))
>>> scaler.scale(rows).round(2)
array([[-1.22,   nan],
       [ 0.  ,  0.  ],
       [ 1.22,   nan]])
>>> scaler.missing_shares.round(2)
array([0.  , 0.67])
"""

import math
from typing import Any

import numpy as np

from models import states
from models.compiled import Float32s, Floats, kernel
from models.contract import Arrays

# What is kept of a feature: how many values were there and how many were missing, their mean,
# and the mean of their squared distance from it.
COUNT, MISSING, MEAN, VARIANCE, SCALING_SIZE = range(5)

# A value counts no further than this from the mean, once there were enough to know the spread. A
# feature that is 0 but for one event in a thousand is still learned whole: such events are some 30
# spreads away, and what comes closer than they do must not shrink the spread to nothing.
LEARNED_SPREADS_MAX = 30.0
SETTLED_COUNT = 100
# About the last so many examples make mean and spread.
SPAN = 100_000.0
# What a standard value is held within: beyond it a value is just far away. Measured on the first
# weeks of the Handbook stream: 6 and 30 are both worse (docs/decisions/0014).
SCALED_MAX = 10.0
# Values beyond are held here, so that squares of them stay finite.
VALUE_MAX = 1e30


@kernel
def learn_scaling(row: Float32s, scaling: Floats) -> None:
    """Learn the values of one event."""
    for column in range(len(row)):
        value = float(row[column])
        if np.isnan(value):
            scaling[column, MISSING] += 1.0
            continue
        value = min(VALUE_MAX, max(-VALUE_MAX, value))
        scaling[column, COUNT] += 1.0
        count = scaling[column, COUNT]
        distance = value - scaling[column, MEAN]
        if count > SETTLED_COUNT:
            limit = LEARNED_SPREADS_MAX * math.sqrt(scaling[column, VARIANCE])
            # A feature that was constant so far has no spread to be held within.
            if limit > 0.0:
                distance = min(limit, max(-limit, distance))
        share = 1.0 / min(count, SPAN)
        scaling[column, MEAN] += share * distance
        moved = (1.0 - share) * distance * distance
        scaling[column, VARIANCE] = (1.0 - share) * scaling[column, VARIANCE] + share * moved


@kernel
def scaled_of(value: float, cells: Floats) -> float:
    """Give a value's standard value, within SCALED_MAX; one that is missing stays NaN."""
    if np.isnan(value) or cells[VARIANCE] <= 0.0:
        return np.nan if np.isnan(value) else 0.0
    held = min(VALUE_MAX, max(-VALUE_MAX, value))
    scaled: float = (held - cells[MEAN]) / math.sqrt(cells[VARIANCE])
    return min(SCALED_MAX, max(-SCALED_MAX, scaled))


@kernel
def missing_share(cells: Floats) -> float:
    """Give the share of examples that lacked a feature."""
    seen = cells[COUNT] + cells[MISSING]
    share: float = cells[MISSING] / seen if seen > 0.0 else 0.0
    return share


@kernel
def _learn_rows(rows: Float32s, scaling: Floats) -> None:
    for row in range(len(rows)):
        learn_scaling(rows[row], scaling)


@kernel
def _scale_rows(rows: Float32s, scaling: Floats) -> Floats:
    scaled = np.empty(rows.shape)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            scaled[row, column] = scaled_of(np.float64(rows[row, column]), scaling[column])
    return scaled


class Scaler:
    """Running means and spreads of features; `cells` are one row a feature, for kernels.

    Parameters
    ----------
    columns
        Number of features.
    """

    def __init__(self, columns: int) -> None:
        self.cells: Floats = np.zeros((columns, SCALING_SIZE))

    def learn(self, rows: Float32s) -> None:
        """Learn the values of events."""
        _learn_rows(rows, self.cells)

    def scale(self, rows: Float32s) -> Floats:
        """Give standard values, within SCALED_MAX; those that are missing are NaN."""
        return _scale_rows(rows, self.cells)

    @property
    def missing_shares(self) -> Floats:
        """The share of examples that lacked each feature."""
        return np.array([missing_share(cells) for cells in self.cells])

    def add_columns(self, count: int) -> None:
        """Make room for that many more features."""
        self.cells = np.vstack([self.cells, np.zeros((count, SCALING_SIZE))])

    def restore(self, arrays: Arrays, name: str) -> None:
        """Take `cells` back from a state."""
        found: Any = states.array(arrays, name, np.float64, self.cells.shape)
        states.check_not_negative(found[:, (COUNT, MISSING, VARIANCE)], name)
        self.cells = found
