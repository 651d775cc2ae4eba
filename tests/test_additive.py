"""The additive model against a plain Python one, and what it is for: curves, bins, rare frauds."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from models import Additive, ArrayModel, Logistic
from models.additive import CUT_DISTANCE_MAX, FIRST_CUT, SAMPLE_SIZE, next_cut
from models.bins import BINS, EDGES, MISSING_BIN, VALUE_BINS, edges_of, encode, no_edges
from models.sampling import Sample

Stream = tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]


class PlainAdditive:
    """FTRL-proximal as in the paper, one event and one coordinate at a time, in a dict."""

    def __init__(self, model: Additive) -> None:
        self.alpha = model.alpha / math.sqrt(len(model.feature_names))
        self.beta, self.l1, self.l2 = model.beta, model.l1, model.l2
        self.prior_logit = math.log(model.prior / (1.0 - model.prior))
        self.edges = model.state()[1]["edges"]
        self.z: dict[tuple[int, int], float] = {}
        self.n: dict[tuple[int, int], float] = {}

    def coordinates(self, row: list[float]) -> list[tuple[int, int]]:
        places = [(-1, 0)]
        for column, value in enumerate(row):
            edges = self.edges[column].tolist()
            above = sum(edge <= value for edge in edges if not math.isinf(edge))
            places.append((column, MISSING_BIN if math.isnan(value) else above))
        return places

    def weight(self, place: tuple[int, int]) -> float:
        z, n = self.z.get(place, 0.0), self.n.get(place, 0.0)
        if abs(z) <= self.l1:
            return 0.0
        return -(z - math.copysign(self.l1, z)) / (
            (self.beta + math.sqrt(n)) / self.alpha + self.l2
        )

    def score(self, row: list[float]) -> float:
        logit = self.prior_logit + sum(self.weight(place) for place in self.coordinates(row))
        return 1.0 / (1.0 + math.exp(-max(-15.0, min(15.0, logit))))

    def learn(self, row: list[float], is_fraud: int, weight: float) -> float:
        score = self.score(row)
        gradient = weight * (score - is_fraud)
        for place in self.coordinates(row):
            z, n, w = self.z.get(place, 0.0), self.n.get(place, 0.0), self.weight(place)
            sigma = (math.sqrt(n + gradient**2) - math.sqrt(n)) / self.alpha
            self.z[place] = z + gradient - sigma * w
            self.n[place] = n + gradient**2
        return score


def curved_stream(rows: int, seed: int) -> Stream:
    """About 1 % frauds, where the middle of one feature meets the rim of another or a gap."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(rows, 6)).astype(np.float32)
    features[chance.random((rows, 6)) < 0.05] = np.nan
    middle = np.abs(features[:, 0]) < 0.3
    rim = np.abs(features[:, 1]) > 1.8
    logits = -7.0 + 3.0 * middle + 3.0 * rim + 3.0 * np.isnan(features[:, 2])
    is_fraud = chance.random(rows) < 1.0 / (1.0 + np.exp(-logits))
    return features, is_fraud.astype(np.int8), chance.choice([0.5, 1.0, 2.0], rows)


def names(columns: int) -> tuple[str, ...]:
    return tuple(f"f{column}" for column in range(columns))


def test_about_one_in_a_hundred_of_the_stream_is_fraud() -> None:
    assert 0.005 < curved_stream(20_000, seed=1)[1].mean() < 0.03


@pytest.mark.parametrize("l1", [0.0, 0.02])
def test_it_is_the_plain_arithmetic_event_by_event(l1: float) -> None:
    model = Additive(names(6), l1=l1)
    features, is_fraud, weights = curved_stream(1900, seed=2)
    first, rest = slice(SAMPLE_SIZE), slice(SAMPLE_SIZE, None)
    model.learn(features[first], is_fraud[first], weights[first])
    plain = PlainAdditive(model)

    # At the last cut within the sample, all was learned again with the edges of that cut.
    for row in range(SAMPLE_SIZE):
        plain.learn(features[row].tolist(), int(is_fraud[row]), float(weights[row]))
    scores = model.learn(features[rest], is_fraud[rest], weights[rest])
    expected = [
        plain.learn(features[row].tolist(), int(is_fraud[row]), float(weights[row]))
        for row in range(SAMPLE_SIZE, 1900)
    ]

    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert len(np.unique(scores)) > 500


def precision(model: ArrayModel, stream: Stream) -> float:
    return float(average_precision_score(stream[1], model.score(stream[0]).scores))


def test_it_finds_curves_that_a_straight_line_cannot() -> None:
    stream, held_out = curved_stream(20_000, seed=3), curved_stream(20_000, seed=4)
    models = Additive(names(6)), Logistic(names(6))
    for model in models:
        model.learn(*stream)

    additive, logistic = (precision(model, held_out) for model in models)

    assert additive > logistic + 0.2


def test_it_is_calibrated_with_one_fraud_in_a_thousand() -> None:
    model = Additive(names(2))
    chance = np.random.default_rng(5)
    features = chance.normal(size=(300_000, 2)).astype(np.float32)
    rates = np.where(features[:, 0] > 1.5, 0.012, 0.0003)
    is_fraud = (chance.random(300_000) < rates).astype(np.int8)

    scores = model.learn(features, is_fraud, np.ones(300_000))[150_000:]

    high = features[150_000:, 0] > 1.5
    assert scores.mean() == pytest.approx(rates[150_000:].mean(), rel=0.2)
    assert scores[high].mean() == pytest.approx(0.012, rel=0.3)
    assert scores[~high].mean() < 0.0008


@pytest.mark.parametrize("cut", [2048, 8192, CUT_DISTANCE_MAX])
def test_cutting_bins_anew_does_not_forget(cut: int) -> None:
    model, held_out = Additive(names(6)), curved_stream(20_000, seed=6)
    features, is_fraud, weights = curved_stream(cut, seed=7)
    model.learn(features[:-1], is_fraud[:-1], weights[:-1])
    before, edges = precision(model, held_out), model.state()[1]["edges"]
    mean_before = model.score(held_out[0]).scores.mean()

    model.learn(features[-1:], is_fraud[-1:], weights[-1:])

    assert not np.array_equal(edges, model.state()[1]["edges"])
    assert precision(model, held_out) > before - 0.03
    assert model.score(held_out[0]).scores.mean() == pytest.approx(mean_before, rel=0.1)
    counts = model.state()[1]["cells"][:, 3]
    assert counts[1:].sum() == pytest.approx(6 * cut, rel=1e-9)


def test_a_feature_that_fills_up_late_gets_bins_of_its_own() -> None:
    model = Additive(("habit", "noise"))
    chance = np.random.default_rng(8)
    features = chance.normal(size=(20_000, 2)).astype(np.float32)
    features[:3000, 0] = np.nan
    is_fraud = (np.abs(features[:, 0]) > 2.2).astype(np.int8)

    model.learn(features, is_fraud, np.ones(20_000))

    probe = np.array([[2.6, 0.0], [0.0, 0.0], [-2.6, 0.0], [np.nan, 0.0]], dtype=np.float32)
    high, low, negative, missing = model.score(probe).scores
    assert min(high, negative) > 0.5
    assert max(low, missing) < 0.02


def test_contributions_say_what_is_more_than_usual() -> None:
    model = Additive(("flag", "constant"))
    flags = np.tile(np.array([1.0] + [0.0] * 9, dtype=np.float32), 300)
    features = np.column_stack([flags, np.full(3000, 5.0, dtype=np.float32)])
    model.learn(features, (flags == 1.0).astype(np.int8), np.ones(3000))

    scored = model.score(features)

    # What is the same for all explains nothing, and over the examples all is as usual.
    np.testing.assert_allclose(scored.contributions[:, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(scored.contributions.mean(axis=0), 0.0, atol=1e-9)
    assert scored.contributions[1, 0] < 0.0
    assert scored.contributions[0, 0] > 2.0


def test_l1_keeps_what_says_nothing_at_exactly_zero() -> None:
    features, is_fraud, weights = curved_stream(4000, seed=9)
    sparse, dense = Additive(names(6), l1=1.5), Additive(names(6))
    for model in (sparse, dense):
        model.learn(features, is_fraud, weights)

    zeros = [(model.state()[1]["cells"][:, 2] == 0.0).mean() for model in (sparse, dense)]

    assert zeros[0] > 0.5 > zeros[1]


def test_a_stronger_l2_gives_smaller_weights() -> None:
    stream = curved_stream(4000, seed=10)
    weak, strong = Additive(names(6), l2=0.1), Additive(names(6), l2=30.0)
    for model in (weak, strong):
        model.learn(*stream)

    sizes = [np.abs(model.state()[1]["cells"][:, 2]).max() for model in (weak, strong)]

    assert sizes[1] < sizes[0] / 1.5


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0.0}, {"beta": math.nan}, {"l1": -1.0}, {"l2": 1e9}, {"prior": 1.0}]
)
def test_rates_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="alpha and beta must be"):
        Additive(names(2), **wrong)


def crossed_stream(rows: int, seed: int) -> Stream:
    """Frauds where two features agree in sign, of which neither says anything alone."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(rows, 8)).astype(np.float32)
    agree = features[:, 2] * features[:, 5] > 0.0
    is_fraud = chance.random(rows) < np.where(agree, 0.06, 0.002)
    return features, is_fraud.astype(np.int8), np.ones(rows)


def test_a_pair_that_says_what_neither_feature_says_is_found() -> None:
    model, held_out = Additive(names(8)), crossed_stream(20_000, seed=16)
    model.learn(*crossed_stream(40_000, seed=15))

    assert [2, 5] in model.state()[1]["pairs"].tolist()
    assert precision(model, held_out) > 1.5 * held_out[1].mean()


def test_a_pair_counts_half_towards_each_of_its_features() -> None:
    model = Additive(names(8))
    model.learn(*crossed_stream(40_000, seed=15))
    rows = np.zeros((2, 8), dtype=np.float32)
    rows[:, 2], rows[:, 5] = 1.5, (1.5, -1.5)

    agree, differ = model.score(rows).contributions

    assert agree[2] > differ[2] + 0.2
    assert agree[5] > differ[5] + 0.2
    assert np.delete(agree, [2, 5]) == pytest.approx(np.delete(differ, [2, 5]))


def test_its_strongest_weights_say_where_they_lie() -> None:
    model = Additive(names(8))
    model.learn(*crossed_stream(40_000, seed=15))

    weights = model.weights(2000)

    sizes = [abs(weight) for _, weight in weights]
    assert sizes == sorted(sizes, reverse=True)
    assert any(name.startswith("f2 ") and ", f5 " in name for name, _ in weights)
    assert any(name.startswith("f2 below ") and "," not in name for name, _ in weights)


def test_no_pairs_are_found_where_there_are_none() -> None:
    model = Additive(names(6))
    model.learn(*curved_stream(140_000, seed=17))

    assert len(model.state()[1]["pairs"]) <= 1


def drifting(rows: int, seed: int, *, sign: float) -> Stream:
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(rows, 3)).astype(np.float32)
    logits = -4.0 + sign * 2.0 * features[:, 0]
    is_fraud = chance.random(rows) < 1.0 / (1.0 + np.exp(-logits))
    return features, is_fraud.astype(np.int8), np.ones(rows)


def test_a_model_that_forgets_follows_a_stream_that_turns() -> None:
    keeping, forgetting = Additive(names(3)), Additive(names(3), decay_days=5.0)
    for day in range(60):
        part = drifting(1000, seed=day, sign=1.0 if day < 50 else -1.0)
        for model in (keeping, forgetting):
            model.tick(24 * (20_000 + day))
            model.learn(*part)
    after = drifting(20_000, seed=99, sign=-1.0)

    assert precision(forgetting, after) > precision(keeping, after) + 0.02


def test_an_hour_that_is_over_changes_nothing() -> None:
    model = Additive(names(3), decay_days=5.0)
    model.learn(*drifting(500, seed=1, sign=1.0))
    model.tick(24 * 20_000)
    before = model.state()[1]["cells"]
    for hour in (24 * 19_000, 24 * 20_000, 24 * 20_000 + 23):
        model.tick(hour)

    np.testing.assert_array_equal(model.state()[1]["cells"], before)


def test_forgetting_keeps_every_weight() -> None:
    model = Additive(names(3), decay_days=5.0, l1=0.5)
    model.learn(*drifting(3000, seed=1, sign=1.0))
    model.tick(24 * 20_000)
    before = model.state()[1]["cells"]
    model.tick(24 * 20_001)
    after = model.state()[1]["cells"]

    np.testing.assert_array_equal(after[:, 2], before[:, 2])
    np.testing.assert_allclose(after[:, 1], before[:, 1] * 0.5**0.2)


def test_its_state_stays_within_a_few_hundred_kilobytes() -> None:
    model = Additive(names(50))
    chance = np.random.default_rng(11)
    features = chance.normal(size=(5000, 50)).astype(np.float32)
    model.learn(features, (features[:, 0] > 0.0).astype(np.int8), np.ones(5000))

    assert sum(array.nbytes for array in model.state()[1].values()) < 600_000


def test_bins_are_cut_at_doublings_and_then_at_a_fixed_distance() -> None:
    cuts = [next_cut(0)]
    while cuts[-1] < 3 * CUT_DISTANCE_MAX:
        cuts.append(next_cut(cuts[-1]))

    assert cuts[:3] == [FIRST_CUT, 2 * FIRST_CUT, 4 * FIRST_CUT]
    assert [cut // CUT_DISTANCE_MAX for cut in cuts[-4:]] == [0, 1, 2, 3]


def no_frauds(values: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.zeros(len(values), dtype=np.int8)


def used(edges: NDArray[np.float32]) -> list[float]:
    return [edge for edge in edges.tolist() if not math.isinf(edge)]


def test_few_values_get_a_bin_each() -> None:
    values = np.array([3.0, 1.0, 1.0, np.nan, 2.0, -5.0, np.inf], dtype=np.float32)

    assert used(edges_of(values, no_frauds(values)))[:3] == [-2.0, 1.5, 2.5]
    assert len(used(edges_of(values, no_frauds(values)))) == 4


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [7.0, 7.0]])
def test_nothing_to_tell_apart_gives_one_bin(values: list[float]) -> None:
    given = np.array(values, dtype=np.float32)

    assert used(edges_of(given, no_frauds(given))) == []


def test_a_common_value_has_its_bin_and_the_rest_the_others() -> None:
    chance = np.random.default_rng(12)
    values = np.where(chance.random(4000) < 0.9, 0.0, chance.exponential(size=4000))
    values = values.astype(np.float32)

    edges = edges_of(values, no_frauds(values), splits=0)
    counts = np.bincount(encode(values[:, None], edges[None, :])[:, 0] - 1, minlength=BINS)

    assert np.all(np.diff(used(edges)) > 0.0)
    assert counts[0] == (values == 0.0).sum()
    assert (counts > 0).sum() > VALUE_BINS - 3
    # Bins in the tails hold fewer values than those in the middle.
    assert counts[1] < counts[12] / 3
    assert counts[counts > 0][-1] < counts[12] / 3


def test_splits_lie_where_the_share_of_frauds_changes() -> None:
    chance = np.random.default_rng(13)
    values = chance.normal(size=3000).astype(np.float32)
    is_fraud = ((values > 0.7) & (values < 0.9)).astype(np.int8)

    without, with_splits = (
        used(edges_of(values, is_fraud, bins=8, splits=splits)) for splits in (0, 3)
    )

    def nearest(edges: list[float], place: float) -> float:
        return min(abs(edge - place) for edge in edges)

    for place in (0.7, 0.9):
        assert nearest(with_splits, place) < 0.01 < nearest(without, place)


def test_splits_that_tell_nothing_are_not_made() -> None:
    values = np.random.default_rng(14).normal(size=3000).astype(np.float32)

    assert len(used(edges_of(values, no_frauds(values), bins=24, splits=10))) == 13


def test_neighbouring_floats_and_extremes_are_told_apart() -> None:
    one = np.float32(1.0)
    values = np.array([one, np.nextafter(one, np.float32(2.0)), 3.4e38, -3.4e38], dtype=np.float32)
    given = np.tile(values, 9)
    edges = edges_of(given, no_frauds(given))

    places = encode(values[:, None], edges[None, :])[:, 0].tolist()

    assert places == [2, 3, 4, 1]


def test_infinite_values_fall_into_the_outer_bins() -> None:
    ten = np.arange(10, dtype=np.float32)
    edges = edges_of(ten, no_frauds(ten))
    values = np.array([[-np.inf], [np.inf], [1e30], [np.nan]], dtype=np.float32)

    assert encode(values, edges[None, :])[:, 0].tolist() == [1, 10, 10, 1 + MISSING_BIN]
    assert encode(values, no_edges(1))[:, 0].tolist() == [1, 1, 1, 1 + MISSING_BIN]


def test_a_sample_is_fair_then_follows_the_stream() -> None:
    fair, following = Sample(1, 400, 1 << 30), Sample(1, 400, 2000)
    rows = np.arange(20_000, dtype=np.float32)[:, None]
    for sample in (fair, following):
        sample.add(rows, np.zeros(20_000, dtype=np.int8), np.ones(20_000))

    assert fair.rows.mean() == pytest.approx(10_000, rel=0.1)
    assert following.rows.mean() > 16_000


def test_a_bin_is_how_many_edges_are_not_above_the_value() -> None:
    chance = np.random.default_rng(61)
    edges = np.sort(chance.normal(size=(80, EDGES)).astype(np.float32), axis=1)
    for column in range(60):
        edges[column, column % (EDGES + 1) :] = np.inf
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.float32(3.4e38), np.float32(1e-45)]
    values = np.vstack([edges.T, np.nextafter(edges.T, -np.inf), *([[v] * 80] for v in odd)])
    values = np.vstack([values, chance.normal(size=(400, 80))]).astype(np.float32)

    found = encode(values, edges) - 1 - np.arange(80) * BINS

    held = np.minimum(values, np.finfo(np.float32).max)
    for column in range(80):
        expected = np.searchsorted(edges[column], held[:, column], side="right")
        expected[np.isnan(values[:, column])] = MISSING_BIN
        assert found[:, column].tolist() == expected.tolist()


def test_what_is_kept_for_scoring_is_never_older_than_the_model() -> None:
    model = Additive(decay_days=2.0)
    frame = pd.DataFrame(curved_stream(6_000, seed=62)[0], columns=list(names(6)))
    is_fraud = curved_stream(6_000, seed=62)[1]

    def check() -> None:
        features = frame[list(model.feature_names)].to_numpy(np.float32)[:200]
        scored = model.score(features)
        again = Additive.from_state(*model.state()).score(features)
        assert scored.scores.tobytes() == again.scores.tobytes() == model.scores(features).tobytes()
        assert scored.contributions.tobytes() == again.contributions.tobytes()
        assert scored.bias == again.bias

    for step, (start, columns) in enumerate(((0, 2), (40, 2), (100, 4), (1_000, 6), (5_900, 6))):
        stop = start + 60 if start < 1_000 else start + 4_900
        part = slice(start, min(stop, 6_000))
        model.learn_many(frame.iloc[part, :columns], pd.Series(is_fraud[part]))
        check()
        model.tick(24 * (step + 1))
        check()
    assert model.weights(10)
