"""How a model learned: by labels, and whether by heart."""

import numpy as np
import pytest

from models import make_model
from models.contract import Model
from pipeline.durations import DAY_MS
from pipeline.evaluation import log_losses
from pipeline.examples import Examples
from pipeline.quality.learning import STEPS, learning_curve
from pipeline.quality.overfitting import OverfittingGauge
from pipeline.quality.ranking import average_precision
from pipeline.replay import Learned, Replay, ReplayOptions
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS


def learned(model: Model, day: float, features: np.ndarray, is_fraud: np.ndarray) -> Learned:
    """Teach a model, and give what it was taught with what it said before."""
    count = len(is_fraud)
    said = model.scores(features)
    model.learn(features, is_fraud, np.ones(count))
    examples = Examples(
        transaction_id=[""] * count,
        keys=([""] * count,),
        features=features,
        is_fraud=is_fraud,
        weights=np.ones(count),
        amount=np.zeros(count, np.int64),
        event_time_ms=np.full(count, MONDAY_MS + int(day * DAY_MS)),
        corrects=np.zeros(count, np.bool_),
    )
    known_ms, source = examples.event_time_ms + DAY_MS, np.zeros(count, np.int8)
    return Learned(examples, known_ms, source, {"additive": said}, (model,))


def noise(seed: int, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(count, 40)).astype(np.float32)
    return features, (chance.random(count) < 0.3).astype(np.int8)


def test_what_is_learned_by_heart_shows_as_a_gap() -> None:
    # Labels that nothing explains: whatever the model knows of them, it knows by heart.
    model = make_model("additive", tuple(f"f{number}" for number in range(40)))
    gauge = OverfittingGauge()

    for day in range(8):
        gauge.add(learned(model, day, *noise(day)))

    [reading] = gauge.readings
    assert (reading.model, reading.examples) == ("additive", 400)
    assert reading.event_time_ms == MONDAY_MS + 7 * DAY_MS
    assert reading.gap > 0.1


def test_the_losses_are_those_of_the_same_examples_before_and_after() -> None:
    model = make_model("additive", tuple(f"f{number}" for number in range(40)))
    gauge = OverfittingGauge()
    parts = [learned(model, day, *noise(day)) for day in range(3)]
    for part in parts:
        gauge.add(part)

    gauge.read()
    gauge.read()

    [reading] = gauge.readings
    is_fraud = np.concatenate([part.examples.is_fraud for part in parts]) == 1
    before = np.concatenate([part.scores["additive"] for part in parts])
    after = model.scores(np.concatenate([part.examples.features for part in parts]))
    assert reading.prequential_log_loss == log_losses(before, is_fraud).mean()
    assert reading.train_log_loss == log_losses(after, is_fraud).mean()
    assert reading.frauds == is_fraud.sum()


def test_the_gauge_forgets_the_oldest() -> None:
    model = make_model("additive", tuple(f"f{number}" for number in range(40)))
    gauge = OverfittingGauge(limit=100)

    for day in range(30):
        gauge.add(learned(model, day, *noise(day)))

    assert [reading.examples for reading in gauge.readings] == [100] * 4
    assert len(gauge.recent_features) == 100
    assert OverfittingGauge().recent_features.shape == (0, 0)


def test_a_run_has_a_reading_each_week_and_changes_by_none() -> None:
    world = SimulatorOptions(customers=120, terminals=120, days=25, seed=5)
    batches = [(batch.transactions(), batch.is_fraud) for batch in simulate(world)]
    settings = Settings(challengers="logistic")
    gauge = OverfittingGauge()

    run = Replay(CARD, settings, ReplayOptions(DAY_MS), learned=gauge.add)
    watched = run.run(batches, lambda result: None)
    alone = Replay(CARD, settings, ReplayOptions(DAY_MS)).run(batches, lambda result: None)

    assert watched.quality == alone.quality
    assert [reading.model for reading in gauge.readings] == ["additive", "logistic"] * 3
    assert all(reading.train_log_loss < 1.0 for reading in gauge.readings)


def test_the_curve_is_cut_where_labels_reach_a_step() -> None:
    chance = np.random.default_rng(6)
    scores = chance.random(4000)
    is_fraud = chance.random(4000) < scores
    known = np.sort(chance.integers(0, 3000, 4000))

    found = list(learning_curve("m", scores, is_fraud, known))

    assert [step.labels_from for step in found] == [0, 100, 200, 500, 1000, 2000]
    assert sum(step.events for step in found) == 4000
    inside = (known >= 500) & (known < 1000)
    third = found[3]
    assert third.average_precision == average_precision(scores[inside], is_fraud[inside])
    assert third.log_loss == pytest.approx(log_losses(scores[inside], is_fraud[inside]).mean())
    assert third.labels_mean == known[inside].mean()


def test_steps_grow_and_reach_any_stream() -> None:
    assert list(STEPS) == sorted(STEPS)
    assert STEPS[-1] >= 100_000_000
