"""Prequential folds: who learns what, who tests it, and that one fold is the run itself."""

import numpy as np
import pytest
from scipy.stats import poisson

from models import make_model
from pipeline.durations import DAY_MS
from pipeline.evaluation import evaluate
from pipeline.features import FeatureKernel
from pipeline.quality.folds import SCHEMES, Folds, Scheme, fold_number, memberships
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD

IDS = [f"t-{number}" for number in range(20_000)]
SETTINGS = Settings(challengers="none")
DELAY = ReplayOptions(DAY_MS)


@pytest.fixture(scope="module")
def simulated() -> list[Labelled]:
    options = SimulatorOptions(customers=250, terminals=250, days=25, seed=4)
    return [(batch.transactions(), batch.is_fraud) for batch in simulate(options)]


def folds_of(count: int, scheme: Scheme, seed: int = 7) -> Folds:
    kernel = FeatureKernel(CARD)
    models = [[make_model("additive", kernel.names)] for _ in range(count)]
    return Folds(CARD, kernel.schema_hash, models, scheme=scheme, seed=seed)


def with_folds(batches: list[Labelled], folds: Folds) -> Replay:
    run = Replay(
        CARD, SETTINGS, DELAY,
        judged=lambda decisions, is_fraud: folds.judge(decisions), learned=folds.learn,
    )  # fmt: skip
    run.run(batches, lambda result: None)
    return run


def test_in_cross_validation_each_event_is_tested_once_and_learned_by_the_others() -> None:
    times = memberships(IDS, folds=5, scheme="cross")

    assert set(times.ravel().tolist()) == {0, 1}
    assert (times.sum(axis=1) == 4).all()
    assert (times == 0).mean(axis=0) == pytest.approx([0.2] * 5, abs=0.01)


def test_in_split_validation_each_event_is_learned_once_and_tested_by_the_others() -> None:
    times = memberships(IDS, folds=5, scheme="split")

    assert (times.sum(axis=1) == 1).all()
    assert times.tolist() == (1 - memberships(IDS, folds=5, scheme="cross")).tolist()


def test_in_bootstrap_validation_each_model_learns_an_event_as_often_as_poisson_says() -> None:
    times = memberships(IDS, folds=10, scheme="bootstrap")

    shares = np.bincount(times.ravel(), minlength=6)[:6] / times.size
    assert shares == pytest.approx(poisson.pmf(np.arange(6), 1.0), abs=0.003)
    # Models differ: what one learns says nothing of another.
    assert abs(np.corrcoef(times[:, 0], times[:, 1])[0, 1]) < 0.03


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_fold_goes_by_the_id_and_the_seed_alone(scheme: Scheme) -> None:
    times = memberships(IDS, folds=4, scheme=scheme)

    assert memberships(IDS[::-1], folds=4, scheme=scheme)[::-1].tolist() == times.tolist()
    assert memberships(IDS, folds=4, scheme=scheme, seed=8).tolist() != times.tolist()


def test_a_fold_tests_its_events_with_what_the_others_taught(simulated: list[Labelled]) -> None:
    # By hand: a run in which the labels of fold 0 are never told, and its scores of that fold.
    folds = folds_of(3, "cross")
    run = with_folds(simulated, folds)
    log = run.scores.columns()
    assert log is not None
    own = memberships(
        [name for events, _ in simulated for name in events.transaction_id],
        folds=3, scheme="cross",
    )[:, 0] == 0  # fmt: skip

    [found] = folds.quality(log, None, None, alerts_a_day=100).values()

    # Features know every label in both, so only the model differs: it must be taught by hand.
    model = make_model("additive", FeatureKernel(CARD).names)
    kept: list[float] = []

    def judge(decisions: object) -> None:
        kept.extend(model.scores(decisions.features).tolist())  # type: ignore[attr-defined]

    def learn(learned: object) -> None:
        examples = learned.examples  # type: ignore[attr-defined]
        taught = memberships(examples.transaction_id, folds=3, scheme="cross")[:, 0] == 1
        model.learn(examples.features[taught], examples.is_fraud[taught], examples.weights[taught])

    Replay(CARD, SETTINGS, DELAY, decided=judge, learned=learn).run(simulated, lambda _: None)
    scores = np.array(kept)[own]
    wanted = evaluate(scores, log.is_fraud[own] == 1)
    assert found["average_precision"].folds[0] == wanted.average_precision
    assert found["log_loss"].folds[0] == wanted.log_loss


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mean_of_the_folds_is_near_the_run_itself(
    scheme: Scheme, simulated: list[Labelled]
) -> None:
    folds = folds_of(4, scheme)
    run = with_folds(simulated, folds)
    log = run.scores.columns()
    assert log is not None

    [found] = folds.quality(log, None, None, alerts_a_day=100).values()

    whole = run.result.quality["additive"]
    assert whole.log_loss is not None
    # A model of a split learns a quarter of the labels, so it is worse.
    assert found["log_loss"].mean == pytest.approx(whole.log_loss, rel=0.6)
    assert found["log_loss"].low < found["log_loss"].mean < found["log_loss"].high
    assert len(set(found["log_loss"].folds)) == 4
    assert "card_precision_top_100" not in found


def test_folds_change_nothing_of_the_run(simulated: list[Labelled]) -> None:
    alone = Replay(CARD, SETTINGS, DELAY)
    alone.run(simulated, lambda result: None)

    watched = with_folds(simulated, folds_of(2, "cross"))

    assert watched.result.quality == alone.result.quality


def test_equal_folds_have_no_width() -> None:
    assert fold_number([0.5, 0.5]).low == fold_number([0.5, 0.5]).high == 0.5
