"""The network against a plain one, and what it is for: what only combinations say."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models import Additive, Neural
from models.compiled import kernel_source
from models.losses import LOG_LOSS
from models.neural import (
    BIASES,
    EARLY_STEPS,
    HIDDEN,
    INPUTS,
    LINE,
    OUTPUTS,
    PARTS,
    STEP_EXAMPLES,
    UNITS,
    WEIGHTS,
    learn_rows,
    step_at,
)
from models.scaling import SCALED_MAX, SETTLED_COUNT, Scaler
from pipeline.errors import SnapshotError

NAMES = ("left", "right", "empty_at_times")


def combined_stream(rows: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Frauds are where exactly one of two features is high, which neither says alone."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(rows, 3)).astype(np.float32)
    features[chance.random(rows) < 0.3, 2] = np.nan
    is_fraud = (features[:, 0] > 0.0) != (features[:, 1] > 0.0)
    return features, is_fraud.astype(np.int8)


def learned_model(rows: int = 20_000) -> Neural:
    model = Neural(NAMES, prior=0.5)
    features, is_fraud = combined_stream(rows)
    model.learn(features, is_fraud, np.ones(rows))
    return model


def test_it_learns_combinations_that_no_sum_can() -> None:
    features, is_fraud = combined_stream(4000, seed=5)
    additive = Additive(NAMES, prior=0.5)
    additive.learn(*combined_stream(20_000), np.ones(20_000))

    assert roc_auc_score(is_fraud, learned_model().scores(features)) > 0.97
    assert roc_auc_score(is_fraud, additive.scores(features)) < 0.6


def test_a_score_is_that_of_a_plain_network() -> None:
    model = learned_model(3000)
    features, _ = combined_stream(50, seed=5)
    cells = model.state()[1]["cells"].reshape(PARTS, -1, UNITS)[WEIGHTS].astype(np.float64)
    scaler = Scaler(len(NAMES))
    scaler.restore(model.state()[1], "scaling")

    for row, score in zip(scaler.scale(features), model.scores(features), strict=True):
        inputs = np.zeros(2 * len(NAMES))
        inputs[0::2], inputs[1::2] = np.nan_to_num(row), np.isnan(row)
        sums = cells[BIASES] + inputs @ cells[INPUTS:]
        logit = sums[LINE] + np.maximum(0.0, sums[:HIDDEN]) @ cells[OUTPUTS, :HIDDEN]
        assert score == pytest.approx(1.0 / (1.0 + math.exp(-logit)), rel=1e-9)


def test_kernels_compute_what_their_source_does() -> None:
    features, is_fraud = combined_stream(40)
    given = []
    for function in (learn_rows, kernel_source(learn_rows)):
        model = learned_model(1000)
        cells = model.state()[1]["cells"].reshape(PARTS, -1, UNITS).astype(np.float64)
        scaling = model.state()[1]["scaling"].astype(np.float64)
        rates, zeros = np.array([model.rate, model.l2]), np.zeros(40)
        scores = function(
            features, is_fraud, np.ones(40), zeros, 1000, cells, scaling, rates, LOG_LOSS.values
        )
        given.append((scores, cells, scaling))

    for compiled, plain in zip(*given, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-9, atol=1e-12)


def test_the_gradients_are_those_of_the_log_loss() -> None:
    # Steps come together after the early ones: until then the gradients can be read.
    model = learned_model(EARLY_STEPS)
    header, arrays = model.state()
    features, is_fraud = combined_stream(1, seed=9)

    def loss_with(place: int, change: float) -> float:
        changed = arrays["cells"].astype(np.float64)
        changed[place // UNITS, place % UNITS] += change
        score = Neural.from_state(header, {**arrays, "cells": changed}).scores(features)[0]
        return -math.log(score if is_fraud[0] else 1.0 - score)

    model.learn(features, is_fraud, np.ones(1))
    slopes = model.state()[1]["cells"].reshape(PARTS, -1)[PARTS - 1].astype(np.float64)
    # The line's weight in the score is always 1.
    places = [place for place in range(len(slopes)) if place != OUTPUTS * UNITS + LINE]
    for place in places[::7]:
        expected = (loss_with(place, 1e-5) - loss_with(place, -1e-5)) / 2e-5
        assert slopes[place] == pytest.approx(expected, abs=1e-6)


def test_the_usual_event_is_the_bias() -> None:
    model = learned_model()
    scaling = model.state()[1]["scaling"]
    means = np.append(scaling[:2, 2], np.nan).astype(np.float32)[None, :]

    scored = model.score(means)

    # The third feature, which says nothing, is missing here and is not always: all that is left.
    assert scored.contributions[0, :2] == pytest.approx([0.0, 0.0], abs=1e-5)


def test_seeds_make_networks_and_the_same_seed_the_same() -> None:
    features, is_fraud = combined_stream(500)
    scores = [
        Neural(NAMES, seed=seed).learn(features, is_fraud, np.ones(500)).tobytes()
        for seed in (7, 7, 8)
    ]

    assert scores[0] == scores[1] != scores[2]


def test_a_step_comes_after_each_early_example_and_then_for_many_together() -> None:
    steps = [step_at(learned) for learned in range(1, EARLY_STEPS + 10 * STEP_EXAMPLES + 1)]

    assert [due for due in steps if due] == list(range(1, EARLY_STEPS + 11))


def test_l2_pulls_weights_to_zero() -> None:
    def size(l2: float) -> float:
        model = Neural(NAMES, l2=l2)
        model.learn(*combined_stream(5000), np.ones(5000))
        cells = model.state()[1]["cells"].reshape(PARTS, -1, UNITS)
        return float(np.abs(cells[WEIGHTS, INPUTS:].astype(np.float64)).sum())

    assert size(0.0) > size(1.0) > size(100.0)


@pytest.mark.parametrize("given", [{"rate": 0.0}, {"rate": 2.0}, {"l2": -1.0}, {"prior": 1.0}])
def test_impossible_numbers_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        Neural(NAMES, **given)  # type: ignore[arg-type]

    header, arrays = Neural(NAMES).state()
    with pytest.raises(SnapshotError, match="state: rate must be above 0"):
        Neural.from_state({**header, **given}, arrays)


def test_a_state_with_squares_below_0_is_refused() -> None:
    header, arrays = learned_model(100).state()

    with pytest.raises(SnapshotError, match="state: scaling must be at least 0"):
        Neural.from_state(header, {**arrays, "scaling": -np.ones((3, 4))})


def test_one_monstrous_value_does_not_make_all_others_equal() -> None:
    chance = np.random.default_rng(1)
    scaler = Scaler(1)
    scaler.learn(chance.normal(10.0, 2.0, (10 * SETTLED_COUNT, 1)).astype(np.float32))
    scaler.learn(np.array([[1e30], [np.inf]], dtype=np.float32))

    scaled = scaler.scale(np.array([[10.0], [12.0], [1e30]], dtype=np.float32))[:, 0]

    assert scaled[1] - scaled[0] > 0.5
    assert scaled[2] == SCALED_MAX


def test_a_rare_value_keeps_its_distance() -> None:
    # One event in 500 has a fraud in its history: the spread must not shrink to nothing.
    values = (np.arange(50_000) % 500 == 0).astype(np.float32)[:, None]
    scaler = Scaler(1)
    scaler.learn(values)

    assert math.sqrt(scaler.cells[0, 3]) == pytest.approx(values.std(), rel=0.2)
