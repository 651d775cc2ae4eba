"""How much a number owes to what the model happened to learn: k-fold prequential evaluation.

One pass, k models. Each event belongs to a fold by a keyed hash of its id, and is learned by some
of the models and tested by the others, always before its label: Bifet et al., "Efficient online
evaluation of big data stream classifiers", KDD 2015. The mean over the folds and the interval by
Student's t say how far the number would move on other events of the same stream.

| scheme    | an event is learned by            | and tested by           |
|-----------|-----------------------------------|-------------------------|
| cross     | all models but one                | that one                |
| split     | one model                         | all others              |
| bootstrap | each, as often as Poisson(1) says | those that never did so |

The folds share the features: what labels teach the profiles of cards is as in the run itself. Card
precision needs all events of a card and is left to `intervals`; the daily budget shrinks with the
share of events that a fold tests.

>>> memberships(["t-1", "t-2"], folds=3, scheme="cross").tolist()
[[1, 0, 1], [0, 1, 1]]
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.engine import Decisions
from pipeline.evaluation import Quality, evaluate
from pipeline.learner import Learner
from pipeline.quality.intervals import CONFIDENCE
from pipeline.replay import Learned
from pipeline.schema import Schema
from pipeline.score_log import ScoreColumns

Scheme = Literal["cross", "split", "bootstrap"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# Each fold costs as much as the model itself; two bytes of a 64-byte hash serve each.
FOLDS_MIN, FOLDS_MAX = 2, 32
SEED = 7
# More copies of one event than this do not come in a thousand million draws.
COPIES_MAX = 11

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FoldNumber:
    """One number over the folds: its mean, the 95 % interval of the mean, and each fold's own."""

    mean: float
    low: float
    high: float
    folds: tuple[float, ...]


def memberships(
    ids: Sequence[str], *, folds: int, scheme: Scheme, seed: int = SEED
) -> NDArray[np.int8]:
    """Give how often each model learns each event; a model that never does tests it."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = [hashlib.blake2b(name.encode(), digest_size=64, key=key).digest() for name in ids]
    drawn = np.frombuffer(b"".join(digests), "<u2").reshape(len(ids), -1)[:, :folds]
    if scheme == "bootstrap":
        # The middle of each step, so that no draw is exactly 0 or 1.
        copies = np.searchsorted(_copies(), (drawn + 0.5) / 65_536.0)
        return np.asarray(copies, np.int8)
    own = drawn[:, :1] % folds == np.arange(folds)
    return np.asarray(own if scheme == "split" else ~own, np.int8)


@cache
def _copies() -> Floats:
    # It takes 40 MB and a second to import, and only folds ask for it.
    from scipy.stats import poisson  # noqa: PLC0415

    shares: Floats = poisson.cdf(np.arange(COPIES_MAX + 1), 1.0)
    return shares


class Folds:
    """The models of all folds; watches a replay and changes nothing in it.

    Parameters
    ----------
    models
        For each fold the models that run, fresh, the champion first.
    """

    def __init__(
        self,
        schema: Schema,
        schema_hash: str,
        models: Sequence[Sequence[Model]],
        *,
        scheme: Scheme = "cross",
        seed: int = SEED,
    ) -> None:
        assert FOLDS_MIN <= len(models) <= FOLDS_MAX, len(models)
        self._learners = [Learner(schema, schema_hash, of_fold) for of_fold in models]
        self._scheme, self._seed = scheme, seed
        self._tested: list[list[tuple[Ints, list[Floats]]]] = [[] for _ in models]
        self._events = 0

    def judge(self, decisions: Decisions) -> None:
        """Test decided events with the models of the folds that will not learn them."""
        times = self._memberships(decisions.transaction_ids)
        for fold, learner in enumerate(self._learners):
            rows = np.flatnonzero(times[:, fold] == 0)
            if len(rows):
                features = decisions.features[rows]
                scores = [model.scores(features) for model in learner.models]
                self._tested[fold].append((rows + self._events, scores))
        self._events += len(decisions)

    def learn(self, found: Learned) -> None:
        """Teach each fold the examples that are its own."""
        times = self._memberships(found.examples.transaction_id)
        for fold, learner in enumerate(self._learners):
            rows = np.flatnonzero(times[:, fold])
            if len(rows):
                weights = found.examples.weights[rows] * times[rows, fold]
                learner.learn_columns(found.examples.take(rows, weights), profiles=False)

    def quality(
        self, log: ScoreColumns, start_ms: int | None, end_ms: int | None, *, alerts_a_day: int
    ) -> dict[str, dict[str, FoldNumber]]:
        """Give each number of `Quality` over the folds, by model and name."""
        measured = log.measured(start_ms, end_ms)
        found: dict[str, list[Quality]] = {name: [] for name in log.scores}
        for parts in self._tested:
            rows = np.concatenate([rows for rows, _ in parts] or [np.zeros(0, np.int64)])
            # An interrupt may come between the two logs: the last batch is then in one of them.
            kept = np.flatnonzero(rows < len(measured))
            kept = kept[measured[rows[kept]]]
            share = len(kept) / max(1, int(measured.sum()))
            for place, of_model in enumerate(found.values()):
                scores = np.concatenate([given[place] for _, given in parts] or [np.zeros(0)])
                of_model.append(
                    evaluate(
                        scores[kept],
                        log.is_fraud[rows[kept]] == 1,
                        event_time_ms=log.event_time_ms[rows[kept]],
                        amount_minor=log.amount_minor[rows[kept]],
                        alerts_a_day=max(1, round(alerts_a_day * share)),
                    )
                )
        return {name: _over_folds(of_model) for name, of_model in found.items()}

    def _memberships(self, ids: Sequence[str]) -> NDArray[np.int8]:
        folds = len(self._learners)
        return memberships(ids, folds=folds, scheme=self._scheme, seed=self._seed)


def _over_folds(found: Sequence[Quality]) -> dict[str, FoldNumber]:
    columns = [asdict(quality) for quality in found]
    numbers = {name: [of_fold[name] for of_fold in columns] for name in columns[0]}
    return {
        name: fold_number(values)
        for name, values in numbers.items()
        if name not in ("events", "frauds") and None not in values
    }


def fold_number(values: Sequence[float]) -> FoldNumber:
    """Give the mean of the folds and its interval.

    >>> fold_number([0.7, 0.8, 0.9])
    FoldNumber(mean=0.8, low=0.552, high=1.048, folds=(0.7, 0.8, 0.9))
    """
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    from scipy.stats import t  # noqa: PLC0415 - as above

    half = float(t.ppf(0.5 + CONFIDENCE / 2.0, len(values) - 1)) * error
    return FoldNumber(mean, mean - half, mean + half, tuple(values))
