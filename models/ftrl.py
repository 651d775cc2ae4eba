"""FTRL-proximal over coordinates: the arithmetic of the additive model.

An event is a list of coordinates, each of which has a weight; what stands behind one (a bin of a
feature, or of two) is known elsewhere. Everything is done in the order written, event by event.

References
----------
McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013.

>>> from models.losses import LOG_LOSS
>>> cells = np.zeros((3, CELL_SIZE))
>>> rates = np.array([0.5, 1.0, 0.0, 1.0, -4.6])
>>> seen = np.array([[1], [2], [1]], dtype=np.int32)
>>> is_fraud, weights = np.array([1, 0, 1], dtype=np.int8), np.ones(3)
>>> learn_rows(seen, is_fraud, weights, np.zeros(3), cells, rates, LOG_LOSS.values).round(3)
array([0.01 , 0.012, 0.015])
>>> cells[:, COUNT]
array([3., 1., 2.])
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.compiled import Floats, Int8s, Int32s, kernel
from models.contract import score_of
from models.losses import corrected, gradient

# What is kept of a coordinate, a row of `cells`: the two sums of FTRL-proximal, the weight that
# follows from them, and how many examples had this coordinate.
Z, SQUARES, WEIGHT, COUNT, CELL_SIZE = range(5)
BIAS = 0

# Places of the constructor's numbers in the array that the kernels read.
ALPHA, BETA, L1, L2, PRIOR_LOGIT = range(5)


@kernel
def weight_of(z: float, squares: float, rates: Floats) -> float:
    """Give a coordinate's weight (McMahan et al., algorithm 1)."""
    if abs(z) <= rates[L1]:
        return 0.0
    rate: float = (rates[BETA] + math.sqrt(squares)) / rates[ALPHA] + rates[L2]
    return -(z - math.copysign(rates[L1], z)) / rate


@kernel
def logit_of(coordinates: Int32s, cells: Floats, rates: Floats) -> float:
    """Give the log-odds of one event, summed in the order of its coordinates."""
    logit: float = rates[PRIOR_LOGIT] + cells[BIAS, WEIGHT]
    for coordinate in coordinates:
        logit += cells[coordinate, WEIGHT]
    return logit


@kernel
def update(coordinate: int, gradient: float, cells: Floats, rates: Floats) -> None:
    """Move one coordinate by FTRL-proximal; its step shrinks as its own gradients add up."""
    squares = cells[coordinate, SQUARES] + gradient * gradient
    sigma = (math.sqrt(squares) - math.sqrt(cells[coordinate, SQUARES])) / rates[ALPHA]
    cells[coordinate, Z] += gradient - sigma * cells[coordinate, WEIGHT]
    cells[coordinate, SQUARES] = squares
    cells[coordinate, WEIGHT] = weight_of(cells[coordinate, Z], squares, rates)
    cells[coordinate, COUNT] += 1.0


@kernel
def learn_rows(
    coordinates: Int32s,
    is_fraud: Int8s,
    weights: Floats,
    shifts: Floats,
    cells: Floats,
    rates: Floats,
    loss: Floats,
) -> Floats:
    """Score, then learn, row by row; give the scores. What `shifts` are says `losses.py`."""
    rows = len(coordinates)
    scores = np.empty(rows)
    for row in range(rows):
        logit = logit_of(coordinates[row], cells, rates)
        scores[row] = score_of(corrected(logit, shifts[row], loss))
        slope = weights[row] * gradient(logit, is_fraud[row], shifts[row], loss)
        update(BIAS, slope, cells, rates)
        for coordinate in coordinates[row]:
            update(coordinate, slope, cells, rates)
    return scores


@kernel
def score_rows(
    coordinates: Int32s,
    pairs: Int32s,
    centres: Floats,
    shifts: Floats,
    cells: Floats,
    rates: Floats,
    loss: Floats,
) -> tuple[Floats, Floats]:
    """Give the scores, and each column's contribution less what is usual for the column.

    The last coordinates of a row are those of `pairs`; a pair counts half towards each of its two
    columns.
    """
    rows, columns = len(coordinates), coordinates.shape[1] - len(pairs)
    scores = np.empty(rows)
    contributions = np.empty((rows, columns))
    for row in range(rows):
        logit = logit_of(coordinates[row], cells, rates)
        scores[row] = score_of(corrected(logit, shifts[row], loss))
        for column in range(columns):
            weight = cells[coordinates[row, column], WEIGHT]
            contributions[row, column] = weight - centres[column]
        for pair in range(len(pairs)):
            place = columns + pair
            half = (cells[coordinates[row, place], WEIGHT] - centres[place]) / 2.0
            contributions[row, pairs[pair, 0]] += half
            contributions[row, pairs[pair, 1]] += half
    return scores, contributions


@kernel
def scores_of(
    coordinates: Int32s, shifts: Floats, cells: Floats, rates: Floats, loss: Floats
) -> Floats:
    """Give the scores alone."""
    scores = np.empty(len(coordinates))
    for row in range(len(coordinates)):
        logit = logit_of(coordinates[row], cells, rates)
        scores[row] = score_of(corrected(logit, shifts[row], loss))
    return scores


@kernel
def centres_of(widths: NDArray[np.int64], cells: Floats) -> Floats:
    """Give the mean weight over the examples learned, of columns with so many cells each."""
    centres = np.zeros(len(widths))
    coordinate = BIAS + 1
    for column in range(len(widths)):
        total = 0.0
        count = 0.0
        for _ in range(widths[column]):
            total += cells[coordinate, COUNT] * cells[coordinate, WEIGHT]
            count += cells[coordinate, COUNT]
            coordinate += 1
        if count > 0.0:
            centres[column] = total / count
    return centres


@kernel
def gains_of(columns: int, bins: int, cells: Floats) -> Floats:
    """Give how far each of the first columns moves the log-odds of events.

    It is the variance of a column's weights, less what their uncertainty makes of it.
    """
    gains = np.zeros(columns)
    for column in range(columns):
        own = cells[1 + column * bins : 1 + (column + 1) * bins]
        count = max(own[:, COUNT].sum(), 1.0)
        centre = (own[:, COUNT] * own[:, WEIGHT]).sum() / count
        for cell in own:
            away = (cell[WEIGHT] - centre) ** 2 - 1.0 / (cell[SQUARES] + 1.0)
            gains[column] += cell[COUNT] / count * max(0.0, away)
    return gains


@kernel
def forget(share: float, cells: Floats, rates: Floats) -> None:
    """Keep so much of what was summed up, and every weight: steps grow, so that all may change."""
    for cell in cells:
        cell[SQUARES] *= share
        cell[COUNT] *= share
        if cell[WEIGHT] != 0.0:
            cell[Z] = z_of(cell[WEIGHT], cell[SQUARES], rates)


@kernel
def z_of(weight: float, squares: float, rates: Floats) -> float:
    """Give the sum that a weight other than 0 follows from."""
    rate: float = (rates[BETA] + math.sqrt(squares)) / rates[ALPHA] + rates[L2]
    return -weight * rate - math.copysign(rates[L1], weight)


@kernel
def carry(old: Floats, shares: Floats, rates: Floats) -> Floats:
    """Give one feature's cells for new bins, `shares[i, j]` of old bin i being in new bin j.

    Counts and sums of squares are divided up; a weight becomes the mean over the examples, and
    Z is set so that it gives this weight.
    """
    bins = len(old)
    cells = np.zeros(old.shape)
    for new in range(bins):
        total = 0.0
        for before in range(bins):
            cells[new, SQUARES] += old[before, SQUARES] * shares[before, new]
            cells[new, COUNT] += old[before, COUNT] * shares[before, new]
            total += old[before, COUNT] * shares[before, new] * old[before, WEIGHT]
        if cells[new, COUNT] > 0.0 and total != 0.0:
            weight = total / cells[new, COUNT]
            cells[new, Z] = z_of(weight, cells[new, SQUARES], rates)
            cells[new, WEIGHT] = weight_of(cells[new, Z], cells[new, SQUARES], rates)
    return cells
