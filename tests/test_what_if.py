"""What other thresholds would have done, against the run that had them."""

import numpy as np
import pytest

from pipeline.durations import DAY_MS
from pipeline.errors import SettingError
from pipeline.quality.what_if import SWEEP_RATES, Thresholds, sweep, what_if
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD


def test_the_answer_is_what_the_policy_would_have_done() -> None:
    world = SimulatorOptions(customers=150, terminals=150, days=20, seed=2)
    batches = [(batch.transactions(), batch.is_fraud) for batch in simulate(world)]
    settings = {"challengers": "none", "maturity_days": 1000.0}
    asked = Settings(review_score_min=0.05, decline_score_min=0.4, **settings)  # type: ignore[arg-type]
    run = Replay(CARD, Settings(**settings), ReplayOptions(DAY_MS))  # type: ignore[arg-type]
    run.run(batches, lambda result: None)
    log = run.scores.columns()
    assert log is not None
    wanted = Replay(CARD, asked, ReplayOptions(DAY_MS)).run(batches, lambda result: None)

    told = what_if(
        log.scores["additive"], log.is_fraud == 1, log.amount_minor, days=20.0,
        review_score_min=0.05, decline_score_min=0.4,
    )  # fmt: skip

    assert (told.reviewed, told.declined) == (wanted.actions["review"], wanted.actions["decline"])
    assert told.alerts_a_day == told.reviewed / 20.0
    assert told.frauds_declined + told.frauds_reviewed + told.frauds_missed == told.frauds
    assert told.frauds_reviewed + told.genuine_reviewed == told.reviewed
    assert told.frauds_declined + told.genuine_declined == told.declined > 0
    fraud_money = int(log.amount_minor[log.is_fraud == 1].sum())
    assert told.caught_minor + told.missed_minor == fraud_money


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0.3", Thresholds(0.3, 0.7)), ("0.2:0.6", Thresholds(0.2, 0.6)), ("1:1", Thresholds(1, 1))],
)
def test_thresholds_are_read(text: str, wanted: Thresholds) -> None:
    assert Thresholds.parsed(text, decline_score_min=0.7) == wanted


@pytest.mark.parametrize("text", ["", "x", "0.2:", "0.2:y", "0", "0.8", "0.5:0.4", "0.5:2", "nan"])
def test_thresholds_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--what-if"):
        Thresholds.parsed(text, decline_score_min=0.7)


def test_a_sweep_stops_more_and_more() -> None:
    scores = np.random.default_rng(3).beta(0.3, 6.0, 20_000)

    found = list(sweep(scores, decline_score_min=0.5))

    stopped = [(scores >= item.review_score_min).mean() for item in found]
    assert stopped == pytest.approx(list(SWEEP_RATES), abs=1e-3)
    assert all(item.review_score_min <= item.decline_score_min for item in found)
    assert {item.decline_score_min for item in found if item.review_score_min < 0.5} == {0.5}
    assert list(sweep(np.zeros(0), decline_score_min=0.5)) == []
