"""Every loss gives probabilities after its correction, and would not without it."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from models import Additive, make_model
from models.compiled import kernel_source
from models.losses import (
    GAMMA_MAX,
    LOSSES,
    Loss,
    corrected,
    gradient,
    shift_of,
    uncorrected,
)
from models.options import ModelOptions
from models.snapshot import decode, encode
from pipeline.errors import SettingError, SnapshotError

NAMES = ("amount", "place")
WEIGHTED = {"fraud_weight": 20.0}
COSTS = {"decline_cost_minor": 500.0, "decline_cost_share": 0.01}
# Each changes what the best score of an example is.
REWEIGHTED = [
    Loss("log", **WEIGHTED),
    Loss("squared", **WEIGHTED),
    Loss("focal", focal_gamma=2.0),
    Loss("focal", focal_gamma=2.0, **WEIGHTED),
    Loss("cost", **COSTS),
]
LEARN_BY_GRADIENTS = ["additive", "neural"]
LATER = slice(20_000, 60_000)


def options_of(loss: Loss) -> ModelOptions:
    return ModelOptions(
        loss=loss.kind,
        fraud_weight=loss.fraud_weight,
        focal_gamma=loss.focal_gamma,
        decline_cost_minor=loss.decline_cost_minor,
        decline_cost_share=loss.decline_cost_share,
    )


def known_stream(rows: int) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int8]]:
    """Two features of five values each, the chance of fraud of each event, and what came of it."""
    chance = np.random.default_rng(11)
    minor = 100.0 * 4.0 ** chance.integers(0, 5, rows)
    place = chance.integers(0, 5, rows)
    truth = 1.0 / (1.0 + np.exp(4.0 - 0.4 * np.log(minor / 100.0) - 0.6 * place))
    features = np.column_stack([np.log1p(minor), place]).astype(np.float32)
    return features, truth, (chance.random(rows) < truth).astype(np.int8)


def odds_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(scores) - np.log1p(-scores)


def calibration_error(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Give the largest difference of mean score and mean truth over fifths of the scores."""
    order = np.array_split(np.argsort(scores, kind="stable"), 5)
    return max(abs(float(scores[part].mean() - truth[part].mean())) for part in order)


def learned_of(scores: NDArray[np.float64], rows: NDArray[np.float32], loss: Loss) -> list[float]:
    """Give the scores that the loss alone aims at: those that were not corrected."""
    given = []
    for odds, amount in zip(odds_of(scores).tolist(), rows[:, 0].tolist(), strict=True):
        logit = uncorrected(odds, loss) + shift_of(amount, loss.values)
        given.append(1.0 / (1.0 + math.exp(-logit)))
    return given


@pytest.mark.parametrize("name", LEARN_BY_GRADIENTS)
@pytest.mark.parametrize("loss", REWEIGHTED, ids=str)
def test_scores_are_probabilities_after_the_correction_and_not_before(
    name: str, loss: Loss
) -> None:
    features, truth, is_fraud = known_stream(60_000)
    model = make_model(name, NAMES, options_of(loss))
    # Scores from before each was learned: over many, the noise of the latest steps goes out.
    scores = model.learn(features, is_fraud, np.ones(len(features)))[LATER]
    learned = np.array(learned_of(scores, features[LATER], loss))

    assert calibration_error(scores, truth[LATER]) < 0.05
    assert calibration_error(learned, truth[LATER]) > 0.15


@pytest.mark.parametrize("name", LEARN_BY_GRADIENTS)
@pytest.mark.parametrize("kind", LOSSES)
def test_each_loss_learns_the_probabilities(name: str, kind: str) -> None:
    features, truth, is_fraud = known_stream(60_000)
    model = make_model(name, NAMES, ModelOptions(loss=kind))

    scores = model.learn(features, is_fraud, np.ones(len(features)))[LATER]

    assert np.corrcoef(scores, truth[LATER])[0, 1] > 0.9
    assert calibration_error(scores, truth[LATER]) < 0.05


@pytest.mark.parametrize("name", LEARN_BY_GRADIENTS)
@pytest.mark.parametrize("loss", [Loss(), Loss("squared"), *REWEIGHTED], ids=str)
@pytest.mark.parametrize("learned", [0, 3, 5000])
def test_contributions_add_up_whatever_the_loss(name: str, loss: Loss, learned: int) -> None:
    features, _, is_fraud = known_stream(6000)
    features[::7, 1] = np.nan
    model = make_model(name, NAMES, options_of(loss))
    model.learn(features[:learned], is_fraud[:learned], np.ones(learned))

    scored = model.score(features)

    added = scored.contributions.sum(axis=1) + scored.bias
    np.testing.assert_allclose(added, odds_of(scored.scores), atol=1e-9)


@pytest.mark.parametrize("name", LEARN_BY_GRADIENTS)
@pytest.mark.parametrize("loss", REWEIGHTED, ids=str)
def test_a_model_begins_at_its_prior_and_keeps_its_loss(name: str, loss: Loss) -> None:
    features, _, is_fraud = known_stream(400)
    model = make_model(name, NAMES, options_of(loss))

    assert model.score(features).scores == pytest.approx(0.01, rel=1e-3)

    model.learn(features, is_fraud, np.ones(400))
    kept = encode(model, version=f"{name}@400", training_offset=400, schema_hash="a")
    restored = decode(kept).model
    first = model.learn(features, is_fraud, np.ones(400))
    assert restored.learn(features, is_fraud, np.ones(400)).tobytes() == first.tobytes()
    assert not np.array_equal(
        first, make_model(name, NAMES).learn(features, is_fraud, np.ones(400))
    )


@pytest.mark.parametrize("loss", [Loss(), Loss("squared"), *REWEIGHTED], ids=str)
@pytest.mark.parametrize("is_fraud", [0, 1])
def test_the_gradient_is_the_slope_of_the_loss(loss: Loss, is_fraud: int) -> None:
    values = loss.values
    shift = shift_of(math.log1p(9000.0), values)

    def loss_at(logit: float) -> float:
        score = 1.0 / (1.0 + math.exp(-logit - shift))
        right = score if is_fraud else 1.0 - score
        weight = math.exp(shift) if is_fraud else 1.0
        if loss.kind == "squared":
            return weight * (1.0 - right) ** 2
        power = loss.focal_gamma if loss.kind == "focal" else 0.0
        return -weight * (1.0 - right) ** power * math.log(right)

    for logit in (-6.0, -1.0, 0.5, 3.0):
        slope = (loss_at(logit + 1e-5) - loss_at(logit - 1e-5)) / 2e-5
        assert gradient(logit, is_fraud, shift, values) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, GAMMA_MAX])
def test_the_focal_map_gives_the_probability_of_the_least_loss(gamma: float) -> None:
    loss = Loss("focal", focal_gamma=gamma)
    for probability in (0.001, 0.05, 0.5, 0.8):
        scores = np.linspace(1e-5, 1.0 - 1e-5, 400_001)
        risk = -probability * (1.0 - scores) ** gamma * np.log(scores)
        risk -= (1.0 - probability) * scores**gamma * np.log1p(-scores)
        best = float(scores[np.argmin(risk)])

        given = corrected(math.log(best / (1.0 - best)), 0.0, loss.values)

        assert 1.0 / (1.0 + math.exp(-given)) == pytest.approx(probability, rel=0.02, abs=1e-4)


def test_costs_are_those_of_the_event() -> None:
    loss = Loss("cost", decline_cost_minor=500.0, decline_cost_share=0.1).values

    assert shift_of(math.log1p(20_000.0), loss) == pytest.approx(math.log(20_000 / 2_500))
    assert shift_of(math.nan, loss) == 0.0
    assert shift_of(math.inf, Loss("cost").values) == pytest.approx(math.log(1000.0))
    assert shift_of(-math.inf, Loss("cost").values) == pytest.approx(math.log(1 / 1000.0))


def test_kernels_compute_what_their_sources_do() -> None:
    for loss in REWEIGHTED:
        values = loss.values
        for logit in (-20.0, -2.0, 1.0, 20.0):
            given = corrected(logit, 0.3, values), gradient(logit, 1, 0.3, values)
            plain = kernel_source(corrected), kernel_source(gradient)
            assert given[0] == pytest.approx(plain[0](logit, 0.3, values), rel=1e-12)
            assert given[1] == pytest.approx(plain[1](logit, 1, 0.3, values), rel=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "hinge"}, r"loss must be one of log, squared, focal, cost \(got 'hinge'\)"),
        ({"fraud_weight": 0.0}, "fraud_weight must be from 0.001 to 1000"),
        ({"focal_gamma": 11.0}, "focal_gamma must be 0 to 10.0"),
        ({"decline_cost_minor": 0.0}, "must be from 0 on, and one above 0"),
        ({"decline_cost_share": math.nan}, "must be from 0 on, and one above 0"),
    ],
)
def test_what_is_no_loss_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Loss(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LEARN_BY_GRADIENTS)
def test_costs_need_amounts(name: str) -> None:
    with pytest.raises(SettingError, match="loss 'cost' needs amounts, and the schema has none"):
        make_model(name, ("hour", "place"), ModelOptions(loss="cost"))


def test_a_state_with_an_impossible_loss_is_refused() -> None:
    header, arrays = Additive(NAMES).state()

    with pytest.raises(SnapshotError, match="state: focal_gamma must be 0 to 10"):
        Additive.from_state({**header, "focal_gamma": 99.0}, arrays)
