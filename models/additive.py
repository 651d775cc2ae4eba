"""A logistic regression over bins that learns online: as exact to explain as it is fast.

Each feature is cut into bins and each bin has a weight, so the log-odds of a score are a sum of
one number for each feature. That follows any curve of a single feature, is calibrated by nature,
holds up with one fraud in a thousand, and its reasons are the score itself, not an estimate of it.

>>> from river import datasets, evaluate, metrics
>>> evaluate.progressive_val_score(datasets.Phishing(), Additive(prior=0.5), metrics.ROCAUC())
ROCAUC: 96.56%
"""

import math
from typing import ClassVar, Self

import numpy as np

from models import states
from models.bins import (
    BINS,
    EDGES,
    MISSING_BIN,
    bin_text,
    carried_shares,
    edges_of,
    encode,
    no_edges,
)
from models.compiled import Float32s, Floats, Int8s, Int32s
from models.contract import Arrays, Header, Scored, limited
from models.doubling import next_doubling
from models.ftrl import (
    BIAS,
    CELL_SIZE,
    COUNT,
    PRIOR_LOGIT,
    SQUARES,
    WEIGHT,
    carry,
    centres_of,
    forget,
    gains_of,
    learn_rows,
    score_rows,
    scores_of,
)
from models.losses import AMOUNT, LOG_LOSS, Loss, correct_contributions, shifts_of, uncorrected
from models.options import ModelOptions
from models.pairs import PAIR_CELLS, Pairs
from models.sampling import Sample
from models.verbs import ArrayModel
from pipeline.errors import SnapshotError

# Far beyond any use; sums and quotients of such numbers stay finite.
RATE_MAX = 1e6

# Bins are cut by a sample of all examples and one of the frauds: where frauds are, bins must be
# fine, and among a thousand examples there may be none. Bigger samples did not score better.
SAMPLE_SIZE, SAMPLE_SPAN = 1024, 1 << 17
FRAUDS_SIZE, FRAUDS_SPAN = 256, 1 << 12

# Pairs of features are looked for from here on, at each cut, until this many were learned.
PAIRS_FROM = 4096
PAIRS_UNTIL = 1 << 20

HOURS_OF_DAY = 24

# Bins are cut after 32 examples, at each doubling, and from some point at a fixed distance.
# Features that are empty at the start of a stream (habits, labels) fill up over weeks.
FIRST_CUT = 32
CUT_DISTANCE_MAX = 1 << 16


class Additive(ArrayModel):
    """Additive logistic regression over bins, and over pairs found, learned by FTRL-proximal.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    alpha
        Size of the steps, in log-odds; divided by the root of the number of features. Each
        coordinate's own step shrinks as it learns.
    beta
        How many gradients it takes before a coordinate's steps begin to shrink.
    l1
        Weights that do not gain this much, in sums of gradients, stay at exactly 0.
    l2
        Pull of each weight towards 0; as strong as that many early gradients.
    prior
        Share of frauds to assume before anything is learned.
    decay_days
        Days of event time after which half of what was summed up is forgotten, so that steps stay
        large where the stream drifts. 0: nothing is forgotten.
    loss
        What a mistake costs while learning; scores stay probabilities. None: log loss.

    References
    ----------
    McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013.

    Examples
    --------
    A middle value is the suspicious one, which no straight line could say:

    >>> model = Additive(features=("hour",))
    >>> hours = np.tile(np.array([[2.0], [3.0], [4.0]], dtype=np.float32), (500, 1))
    >>> is_fraud = np.tile(np.array([0, 1, 0], dtype=np.int8), 500)
    >>> before = model.learn(hours, is_fraud, np.ones(1500))
    >>> model.score(hours[:3]).scores.round(3)
    array([0.005, 0.99 , 0.005])
    >>> model.score(hours[:3]).contributions[:, 0].round(3)
    array([-3.27 ,  6.544, -3.274])
    """

    name: ClassVar[str] = "additive"

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 1.0,
        prior: float = 0.01,
        decay_days: float = 0.0,
        loss: Loss | None = None,
    ) -> None:
        steps = all(1.0 / RATE_MAX <= rate <= RATE_MAX for rate in (alpha, beta))
        pulls = all(0.0 <= rate <= RATE_MAX for rate in (l1, l2))
        if not (steps and pulls and 0.0 < prior < 1.0 and 0.0 <= decay_days <= RATE_MAX):
            raise ValueError(
                "alpha and beta must be 1e-06 to 1e+06, l1, l2 and decay_days 0 to 1e+06, prior "
                f"between 0 and 1 (got {alpha=}, {beta=}, {l1=}, {l2=}, {prior=}, {decay_days=})"
            )
        self.alpha, self.beta, self.l1, self.l2, self.prior = alpha, beta, l1, l2, prior
        self.decay_days = decay_days
        self._day = 0
        self.loss = loss
        self._loss = loss or LOG_LOSS
        self._loss_values = self._loss.values
        self._rates, self._amount = self._rates_of(0), -1
        self._usual: tuple[Floats, float] | None = None
        self._cells = np.zeros((1, CELL_SIZE))
        self._edges = no_edges(0)
        self._pairs = Pairs(0)
        self._sample = Sample(0, SAMPLE_SIZE, SAMPLE_SPAN)
        self._frauds = Sample(0, FRAUDS_SIZE, FRAUDS_SPAN)
        super().__init__(features)

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        loss = options.loss_for(features)
        return cls(features, l1=options.l1, l2=options.l2, decay_days=options.decay_days, loss=loss)

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._sample.seen

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each.

        A contribution is how far the feature's value moves the log-odds from what is usual for
        that feature, with half of each pair that it is in; the bias is the model's log-odds for an
        event that is usual in everything.
        """
        rows = self._checked(features)
        if self._usual is None:
            self._usual = self._usual_event()
        centres, bias = self._usual
        scores, contributions = score_rows(
            self._coordinates(rows),
            self._pairs.pairs,
            centres,
            self._shifts(rows),
            self._cells,
            self._rates,
            self._loss_values,
        )
        bias = correct_contributions(contributions, bias, self._loss)
        return limited(scores, contributions, bias)

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        rows = self._checked(features)
        coordinates, shifts = self._coordinates(rows), self._shifts(rows)
        return scores_of(coordinates, shifts, self._cells, self._rates, self._loss_values)

    def tick(self, hour: int) -> None:
        """Forget a little at the beginning of each day, if anything is to be forgotten."""
        day = hour // HOURS_OF_DAY
        if self.decay_days and self._day and day > self._day:
            self._usual = None
            forget(0.5 ** ((day - self._day) / self.decay_days), self._cells, self._rates)
        self._day = max(day, self._day)

    def _usual_event(self) -> tuple[Floats, float]:
        """Give the mean weight of each feature and pair, and the log-odds that they make."""
        widths = np.repeat([BINS, PAIR_CELLS], [len(self._names), self._pairs.count])
        centres = centres_of(widths, self._cells)
        bias = float(self._rates[PRIOR_LOGIT] + self._cells[BIAS, WEIGHT])
        for centre in centres.tolist():
            bias += centre
        return centres, bias

    def _coordinates(self, rows: Float32s) -> Int32s:
        """Give the coordinates of each row: one for each feature, then one for each pair."""
        return self._pairs.coordinates(rows, self._edges)

    def _shifts(self, rows: Float32s) -> Floats:
        return shifts_of(rows, self._amount, self._loss_values)

    def weights(self, limit: int) -> list[tuple[str, float]]:
        """Give the strongest weights of bins and of cells of pairs, each by where it lies."""
        own = self._cells[1:, WEIGHT]
        strongest = np.argsort(-np.abs(own), kind="stable")[:limit].tolist()
        return [(self._place_text(place), float(own[place])) for place in strongest if own[place]]

    def _place_text(self, place: int) -> str:
        column, bin_place = divmod(place, BINS)
        if column < len(self._names):
            return f"{self._names[column]} {bin_text(self._edges[column], bin_place)}"
        pair, cell = divmod(place - len(self._names) * BINS, PAIR_CELLS)
        return self._pairs.cell_text(pair, cell, self._names)

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        self._usual = None
        scores = np.empty(len(rows))
        start = 0
        while start < len(rows):
            due = next_cut(self.learned)
            part = slice(start, start + due - self.learned)
            scores[part] = self._learn_part(rows[part], is_fraud[part], weights[part])
            if self.learned == due:
                self._cut()
            start = part.stop
        return scores

    def _learn_part(self, rows: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        frauds, number = is_fraud == 1, self.learned
        self._sample.add(rows, is_fraud, weights)
        self._frauds.add(rows[frauds], is_fraud[frauds], weights[frauds])
        scores = self._learn_rows(self._coordinates(rows), rows, is_fraud, weights)
        self._pairs.observe(number, rows, is_fraud, weights, scores)
        return scores

    def _learn_rows(
        self, coordinates: Int32s, rows: Float32s, is_fraud: Int8s, weights: Floats
    ) -> Floats:
        shifts, rates, loss = self._shifts(rows), self._rates, self._loss_values
        return learn_rows(coordinates, is_fraud, weights, shifts, self._cells, rates, loss)

    def _cut(self) -> None:
        """Cut the bins anew by the samples, keep what was learned, and look for pairs.

        While the sample still holds every example, all are learned again with the new bins:
        nothing is lost by bins that were cut from few. Later the weights are carried over.
        """
        both = np.vstack([self._sample.rows, self._frauds.rows])
        is_fraud = np.concatenate([self._sample.labels[0], self._frauds.labels[0]])
        edges = no_edges(len(self._names))
        for column in range(len(edges)):
            edges[column] = edges_of(both[:, column], is_fraud)
        if self._sample.is_all:
            self._cells[:] = 0.0
            rows = self._sample.rows
            self._learn_rows(encode(rows, edges), rows, *self._sample.labels)
        else:
            self._carry(both, edges)
        self._edges = edges
        if PAIRS_FROM <= self.learned <= PAIRS_UNTIL:
            strengths = gains_of(len(self._names), BINS, self._cells)
            added = self._pairs.choose(strengths, both, is_fraud)
            self._cells = np.vstack([self._cells, np.zeros((added * PAIR_CELLS, CELL_SIZE))])

    def _carry(self, both: Float32s, edges: Float32s) -> None:
        for column in range(len(edges)):
            shares = carried_shares(both[:, column], self._edges[column], edges[column])
            cells = self._cells[1 + column * BINS : 1 + (column + 1) * BINS]
            cells[:] = carry(cells, shares, self._rates)

    def _add_columns(self, count: int) -> None:
        """Make room for that many more features, which were missing in all that was learned."""
        self._usual = None
        self._rates = self._rates_of(len(self._names))
        self._amount = self._names.index(AMOUNT) if AMOUNT in self._names else -1
        self._sample.add_columns(count)
        self._frauds.add_columns(count)
        end = 1 + len(self._edges) * BINS
        self._edges = np.vstack([self._edges, no_edges(count)])
        self._pairs.add_columns(count)
        cells = np.zeros((count * BINS, CELL_SIZE))
        cells[MISSING_BIN::BINS, COUNT] = self.learned
        self._cells = np.vstack([self._cells[:end], cells, self._cells[end:]])

    def _rates_of(self, columns: int) -> Floats:
        """Give the constructor's numbers as the kernels read them.

        Every feature of an event steps at once. With steps shrunk by the root of their number,
        one `alpha` serves few features and many.
        """
        alpha = self.alpha / math.sqrt(max(1, columns))
        prior_logit = uncorrected(math.log(self.prior / (1.0 - self.prior)), self._loss)
        return np.array([alpha, self.beta, self.l1, self.l2, prior_logit])

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""
        rates = {"alpha": self.alpha, "beta": self.beta, "l1": self.l1, "l2": self.l2}
        header: Header = {**rates, "prior": self.prior, "names": list(self._names)}
        header |= {"learned": self.learned, "frauds": self._frauds.seen}
        header |= {"open": self.features is None, "decay_days": self.decay_days, "day": self._day}
        header |= self._loss.header()
        arrays: Arrays = {"cells": self._cells.copy(), "edges": self._edges.copy()}
        arrays |= self._pairs.arrays()
        return header, arrays | self._sample.arrays("sample") | self._frauds.arrays("frauds")

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""
        feature_names = states.names(header, "names")
        names = ("alpha", "beta", "l1", "l2", "prior", "decay_days")
        try:
            rates = {name: states.number(header, name) for name in names}
            model = cls(feature_names, **rates, loss=Loss.from_header(header))
        except ValueError as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        model._day = states.integer(header, "day")
        model._pairs.restore(arrays)
        model._restore_cells(arrays)
        model._sample.restore(arrays, "sample", states.integer(header, "learned"))
        model._frauds.restore(arrays, "frauds", states.integer(header, "frauds"))
        return model

    def _restore_cells(self, arrays: Arrays) -> None:
        self._usual = None
        columns = len(self._names)
        count = 1 + columns * BINS + self._pairs.count * PAIR_CELLS
        self._cells = states.array(arrays, "cells", np.float64, (count, CELL_SIZE))
        self._edges = states.array(arrays, "edges", np.float32, (columns, EDGES))
        if not (self._edges[:, 1:] >= self._edges[:, :-1]).all():
            raise SnapshotError("state: edges must ascend")
        if (self._cells[:, (SQUARES, COUNT)] < 0.0).any():
            raise SnapshotError("state: sums of squares and counts must be at least 0")


def next_cut(learned: int) -> int:
    """Say after how many examples the bins are cut next.

    >>> [next_cut(learned) for learned in (0, 31, 32, 40_000, 100_000, 140_000)]
    [32, 32, 64, 65536, 131072, 196608]
    """
    return next_doubling(learned, first=FIRST_CUT, distance_max=CUT_DISTANCE_MAX)
