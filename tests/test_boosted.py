"""Boosted trees: LightGBM's own scores, fits at the log's times alone, windows that come back."""

from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from models import Boosted
from models.contract import Scored
from models.refit import Growth, Refit, finite_or_nan
from models.snapshot import decode, encode
from models.trees import MISSING_KIND, MISSING_NAN, MISSING_ZERO, Trees
from models.window import Examples, Window
from pipeline.errors import SnapshotError

Stream = tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]

NAMES = ("amount", "count", "rare", "empty")
SMALL: dict[str, Any] = {"refit_examples_max": 4_000, "boosted_trees": 20}


def stream(rows: int, seed: int = 1) -> Stream:
    """Values with ties, zeros, NaN and infinities; frauds depend on three of the columns."""
    chance = np.random.default_rng(seed)
    amount = chance.lognormal(3.0, 1.0, rows)
    count = chance.poisson(1.0, rows).astype(np.float64)
    rare = np.where(chance.random(rows) < 0.9, 0.0, chance.normal(size=rows))
    empty = np.where(chance.random(rows) < 0.4, np.nan, chance.normal(size=rows))
    logits = -4.0 + 3.0 * (amount > 50.0) + 2.0 * (rare > 0.5) + 2.0 * np.isnan(empty) * count
    is_fraud = chance.random(rows) < 1.0 / (1.0 + np.exp(-logits))
    odd = chance.integers(0, rows, size=(6, 4))
    features = np.column_stack([amount, count, rare, empty])
    values = (np.nan, np.inf, -np.inf, 1e-38, -1e-38, 3e38)
    for value, places in zip(values, odd, strict=True):
        features[places, np.arange(4)] = value
    weights = chance.choice([0.5, 1.0, 2.0], rows)
    return features.astype(np.float32), is_fraud.astype(np.int8), weights


def learn_hours(model: Boosted, given: Stream, first: int, last: int, a_hour: int = 20) -> None:
    """Learn some examples, so many in an hour."""
    for start in range(first, last, a_hour):
        model.tick(1_000 + start // a_hour)
        model.learn(*(column[start : min(last, start + a_hour)] for column in given))


def bytes_of(model: Boosted) -> bytes:
    return encode(model, version="boosted@1", training_offset=1, schema_hash="h")


def made_again(model: Boosted, given: Stream) -> Boosted:
    restored = decode(bytes_of(model)).model
    assert isinstance(restored, Boosted)
    restored.remember(*(part[restored.window_start : model.learned] for part in given))
    return restored


@pytest.mark.parametrize(
    ("missing", "kinds"),
    [
        ({}, {MISSING_NAN}),
        ({"zero_as_missing": True}, {MISSING_ZERO}),
        ({"use_missing": False}, {0}),
    ],
    ids=["nan", "zero", "none"],
)
def test_scores_are_lightgbms_own(missing: dict[str, object], kinds: set[int]) -> None:
    features, is_fraud, weights = stream(5_000)
    parameters = {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1}
    data = lightgbm.Dataset(finite_or_nan(features), is_fraud, weight=weights)
    booster = lightgbm.train({**parameters, **missing}, data, 60)
    forest = Trees.of([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])
    rows = np.vstack([features, np.full((1, 4), np.nan, np.float32), np.zeros((1, 4), np.float32)])

    ours = forest.logits(rows)

    theirs = booster.predict(rows.astype(np.float64), raw_score=True)
    np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-12)
    explained = forest.explained(rows).sum(axis=1) + forest.bias
    np.testing.assert_allclose(explained, ours, rtol=0.0, atol=1e-9)
    assert set((forest.flags[forest.features >= 0] & MISSING_KIND).tolist()) == kinds


def test_a_split_between_two_float32_neighbours_holds() -> None:
    low = np.float32(0.1)
    high = np.nextafter(low, np.float32(1.0))
    rows = np.repeat(np.array([[low], [high]], dtype=np.float32), 200, axis=0)
    is_fraud = (rows[:, 0] == high).astype(np.int8)

    forest = Refit(Examples(rows, is_fraud, np.ones(400)), Growth(trees=5)).trees()

    assert set(forest.logits(rows[:200])) != set(forest.logits(rows[200:]))


def test_trees_whose_walk_would_not_end_is_refused() -> None:
    features, is_fraud, weights = stream(2_000)
    forest = Refit(Examples(features, is_fraud, weights), Growth(trees=3)).trees()
    arrays = forest.arrays()
    inner = int(np.flatnonzero(forest.features >= 0)[0])

    assert Trees.restored(arrays, 4).logits(features).tolist() == forest.logits(features).tolist()
    for name, value, message in (
        ("tree_rights", inner, "tree_rights must lie behind the left child"),
        ("tree_rights", 1 << 30, "tree_rights must lie behind the left child"),
        ("tree_features", 4, "tree_features must be columns from 0 to 3"),
        ("tree_features", -2, "tree_features must be columns"),
        ("tree_flags", 9, "tree_flags must be from 0 to 6"),
    ):
        broken = {**arrays, name: arrays[name].copy()}
        broken[name][inner] = value
        with pytest.raises(SnapshotError, match=message):
            Trees.restored(broken, 4)
    with pytest.raises(SnapshotError, match="tree_roots must ascend from 0"):
        Trees.restored({**arrays, "tree_roots": arrays["tree_roots"][::-1].copy()}, 4)


def test_a_fit_comes_into_force_an_hour_later_and_not_sooner() -> None:
    given = stream(2_000)
    model = Boosted(NAMES, **SMALL)
    hour = 0
    while model._pending is None:
        hour += 1
        learn_hours(model, given, 20 * hour, 20 * hour + 20)
    begun = model.knows_something
    model.learn(*(column[:400] for column in given))
    still = model.knows_something
    model.tick(1_001 + hour)

    assert (begun, still, model.knows_something) == (False, False, True)


def test_how_fast_a_fit_is_changes_nothing() -> None:
    given = stream(3_000)
    hasty, patient = Boosted(NAMES, **SMALL), Boosted(NAMES, **SMALL)
    learn_hours(hasty, given, 0, 3_000)
    for start in range(0, 3_000, 20):
        learn_hours(patient, given, start, start + 20)
        if patient._refit is not None:
            patient._refit.trees()

    assert bytes_of(hasty) == bytes_of(patient)


@pytest.mark.parametrize("cut", range(0, 3_000, 170))
def test_made_again_anywhere_it_gives_the_same_bytes(cut: int) -> None:
    """Between fits, while one is pending, before and after the window was thinned."""
    given = stream(6_000)
    whole = Boosted(
        NAMES, refit_days=2.0, refit_window_days=3.0, **{**SMALL, "refit_examples_max": 1_000}
    )
    learn_hours(whole, given, 0, cut)
    parts = made_again(whole, given)
    before = bytes_of(whole)

    assert bytes_of(parts) == before
    learn_hours(whole, given, cut, 6_000)
    learn_hours(parts, given, cut, 6_000)
    assert bytes_of(parts) == bytes_of(whole)
    assert whole._window.levels > (0, 0)


def test_made_again_at_every_hour_while_fits_are_pending() -> None:
    given = stream(1_200)
    whole, parts = Boosted(NAMES, **SMALL), Boosted(NAMES, **SMALL)
    pending = 0
    for start in range(0, 1_200, 20):
        learn_hours(whole, given, start, start + 20)
        learn_hours(parts, given, start, start + 20)
        pending += parts._pending is not None
        parts = made_again(parts, given)

    assert pending >= 3
    assert bytes_of(parts) == bytes_of(whole)


def test_without_its_window_it_goes_on_with_what_comes() -> None:
    given = stream(4_000)
    model = Boosted(NAMES, **SMALL)
    learn_hours(model, given, 0, 1_000)
    forgetful = Boosted.from_state(*model.state())

    learn_hours(forgetful, given, 1_000, 4_000)

    assert forgetful.learned == 4_000
    assert forgetful.knows_something


def test_days_leave_the_window() -> None:
    given = stream(6_000)
    model = Boosted(NAMES, refit_days=1.0, refit_window_days=2.0, **SMALL)
    learn_hours(model, given, 0, 6_000)

    # 480 examples a day: two whole days and the one that is not over.
    assert 2 * 480 <= len(model._window) <= 3 * 480
    assert model.window_start == 6_000 - len(model._window)


def test_the_state_is_small() -> None:
    given = stream(20_000)
    model = Boosted(NAMES)
    learn_hours(model, given, 0, 20_000)

    assert len(model._trees) == 200
    assert len(bytes_of(model)) < 300_000


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_thinned_window_stands_for_all(size: int) -> None:
    features, is_fraud, weights = stream(9_000)
    window = Window(columns=4, examples_max=1_000)
    for start in range(0, 9_000, size):
        part = slice(start, start + size)
        window.add(features[part], is_fraud[part], weights[part])

    taken = window.copy()

    assert len(window) <= 1_000
    for verdict in (0, 1):
        stands_for = taken.weights[taken.is_fraud == verdict].sum()
        assert stands_for == pytest.approx(weights[is_fraud == verdict].sum(), rel=0.15)
    whole = Window(columns=4, examples_max=1_000)
    whole.add(features, is_fraud, weights)
    assert whole.copy().weights.tobytes() == taken.weights.tobytes()
    assert whole.copy().rows.tobytes() == taken.rows.tobytes()


def test_the_usual_event_is_explained_by_the_bias_alone() -> None:
    model = Boosted(NAMES)
    scored: Scored = model.score(stream(3)[0])

    assert scored.scores.tolist() == pytest.approx([0.01] * 3)
    assert not scored.contributions.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"refit_days": 0.5},
        {"refit_window_days": 3.0},
        {"refit_examples_max": 10},
        {"boosted_trees": 0},
        {"boosted_leaves": 1},
        {"boosted_rate": 0.0},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Boosted(NAMES, **wrong)  # type: ignore[arg-type]
