"""The contract, over every entry of MODELS: a new model is tested by being registered."""

import hashlib
import math
import pickle
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from river import checks, compose, datasets, linear_model, preprocessing

from models import MODELS, ArrayModel, make_model
from models.bins import encode
from models.compiled import kernel_source
from models.contract import LOGIT_MAX, limited, score_of
from models.ftrl import learn_rows
from models.logistic import Logistic
from models.verbs import FEATURES_MAX
from pipeline.errors import SettingError, SnapshotError

Stream = tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]

NAMES = ("amount", "count", "flag", "empty_at_times", "constant")
ROWS = 2500
ODD_VALUES = (np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38, 1e-45, 0.0, -0.0)


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> ArrayModel:
    return make_model(request.param, NAMES)


def stream(rows: int = ROWS, seed: int = 1) -> Stream:
    """Features of different kinds; frauds are rare and depend on two of them."""
    chance = np.random.default_rng(seed)
    amount = chance.lognormal(3.0, 1.0, rows)
    count = chance.poisson(2.0, rows)
    flag = chance.random(rows) < 0.1
    empty = np.where(chance.random(rows) < 0.3, np.nan, chance.normal(size=rows))
    features = np.column_stack([amount, count, flag, empty, np.full(rows, 7.0)])
    logits = -5.0 + 4.0 * flag + 3.0 * (amount > 60.0)
    is_fraud = chance.random(rows) < 1.0 / (1.0 + np.exp(-logits))
    weights = chance.choice([0.5, 1.0, 2.0], rows)
    return features.astype(np.float32), is_fraud.astype(np.int8), weights


def learn(model: ArrayModel, given: Stream, size: int = ROWS) -> NDArray[np.float64]:
    """Learn a stream in batches of one size; give the scores from before."""
    features, is_fraud, weights = given
    parts = [slice(start, start + size) for start in range(0, len(features), size)]
    scores = [model.learn(features[part], is_fraud[part], weights[part]) for part in parts]
    return np.concatenate([np.empty(0), *scores])


def fresh_like(model: ArrayModel) -> ArrayModel:
    return make_model(model.name, model.feature_names)


def made_again(model: ArrayModel, given: Stream) -> ArrayModel:
    """Make a model again of its state, and of the examples that it must remember, in two parts."""
    restored = type(model).from_state(*model.state())
    middle = (restored.window_start + model.learned) // 2
    for part in (slice(restored.window_start, middle), slice(middle, model.learned)):
        restored.remember(*(column[part] for column in given))
    return restored


def assert_same_state(first: ArrayModel, second: ArrayModel) -> None:
    (header, arrays), (other_header, other_arrays) = first.state(), second.state()
    assert header == other_header
    assert arrays.keys() == other_arrays.keys()
    for name in arrays:
        assert arrays[name].dtype == other_arrays[name].dtype
        assert arrays[name].tobytes() == other_arrays[name].tobytes(), name


@pytest.mark.parametrize("size", [1, 7, 500, 1024])
def test_the_size_of_a_batch_never_changes_a_bit(model: ArrayModel, size: int) -> None:
    whole, parts = model, fresh_like(model)
    given = stream()
    features = given[0][:1500]

    assert learn(whole, given).tobytes() == learn(parts, given, size).tobytes()
    assert_same_state(whole, parts)
    scored = whole.score(features)
    for start in range(0, len(features), size):
        part = parts.score(features[start : start + size])
        assert part.scores.tobytes() == scored.scores[start : start + size].tobytes()
        assert part.contributions.tobytes() == scored.contributions[start : start + size].tobytes()
        assert part.bias == scored.bias


@pytest.mark.parametrize("learned", [0, 1, 40, 1024, ROWS])
def test_contributions_and_bias_add_up_to_the_log_odds(model: ArrayModel, learned: int) -> None:
    features, is_fraud, weights = stream()
    model.learn(features[:learned], is_fraud[:learned], weights[:learned])

    scored = model.score(np.vstack([features, odd_rows()]))

    log_odds = np.log(scored.scores) - np.log1p(-scored.scores)
    np.testing.assert_allclose(scored.contributions.sum(axis=1) + scored.bias, log_odds, atol=1e-9)


def odd_rows() -> NDArray[np.float32]:
    """Every odd value in every column, the others ordinary."""
    rows = []
    for value in ODD_VALUES:
        for column in range(len(NAMES)):
            row = np.array([20.0, 2.0, 0.0, 0.0, 7.0], dtype=np.float32)
            row[column] = value
            rows.append(row)
    return np.array(rows, dtype=np.float32)


def test_odd_values_give_scores_between_0_and_1(model: ArrayModel) -> None:
    learn(model, stream())

    scored = model.score(odd_rows())

    assert np.isfinite(scored.contributions).all()
    assert ((scored.scores > 0.0) & (scored.scores < 1.0)).all()


def test_odd_values_can_be_learned(model: ArrayModel) -> None:
    rows = np.tile(odd_rows(), (40, 1))
    is_fraud = (np.arange(len(rows)) % 3 == 0).astype(np.int8)

    scores = model.learn(rows, is_fraud, np.ones(len(rows)))

    assert ((scores > 0.0) & (scores < 1.0)).all()
    assert all(
        np.isfinite(array).all() for array in model.state()[1].values() if array.dtype == np.float64
    )


def test_scoring_changes_nothing(model: ArrayModel) -> None:
    given = stream()
    learn(model, given)
    before = pickle.dumps(model.state())
    features = given[0].copy()

    first, second = model.score(given[0]), model.score(given[0])

    assert first.scores.tobytes() == second.scores.tobytes()
    assert first.contributions.tobytes() == second.contributions.tobytes()
    assert pickle.dumps(model.state()) == before
    assert given[0].tobytes() == features.tobytes()


def test_learning_gives_the_scores_from_before(model: ArrayModel) -> None:
    features, is_fraud, weights = stream(200)

    scores = []
    for row in range(200):
        part = slice(row, row + 1)
        scores.append(model.score(features[part]).scores[0])
        given = model.learn(features[part], is_fraud[part], weights[part])
        assert given[0] == scores[-1]

    assert model.learned == 200


@pytest.mark.parametrize("cut", [0, 1, 31, 700, 1024, 2000])
def test_a_model_restored_in_mid_stream_goes_on_bit_for_bit(model: ArrayModel, cut: int) -> None:
    features, is_fraud, weights = stream()
    learn(model, (features[:cut], is_fraud[:cut], weights[:cut]), 97)
    restored = made_again(model, (features, is_fraud, weights))
    rest = features[cut:], is_fraud[cut:], weights[cut:]

    assert_same_state(model, restored)
    assert learn(model, rest).tobytes() == learn(restored, rest, 50).tobytes()
    assert_same_state(model, restored)


def test_a_state_is_a_copy(model: ArrayModel) -> None:
    given = stream(1500)
    learn(model, given)
    header, arrays = model.state()
    before = pickle.dumps((header, arrays))
    restored = type(model).from_state(header, arrays)

    learn(model, given)
    learn(restored, given)

    assert pickle.dumps((header, arrays)) == before


def test_nan_among_what_was_learned_is_refused(model: ArrayModel) -> None:
    learn(model, stream())
    header, arrays = model.state()
    learned = [name for name, array in arrays.items() if array.dtype == np.float64]

    assert learned
    for name in learned:
        broken = {**arrays, name: np.full_like(arrays[name], np.nan)}
        with pytest.raises(SnapshotError, match=f"state: {name} must be finite numbers"):
            type(model).from_state(header, broken)


def test_a_state_with_a_part_missing_is_refused(model: ArrayModel) -> None:
    header, arrays = model.state()

    for name in header:
        with pytest.raises(SnapshotError, match=f"state: {name} must be"):
            type(model).from_state({**header, name: None}, arrays)
    for name in arrays:
        rest = {other: array for other, array in arrays.items() if other != name}
        with pytest.raises(SnapshotError, match=f"state: {name} must be .*got none"):
            type(model).from_state(header, rest)


def as_dicts(features: NDArray[np.float32]) -> Iterator[dict[str, float]]:
    for row in features.tolist():
        # What is NaN in a row is missing from the dict.
        yield {name: value for name, value in zip(NAMES, row, strict=True) if not math.isnan(value)}


def test_rows_dicts_and_frames_are_learned_alike(model: ArrayModel) -> None:
    features, is_fraud, _ = stream(1100)
    by_dict, by_frame = fresh_like(model), fresh_like(model)
    frame, labels = pd.DataFrame(features, columns=list(NAMES)), pd.Series(is_fraud == 1)

    model.learn(features, is_fraud, np.ones(1100))
    for x, y in zip(as_dicts(features), labels, strict=True):
        by_dict.learn_one(x, y)
    by_frame.learn_many(frame[:300], labels[:300])
    by_frame.learn_many(frame[300:], labels[300:])

    assert_same_state(model, by_dict)
    assert_same_state(model, by_frame)
    scores = model.score(features).scores
    assert by_frame.predict_proba_many(frame)[True].to_numpy().tobytes() == scores.tobytes()
    assert [by_dict.predict_proba_one(x)[True] for x in as_dicts(features)] == scores.tolist()


def test_names_are_learned_alike_from_dicts_and_frames(model: ArrayModel) -> None:
    features, is_fraud, _ = stream(400)
    by_dict, by_frame = type(model)(), type(model)()
    for columns, rows in ((NAMES[:2], slice(150)), (NAMES, slice(150, 400))):
        frame = pd.DataFrame(features[rows], columns=list(NAMES))[list(columns)]
        labels = pd.Series(is_fraud[rows] == 1)
        for x, y in zip(frame.to_dict("records"), labels, strict=True):
            by_dict.learn_one({str(name): float(value) for name, value in x.items()}, y)
        by_frame.learn_many(frame, labels)

    assert by_dict.feature_names == ("amount", "count", "constant", "empty_at_times", "flag")
    assert_same_state(by_dict, by_frame)
    assert_same_state(by_dict, type(model).from_state(*by_dict.state()))


def test_an_empty_batch_is_fine(model: ArrayModel) -> None:
    learn(model, stream(50))

    assert model.score(np.empty((0, len(NAMES)), dtype=np.float32)).scores.shape == (0,)
    assert (
        model.learn(np.empty((0, len(NAMES)), np.float32), np.empty(0, np.int8), np.empty(0)).size
        == 0
    )
    model.learn_many(pd.DataFrame(columns=list(NAMES)), pd.Series(dtype=bool))
    assert model.learned == 50


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_only_moves_scores_towards_it(model: ArrayModel, label: int) -> None:
    features, _, weights = stream()
    before = model.score(features).scores.mean()

    learn(model, (features, np.full(ROWS, label, dtype=np.int8), weights))

    after = model.score(features).scores
    assert np.isfinite(after).all()
    assert (after.mean() > before) == (label == 1)


def test_the_model_learns(model: ArrayModel) -> None:
    features, is_fraud, weights = stream(6000)
    learn(model, (features, is_fraud, weights))
    held_out, truth, _ = stream(4000, seed=2)

    scores = model.score(held_out).scores

    assert scores[truth == 1].mean() > 3.0 * scores[truth == 0].mean()


def test_values_are_rounded_to_float32_first(model: ArrayModel) -> None:
    learn(model, stream())
    fine = {"amount": 60.123456789, "count": 2.0, "flag": 1.0}
    rounded = {**fine, "amount": float(np.float32(60.123456789))}

    assert model.predict_proba_one(fine) == model.predict_proba_one(rounded)
    assert model.predict_proba_one({**fine, "amount": 1e300})[True] > 0.0


@pytest.mark.parametrize(
    ("features", "is_fraud", "weights", "message"),
    [
        (np.zeros((2, 4)), [0, 1], [1.0, 1.0], r"features must be rows of 5 \(got \(2, 4\)\)"),
        (np.zeros((2, 5)), [0], [1.0, 1.0], "2 rows need as many labels and weights"),
        (np.zeros((2, 5)), [0, 2], [1.0, 1.0], "a label must be 0 or 1"),
        (np.zeros((2, 5)), [0, 1], [1.0, -1.0], "a weight must be from 0 to 1000000"),
        (np.zeros((2, 5)), [0, 1], [1.0, np.nan], "a weight must be from 0 to 1000000"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_learned(
    model: ArrayModel,
    features: NDArray[np.float64],
    is_fraud: list[int],
    weights: list[float],
    message: str,
) -> None:
    before = pickle.dumps(model.state())

    with pytest.raises(ValueError, match=message):
        model.learn(
            features.astype(np.float32), np.array(is_fraud, dtype=np.int8), np.array(weights)
        )

    assert pickle.dumps(model.state()) == before


def test_too_many_or_equal_names_are_refused(model: ArrayModel) -> None:
    with pytest.raises(ValueError, match="at most 1024 features"):
        make_model(model.name, tuple(f"f{place}" for place in range(FEATURES_MAX + 1)))
    with pytest.raises(ValueError, match="feature names must differ"):
        make_model(model.name, ("amount", "amount"))


def test_an_unknown_model_is_refused_with_those_known() -> None:
    with pytest.raises(
        SettingError, match=f"no model 'forest9': known are {', '.join(sorted(MODELS))}"
    ):
        make_model("forest9", NAMES)


def test_logistic_is_rivers_own_pipeline() -> None:
    rivers = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    ours = make_model("logistic", NAMES)
    features, is_fraud, weights = stream()

    for row, x in enumerate(as_dicts(features)):
        expected = rivers.predict_proba_one(x)[True]
        part = slice(row, row + 1)
        given = ours.learn(features[part], is_fraud[part], weights[part])[0]
        assert given == pytest.approx(expected, abs=1e-12)
        rivers.learn_one(x, bool(is_fraud[row]), w=float(weights[row]))

    assert isinstance(rivers, compose.Pipeline)


def test_logistic_scores_by_arrays_as_river_does_by_dicts() -> None:
    ours = Logistic(NAMES, rate=0.5)
    features, is_fraud, weights = stream()
    chance = np.random.default_rng(5)
    odd = chance.random(features.shape) < 0.05
    features[odd] = chance.choice(np.array(ODD_VALUES, np.float32), odd.sum())

    for row in range(len(features)):
        part = slice(row, row + 1)
        scored = ours.score(features[part])
        ours._hand_over()
        present = next(ours._present(features[part]))
        scaled, learned = ours._scaled(present), ours._regression.weights
        expected = limited(
            scored.scores.copy(),
            np.array([[learned[name] * scaled.get(name, 0.0) for name in NAMES]]),
            float(ours._regression.intercept),
        )
        assert scored.contributions.tobytes() == expected.contributions.tobytes()
        # River's own path: it scores what it learns.
        before = ours.learn(features[part], is_fraud[part], weights[part])
        assert scored.scores.tobytes() == before.tobytes()


# Checks of River that do not apply, by name, and why. None so far.
DOES_NOT_APPLY: dict[str, str] = {}


def river_checks() -> list[object]:
    return [
        pytest.param(name, check, id=f"{name}:{check.__name__}:{number}")
        for name in sorted(MODELS)
        for number, check in enumerate(checks.yield_checks(MODELS[name]()))
        if check.__name__ not in DOES_NOT_APPLY
    ]


@pytest.mark.parametrize(("name", "check"), river_checks())
def test_rivers_estimator_checks(name: str, check: Callable[[ArrayModel], None]) -> None:
    random.seed(7)  # the checks shuffle and drop features
    check(MODELS[name]())


def test_river_evaluates_it_as_any_classifier(model: ArrayModel) -> None:
    ours = MODELS[model.name]()
    right = 0
    for x, y in datasets.Phishing().take(1000):
        right += ours.predict_one(x) == y
        ours.learn_one(x, y)

    assert right > 700


def test_scores_stay_within_the_limit() -> None:
    assert score_of(1e9) == score_of(LOGIT_MAX) < 1.0
    assert score_of(-1e9) == score_of(-LOGIT_MAX) > 0.0
    assert math.isfinite(math.log(score_of(-1e9)))


@pytest.mark.parametrize("bias", [-40.0, -1.0, 0.0, 16.0])
@pytest.mark.parametrize("row", [[30.0, -2.0], [-30.0, 5.0], [0.5, 0.25], [0.0, 0.0]])
def test_limited_contributions_keep_sign_and_order(row: list[float], bias: float) -> None:
    logit = sum(row) + bias

    scored = limited(np.array([score_of(logit)]), np.array([row]), bias)

    held = min(LOGIT_MAX, max(-LOGIT_MAX, logit))
    given = scored.contributions[0].tolist()
    assert sum(given) + scored.bias == pytest.approx(held, abs=1e-12)
    assert all(before * after >= 0.0 for before, after in zip(row, given, strict=True))
    assert all(
        (one[0] - two[0]) * (one[1] - two[1]) >= 0.0
        for one, two in pairwise(zip(row, given, strict=True))
    )


def test_a_kernel_computes_what_its_source_does() -> None:
    for logit in (-20.0, -1.5, 0.0, 3.0, 99.0):
        assert score_of(logit) == pytest.approx(kernel_source(score_of)(logit), rel=1e-15)


def test_kernels_are_renewed_when_any_source_file_of_the_package_changes() -> None:
    # numba's own stamp is the time and size of one file.
    dispatchers: list[Any] = [score_of, learn_rows, encode]
    stamps = {compiled._cache._cache_file._source_stamp for compiled in dispatchers}

    assert len(stamps) == 1
    assert len(stamps.pop()) == 2 * hashlib.sha256().digest_size * 2
