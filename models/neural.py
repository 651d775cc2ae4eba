"""A small neural network that learns online, event by event.

One hidden layer sees what a sum over single features cannot: combinations. Beside it a straight
line from each input to the score learns the plain part early. Inputs are standard values
(`scaling.py`), and for each feature a second one that says whether it is missing.

Reasons are exact: with one hidden layer, the rescale rule of DeepLIFT gives each input its part
of what distinguishes an event's log-odds from those of the usual event, without remainder.

>>> from river import datasets, evaluate, metrics
>>> evaluate.progressive_val_score(datasets.Phishing(), Neural(prior=0.5), metrics.ROCAUC())
ROCAUC: 95.59%
"""

import math
from typing import Any, ClassVar, Self

import numpy as np

from models import states
from models.compiled import Float32s, Floats, Int8s, kernel
from models.contract import Arrays, Header, Scored, limited, score_of
from models.hashing import splitmix64
from models.losses import (
    LOG_LOSS,
    Loss,
    correct_contributions,
    corrected,
    gradient,
    uncorrected,
)
from models.options import ModelOptions
from models.scaling import Scaler, learn_scaling, missing_share, scaled_of
from models.verbs import ArrayModel
from pipeline.errors import SnapshotError

# The last unit is the straight line: it passes on its sum as it is, with weight 1.
HIDDEN = 32
UNITS = HIDDEN + 1
LINE = HIDDEN

# Rows of `cells`: the units' own bias (the line's is that of the score), the weight of each unit
# in the score, then for each feature the weights of its value and of its being missing.
BIASES, OUTPUTS, INPUTS = range(3)

# What is kept of each weight: the weight, the decayed means of its gradient and of its square
# (Adam), and the gradients of the examples since the last step.
WEIGHTS, MEANS, SQUARES, SLOPES, PARTS = range(5)

# A step is taken for so many examples together: with few frauds, the gradient of one example
# points anywhere, and a step costs more than an example.
STEP_EXAMPLES = 32
# Of a stream that has only begun every example is a step.
EARLY_STEPS = 1024

# Steps begin this many times as large as `rate`, and shrink by the root of their number.
FIRST_RATE = 4.0
SETTLED_STEPS = 16_384.0

MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999
# Keeps a quotient finite; far below any gradient that matters.
TINY = 1e-8

# What `l2` = 1 pulls a weight back by, as a share of each step's rate.
L2_SHARE = 0.1

# A weight of this size is no longer of use; within it sums stay finite.
WEIGHT_MAX = 1e3
RATE_MAX = 1.0

# Places of the constructor's numbers in the array that the kernels read.
RATE, L2 = range(2)


@kernel
def forward(row: Float32s, weights: Floats, scaling: Floats, sums: Floats) -> float:
    """Give the log-odds of one event, and the units' sums in `sums`."""
    sums[:] = weights[BIASES]
    for column in range(len(row)):
        scaled = scaled_of(np.float64(row[column]), scaling[column])
        is_missing = np.isnan(scaled)
        place = INPUTS + 2 * column + is_missing
        value = 1.0 if is_missing else scaled
        for unit in range(UNITS):
            sums[unit] += value * weights[place, unit]
    return output_of(sums, weights)


@kernel
def output_of(sums: Floats, weights: Floats) -> float:
    """Give the log-odds from the units' sums."""
    logit: float = sums[LINE]
    for unit in range(HIDDEN):
        logit += weights[OUTPUTS, unit] * max(0.0, sums[unit])
    return logit


@kernel
def add_slopes(
    row: Float32s, slope: float, cells: Floats, scaling: Floats, sums: Floats, deltas: Floats
) -> None:
    """Add one example's gradients: backpropagation, from the score to each weight."""
    weights, slopes = cells[WEIGHTS], cells[SLOPES]
    for unit in range(HIDDEN):
        slopes[OUTPUTS, unit] += slope * max(0.0, sums[unit])
        deltas[unit] = slope * weights[OUTPUTS, unit] if sums[unit] > 0.0 else 0.0
    deltas[LINE] = slope
    for unit in range(UNITS):
        slopes[BIASES, unit] += deltas[unit]
    for column in range(len(row)):
        scaled = scaled_of(np.float64(row[column]), scaling[column])
        is_missing = np.isnan(scaled)
        place = INPUTS + 2 * column + is_missing
        value = 1.0 if is_missing else scaled
        for unit in range(UNITS):
            slopes[place, unit] += value * deltas[unit]


@kernel
def step_at(learned: int) -> int:
    """Say which step is due after so many examples; 0: none.

    >>> [step_at(learned) for learned in (1, 1024, 1025, 1056, 1088)]
    [1, 1024, 0, 1025, 1026]
    """
    if learned <= EARLY_STEPS:
        return learned
    later = learned - EARLY_STEPS
    return EARLY_STEPS + later // STEP_EXAMPLES if later % STEP_EXAMPLES == 0 else 0


@kernel
def step(cells: Floats, steps: int, rates: Floats) -> None:
    """Take one step of Adam, and begin to add up anew."""
    examples = 1 if steps <= EARLY_STEPS else STEP_EXAMPLES
    mean_part = 1.0 - MEAN_DECAY**steps
    square_part = 1.0 - SQUARE_DECAY**steps
    rate = rates[RATE] * max(1.0, min(FIRST_RATE, math.sqrt(SETTLED_STEPS / steps)))
    pull = 1.0 - rate * rates[L2] * L2_SHARE
    for place in range(cells.shape[1]):
        # Biases are not pulled: how rare fraud is must not be forgotten.
        kept = 1.0 if place == BIASES else pull
        for unit in range(UNITS):
            slope = cells[SLOPES, place, unit] / examples
            mean = MEAN_DECAY * cells[MEANS, place, unit] + (1.0 - MEAN_DECAY) * slope
            square = SQUARE_DECAY * cells[SQUARES, place, unit]
            square += (1.0 - SQUARE_DECAY) * slope * slope
            move = rate * (mean / mean_part) / (math.sqrt(square / square_part) + TINY)
            weight = kept * cells[WEIGHTS, place, unit] - move
            cells[WEIGHTS, place, unit] = min(WEIGHT_MAX, max(-WEIGHT_MAX, weight))
            cells[MEANS, place, unit] = mean
            cells[SQUARES, place, unit] = square
            cells[SLOPES, place, unit] = 0.0


@kernel
def learn_rows(
    rows: Float32s,
    is_fraud: Int8s,
    weights: Floats,
    shifts: Floats,
    learned: int,
    cells: Floats,
    scaling: Floats,
    rates: Floats,
    loss: Floats,
) -> Floats:
    """Score, then learn, row by row; give the scores. `learned` examples came before."""
    scores = np.empty(len(rows))
    sums, deltas = np.empty(UNITS), np.empty(UNITS)
    for row in range(len(rows)):
        logit = forward(rows[row], cells[WEIGHTS], scaling, sums)
        scores[row] = score_of(corrected(logit, shifts[row], loss))
        slope = weights[row] * gradient(logit, is_fraud[row], shifts[row], loss)
        add_slopes(rows[row], slope, cells, scaling, sums, deltas)
        learn_scaling(rows[row], scaling)
        learned += 1
        due = step_at(learned)
        if due > 0:
            step(cells, due, rates)
    return scores


@kernel
def scores_of(
    rows: Float32s, shifts: Floats, weights: Floats, scaling: Floats, loss: Floats
) -> Floats:
    """Give the scores."""
    scores = np.empty(len(rows))
    sums = np.empty(UNITS)
    for row in range(len(rows)):
        logit = forward(rows[row], weights, scaling, sums)
        scores[row] = score_of(corrected(logit, shifts[row], loss))
    return scores


@kernel
def usual_sums(weights: Floats, scaling: Floats) -> Floats:
    """Give the units' sums for the usual event: every feature at its mean, missing as often."""
    sums = np.empty(UNITS)
    sums[:] = weights[BIASES]
    for column in range(len(scaling)):
        share = missing_share(scaling[column])
        for unit in range(UNITS):
            sums[unit] += share * weights[INPUTS + 2 * column + 1, unit]
    return sums


@kernel
def contributions_of(rows: Float32s, weights: Floats, scaling: Floats, usual: Floats) -> Floats:
    """Give how far each feature moves the log-odds from those of the usual event.

    The rescale rule: a unit's change counts for its inputs in proportion to what they change in
    its sum (Shrikumar et al.).
    """
    contributions = np.empty(rows.shape)
    sums, slopes = np.empty(UNITS), np.empty(UNITS)
    for row in range(len(rows)):
        forward(rows[row], weights, scaling, sums)
        for unit in range(HIDDEN):
            change = sums[unit] - usual[unit]
            slopes[unit] = 0.0
            if change != 0.0:
                passed = max(0.0, sums[unit]) - max(0.0, usual[unit])
                slopes[unit] = weights[OUTPUTS, unit] * (passed / change)
        slopes[LINE] = 1.0
        for column in range(rows.shape[1]):
            scaled = scaled_of(np.float64(rows[row, column]), scaling[column])
            is_missing = np.isnan(scaled)
            value = 0.0 if is_missing else scaled
            missing = (1.0 if is_missing else 0.0) - missing_share(scaling[column])
            total = 0.0
            place = INPUTS + 2 * column
            for unit in range(UNITS):
                change = value * weights[place, unit] + missing * weights[place + 1, unit]
                total += slopes[unit] * change
            contributions[row, column] = total
    return contributions


@kernel
def first_weights(count: int, first: int, seed: int) -> Floats:
    """Give even random numbers from -1 to 1 for the rows from `first` on, always the same."""
    weights = np.empty((count, HIDDEN))
    for row in range(count):
        for unit in range(HIDDEN):
            number = np.uint64((first + row) * HIDDEN + unit) + np.uint64(seed) * np.uint64(1 << 32)
            mixed = splitmix64(number + np.uint64(1))
            weights[row, unit] = np.float64(mixed >> np.uint64(11)) / 4503599627370496.0 - 1.0
    return weights


class Neural(ArrayModel):
    """A network of one hidden layer and a straight line, learned by backpropagation and Adam.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    rate
        Size of a step of Adam.
    l2
        Pull of each weight towards 0.
    prior
        Share of frauds to assume before anything is learned.
    seed
        What the first weights are drawn by.
    loss
        What a mistake costs while learning; scores stay probabilities. None: log loss.

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    Shrikumar et al., Learning Important Features Through Propagating Activation Differences,
    ICML 2017.

    Examples
    --------
    Two features that say something only together, which no sum of single ones could:

    >>> model = Neural(features=("is_abroad", "is_home_phone"))
    >>> rows = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    >>> is_fraud = np.array([0, 1, 1, 0], dtype=np.int8)
    >>> for _ in range(3000):
    ...     before = model.learn(rows, is_fraud, np.ones(4))
    >>> model.score(rows).scores.round(2)
    array([0., 1., 1., 0.])
    """

    name: ClassVar[str] = "neural"

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        rate: float = 0.001,
        l2: float = 1.0,
        prior: float = 0.01,
        seed: int = 7,
        loss: Loss | None = None,
    ) -> None:
        if not (
            0.0 < rate <= RATE_MAX
            and 0.0 <= FIRST_RATE * rate * l2 * L2_SHARE < 1.0
            and 0.0 < prior < 1.0
        ):
            raise ValueError(
                f"rate must be above 0 and at most {RATE_MAX}, l2 from 0 on, prior between 0 and 1"
                f" (got {rate=}, {l2=}, {prior=})"
            )
        self.rate, self.l2, self.prior, self.seed, self.loss = rate, l2, prior, seed, loss
        self._loss = loss or LOG_LOSS
        self._learned = 0
        self._scaler = Scaler(0)
        self._cells = np.zeros((PARTS, INPUTS, UNITS))
        self._cells[WEIGHTS, BIASES, LINE] = uncorrected(
            math.log(prior / (1.0 - prior)), self._loss
        )
        self._cells[WEIGHTS, OUTPUTS, :HIDDEN] = first_weights(1, OUTPUTS, seed)[0] / math.sqrt(
            HIDDEN
        )
        super().__init__(features)

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        return cls(features, l2=options.l2, loss=options.loss_for(features))

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._learned

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each.

        A contribution is how far the feature's value moves the log-odds from those of the usual
        event, which has the mean of every feature; these are the bias.
        """
        rows = self._checked(features)
        weights, scaling = self._cells[WEIGHTS], self._scaler.cells
        usual = usual_sums(weights, scaling)
        contributions = contributions_of(rows, weights, scaling, usual)
        bias = correct_contributions(contributions, output_of(usual, weights), self._loss)
        return limited(self._scores(rows), contributions, bias)

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        return self._scores(self._checked(features))

    def _scores(self, rows: Float32s) -> Floats:
        shifts, loss = self._loss.shifts(rows, self._names), self._loss.values
        return scores_of(rows, shifts, self._cells[WEIGHTS], self._scaler.cells, loss)

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        scores = learn_rows(
            rows,
            is_fraud,
            weights,
            self._loss.shifts(rows, self._names),
            self._learned,
            self._cells,
            self._scaler.cells,
            np.array([self.rate, self.l2]),
            self._loss.values,
        )
        self._learned += len(rows)
        return scores

    def _add_columns(self, count: int) -> None:
        """Make room for that many more features."""
        before = self._cells.shape[1]
        cells = np.zeros((PARTS, 2 * count, UNITS))
        first = first_weights(2 * count, before, self.seed)
        cells[WEIGHTS, :, :HIDDEN] = first / math.sqrt(len(self._names))
        self._cells = np.concatenate([self._cells, cells], axis=1)
        self._scaler.add_columns(count)

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""
        header: Header = {"rate": self.rate, "l2": self.l2, "prior": self.prior, "seed": self.seed}
        header |= {"names": list(self._names), "open": self.features is None}
        header |= {"learned": self._learned, **self._loss.header()}
        # A snapshot's arrays have two dimensions.
        arrays: Arrays = {
            "cells": self._cells.reshape(-1, UNITS).copy(),
            "scaling": self._scaler.cells.copy(),
        }
        return header, arrays

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""
        rates: Any = {name: states.number(header, name) for name in ("rate", "l2", "prior")}
        loss, seed = Loss.from_header(header), states.integer(header, "seed")
        try:
            model = cls(states.names(header, "names"), **rates, seed=seed, loss=loss)
        except ValueError as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        model._learned = states.integer(header, "learned")
        shape = model._cells.shape
        cells = states.array(arrays, "cells", np.float64, (shape[0] * shape[1], UNITS))
        model._cells = cells.reshape(shape)
        states.check_not_negative(model._cells[SQUARES], "cells")
        model._scaler.restore(arrays, "scaling")
        return model
