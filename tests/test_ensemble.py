"""The mixture: it follows its best member, by what members said when the event was decided."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models import Ensemble, ModelOptions, make_model
from models.contract import LOGIT_MAX
from models.ensemble import mix_and_weigh
from models.snapshot import decode, encode
from pipeline.errors import SettingError, SnapshotError
from pipeline.learner import Learner
from pipeline.records import TrainingExample, pack_features
from tests.recorded import KERNEL
from tests.strategies import CARD, MONDAY_MS, example

Floats = NDArray[np.float64]

NAMES = ("amount", "hour")
WIDTH = len(KERNEL.names)
HOUR_MS = 3_600_000


def truth(rows: int, seed: int = 1) -> tuple[Floats, NDArray[np.int8]]:
    chance = np.random.default_rng(seed)
    logits = chance.normal(-3.0, 2.0, rows)
    return logits, (chance.random(rows) < score(logits)).astype(np.int8)


def score(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -LOGIT_MAX, LOGIT_MAX)))


def log_loss(scores: Floats, is_fraud: NDArray[np.int8]) -> float:
    return float(-np.log(np.where(is_fraud == 1, scores, 1.0 - scores)).mean())


def mixture(said: Floats, is_fraud: NDArray[np.int8]) -> tuple[Floats, Floats]:
    weights = np.full(said.shape[1], 1.0 / said.shape[1])
    ready = np.ones(said.shape[1], dtype=np.int8)
    scores = mix_and_weigh(said, said, is_fraud, np.ones(len(said)), weights, ready)
    return scores, weights


@pytest.mark.parametrize("best", [0, 1])
def test_it_follows_a_member_that_is_better(best: int) -> None:
    logits, is_fraud = truth(40_000)
    noise = np.random.default_rng(2).normal(0.0, 3.0, len(logits))
    said = np.column_stack([score(logits), score(-3.0 + 0.0 * noise)])[:, :: 1 - 2 * best]

    scores, weights = mixture(said, is_fraud)

    assert weights[best] > 0.9
    second = slice(20_000, None)
    assert log_loss(scores[second], is_fraud[second]) <= 1.01 * log_loss(
        said[second, best], is_fraud[second]
    )


def test_two_that_err_apart_are_better_together() -> None:
    logits, is_fraud = truth(40_000)
    chance = np.random.default_rng(3)
    said = np.column_stack([score(logits + chance.normal(0, 1.5, len(logits))) for _ in "ab"])

    scores, weights = mixture(said, is_fraud)

    alone = min(log_loss(said[:, member], is_fraud) for member in (0, 1))
    assert log_loss(scores, is_fraud) < 0.97 * alone
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_it_turns_when_the_better_one_changes() -> None:
    logits, is_fraud = truth(60_000)
    good, bad = score(logits), np.full(len(logits), 0.05)
    first = np.arange(len(logits)) < 30_000
    said = np.column_stack([np.where(first, good, bad), np.where(first, bad, good)])

    _, before = mixture(said[first], is_fraud[first])
    _, after = mixture(said, is_fraud)

    assert before[0] > 0.9
    assert after[1] > 0.9


def test_a_member_that_was_not_asked_keeps_its_weight() -> None:
    logits, is_fraud = truth(5_000)
    said = np.column_stack([score(logits), np.full(5_000, 0.05), np.full(5_000, np.nan)])
    weights, ready = np.full(3, 1.0 / 3.0), np.ones(3, dtype=np.int8)

    mix_and_weigh(np.nan_to_num(said, nan=0.5), said, is_fraud, np.ones(5_000), weights, ready)

    assert weights[2] == 1.0 / 3.0
    assert weights[0] > weights[1]
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_member_that_knows_nothing_has_no_weight() -> None:
    model = Ensemble(NAMES, "additive,boosted", ModelOptions(boosted_trees=20))
    alone = make_model("additive", NAMES)
    chance = np.random.default_rng(4)
    rows = chance.normal(size=(3_000, 2)).astype(np.float32)
    is_fraud = (rows[:, 0] > 1.0).astype(np.int8)
    model.tick(1)
    model.learn(rows[:1_000], is_fraud[:1_000], np.ones(1_000))
    alone.learn(rows[:1_000], is_fraud[:1_000], np.ones(1_000))

    assert model.shares.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(model.scores(rows), alone.scores(rows), rtol=1e-12)
    assert set(model.member_scores(rows)) == {"additive"}
    model.tick(2)
    model.tick(3)
    assert model.shares.tolist() == [0.5, 0.5]
    assert set(model.score(rows).members) == {"additive", "boosted"}


def log(count: int, members: bool) -> list[TrainingExample]:
    """A training log in which `logistic` said the truth, and `additive` did not."""
    chance = np.random.default_rng(5)
    frauds = chance.random(count) < 0.2
    return [
        example(
            place,
            schema_hash=KERNEL.schema_hash,
            features=pack_features(chance.normal(size=WIDTH)),
            verdict="fraud" if fraud else "genuine",
            event_time=MONDAY_MS + place * HOUR_MS // 10,
            members={"additive": 0.2, "logistic": 0.9 if fraud else 0.1} if members else {},
        )
        for place, fraud in enumerate(frauds)
    ]


def weights_after(examples: list[TrainingExample]) -> list[float]:
    model = Ensemble(KERNEL.names, "additive,logistic")
    learner = Learner(CARD, KERNEL.schema_hash, [model])
    for start in range(0, len(examples), 97):
        learner.learn(learner.fresh(examples[start : start + 97]))
    return [float(weight) for weight in model.shares]


def test_weights_follow_what_members_said_when_the_event_was_decided() -> None:
    additive, logistic = weights_after(log(1_500, members=True))

    assert logistic > 0.8
    assert additive + logistic == pytest.approx(1.0, abs=1e-12)


def test_examples_that_nobody_asked_the_members_about_leave_the_weights() -> None:
    assert weights_after(log(500, members=False)) == [0.5, 0.5]


def test_its_members_are_those_that_learn_alone() -> None:
    model = Ensemble(NAMES, "additive,logistic")
    alone = [make_model(name, NAMES) for name in ("additive", "logistic")]
    chance = np.random.default_rng(6)
    rows = chance.normal(size=(500, 2)).astype(np.float32)
    is_fraud = (chance.random(500) < 0.3).astype(np.int8)
    for one in (model, *alone):
        one.learn(rows, is_fraud, np.ones(500))

    members = model.score(rows).members

    for one in alone:
        assert members[one.name].tobytes() == one.scores(rows).tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "additive,additive",
        "additive,ensemble",
        "additive,nobody",
        "additive,forest",
        ",".join("abcdefghi"),
    ],
)
def test_members_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(SettingError):
        make_model("ensemble", NAMES, ModelOptions(members=wrong))


def test_a_state_of_members_that_disagree_is_refused() -> None:
    model = Ensemble(NAMES, "additive,logistic")
    model.learn(np.zeros((5, 2), np.float32), np.zeros(5, np.int8), np.ones(5))
    header, arrays = model.state()
    other = make_model("logistic", NAMES).state()[0]

    with pytest.raises(SnapshotError, match="members must have learned the same examples"):
        Ensemble.from_state({**header, "parts": {**header["parts"], "logistic": other}}, arrays)  # type: ignore[dict-item]
    with pytest.raises(SnapshotError, match="shares must be from 0 on and sum to 1"):
        Ensemble.from_state(header, {**arrays, "shares": np.array([1.0, 1.0])})
    with pytest.raises(SnapshotError, match="state: parts must have 'logistic'"):
        Ensemble.from_state({**header, "parts": {"additive": header["parts"]["additive"]}}, arrays)  # type: ignore[index]


def test_a_snapshot_holds_all_members() -> None:
    model = Ensemble(NAMES, "additive,boosted,logistic")
    model.learn(np.zeros((40, 2), np.float32), np.zeros(40, np.int8), np.ones(40))
    data = encode(model, version="ensemble@40", training_offset=40, schema_hash="h")

    again = decode(data).model

    assert encode(again, version="ensemble@40", training_offset=40, schema_hash="h") == data
    assert again.member_names == ("additive", "boosted", "logistic")
