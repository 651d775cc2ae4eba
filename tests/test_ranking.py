"""The areas against scikit-learn, to the last bit: with ties, extreme scores and few of a kind."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from pipeline.quality.ranking import average_precision, roc_auc, steps

Floats = NDArray[np.float64]
Scores = Callable[[np.random.Generator, int], Floats]

SIZES = (2, 3, 4, 5, 17, 130, 1_000, 20_000)


def all_different(chance: np.random.Generator, size: int) -> Floats:
    return chance.random(size)


def near_nothing(chance: np.random.Generator, size: int) -> Floats:
    return chance.beta(0.01, 5.0, size)


def many_equal(chance: np.random.Generator, size: int) -> Floats:
    return np.round(chance.random(size), 1)


def all_equal(chance: np.random.Generator, size: int) -> Floats:
    return np.full(size, 0.5)


def certain(chance: np.random.Generator, size: int) -> Floats:
    return chance.choice([0.0, -0.0, 5e-324, 1.0, np.nextafter(1.0, 0.0)], size)


@pytest.mark.parametrize("make", [all_different, near_nothing, many_equal, all_equal, certain])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [None, 0.01, 0.5, 0.99])
def test_the_areas_are_those_of_scikit_learn(make: Scores, size: int, share: float | None) -> None:
    for seed in range(20):
        chance = np.random.default_rng(seed)
        scores = make(chance, size)
        is_fraud = chance.random(size) < (scores if share is None else share)
        # One of each kind at least, or there is no area.
        is_fraud[chance.permutation(size)[:2]] = [True, False]

        assert average_precision(scores, is_fraud) == average_precision_score(is_fraud, scores)
        assert roc_auc(scores, is_fraud) == roc_auc_score(is_fraud, scores)


@pytest.mark.parametrize("make", [all_different, many_equal, certain])
def test_the_steps_are_the_curve_of_scikit_learn(make: Scores) -> None:
    chance = np.random.default_rng(3)
    scores, is_fraud = make(chance, 1_000), chance.random(1_000) < 0.1
    precision, recall, score_min = precision_recall_curve(is_fraud, scores)

    found = steps(scores, is_fraud)

    assert found.scores.tolist() == score_min[::-1].tolist()
    assert (found.frauds / (found.frauds + found.genuine)).tolist() == precision[-2::-1].tolist()
    assert (found.frauds / found.frauds[-1]).tolist() == recall[-2::-1].tolist()


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(AssertionError, match="a score is a number"):
        roc_auc(np.array([0.5, np.nan]), np.array([True, False]))
