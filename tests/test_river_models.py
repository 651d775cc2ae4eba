"""River's classifiers by name keep the contract, and are never unpickled unasked."""

import json
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from river import checks

from models import (
    RIVER_MODELS,
    Anomaly,
    ArrayModel,
    ModelOptions,
    check_kept,
    make_model,
    model_class,
    restored,
)
from models.snapshot import decode, encode
from pipeline.errors import SettingError, SnapshotError
from pipeline.schema import load_schema
from pipeline.version_fold import VersionFold
from tests.test_models import NAMES, as_dicts, learn, odd_rows, stream

BAYES = "river.naive_bayes.GaussianNB"
LINE = "river.linear_model.LogisticRegression"
TREE = "river.tree.HoeffdingTreeClassifier"
KNOWN = (*sorted(RIVER_MODELS), BAYES, LINE, TREE)
# Few and small trees: the contract is the same, and River is slow.
SMALL = ModelOptions(
    river_options='{"forest": {"n_models": 2}, "anomaly": {"n_trees": 3, "height": 6}}'
)
PICKLED = ModelOptions(river_options=SMALL.river_options, river_pickle=True)
ROWS = 900


@pytest.fixture(params=KNOWN)
def model(request: pytest.FixtureRequest) -> ArrayModel:
    return make_model(request.param, NAMES, SMALL)


def fresh_like(model: ArrayModel) -> ArrayModel:
    return make_model(model.name, NAMES, SMALL)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_size_of_a_batch_never_changes_a_bit(model: ArrayModel, size: int) -> None:
    whole, parts, given = model, fresh_like(model), stream(ROWS)
    features = given[0][:60]

    assert learn(whole, given).tobytes() == learn(parts, given, size).tobytes()
    scored = whole.score(features)
    assert scored.scores.tobytes() == whole.scores(features).tobytes()
    for start in range(0, len(features), size):
        part = parts.score(features[start : start + size])
        assert part.scores.tobytes() == scored.scores[start : start + size].tobytes()
        assert part.contributions.tobytes() == scored.contributions[start : start + size].tobytes()
        assert part.bias == scored.bias


@pytest.mark.parametrize("learned", [0, 1, 40, ROWS])
def test_contributions_and_bias_add_up_to_the_log_odds(model: ArrayModel, learned: int) -> None:
    features, is_fraud, weights = stream(ROWS)
    model.learn(features[:learned], is_fraud[:learned], weights[:learned])

    scored = model.score(np.vstack([features[:100], odd_rows()]))

    log_odds = np.log(scored.scores) - np.log1p(-scored.scores)
    np.testing.assert_allclose(scored.contributions.sum(axis=1) + scored.bias, log_odds, atol=1e-9)


def test_odd_values_are_scored_and_learned(model: ArrayModel) -> None:
    rows = np.tile(odd_rows(), (12, 1))
    is_fraud = (np.arange(len(rows)) % 3 == 0).astype(np.int8)

    before = model.learn(rows, is_fraud, np.ones(len(rows)))
    after = model.score(odd_rows())

    assert ((before > 0.0) & (before < 1.0)).all()
    assert ((after.scores > 0.0) & (after.scores < 1.0)).all()
    assert np.isfinite(after.contributions).all()


def test_learning_gives_the_scores_from_before(model: ArrayModel) -> None:
    features, is_fraud, weights = stream(300)
    for row in range(300):
        part = slice(row, row + 1)
        score = model.scores(features[part])[0]
        assert model.learn(features[part], is_fraud[part], weights[part])[0] == score

    assert model.learned == 300


def test_rows_dicts_and_frames_are_learned_alike(model: ArrayModel) -> None:
    features, is_fraud, _ = stream(400)
    by_dict, by_frame = fresh_like(model), fresh_like(model)
    frame, labels = pd.DataFrame(features, columns=list(NAMES)), pd.Series(is_fraud == 1)

    model.learn(features, is_fraud, np.ones(400))
    for x, y in zip(as_dicts(features), labels, strict=True):
        by_dict.learn_one(x, y)
    by_frame.learn_many(frame, labels)

    scores = model.scores(features)
    assert by_dict.scores(features).tobytes() == scores.tobytes()
    assert by_frame.predict_proba_many(frame)[True].to_numpy().tobytes() == scores.tobytes()


def test_an_empty_batch_is_fine(model: ArrayModel) -> None:
    nothing = np.empty((0, len(NAMES)), dtype=np.float32)

    assert model.score(nothing).contributions.shape == (0, len(NAMES))
    assert model.learn(nothing, np.empty(0, np.int8), np.empty(0)).size == 0


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_only_moves_scores_towards_it(model: ArrayModel, label: int) -> None:
    features, _, weights = stream(ROWS)
    before = model.scores(features).mean()

    learn(model, (features, np.full(ROWS, label, dtype=np.int8), weights))

    assert (model.scores(features).mean() > before) == (label == 1)


def test_the_model_learns(model: ArrayModel) -> None:
    learn(model, stream(4000))
    held_out, truth, _ = stream(2000, seed=2)

    scores = model.scores(held_out)

    assert scores[truth == 1].mean() > 2.0 * scores[truth == 0].mean()


def test_reasons_name_what_is_unusual() -> None:
    model = make_model("forest", NAMES, SMALL)
    learn(model, stream(4000))
    features, _, _ = stream(2000, seed=2)
    scored = model.score(features[:300])
    flagged = (features[:300, 2] == 1.0) & (scored.scores > 0.05)

    assert flagged.any()
    # The flag makes frauds here, and a constant says nothing.
    mean = scored.contributions[flagged].mean(axis=0)
    assert mean[2] == mean.max() > 0.3
    assert np.abs(mean[4]) < 0.1


def test_anomaly_needs_no_fraud_to_find_what_is_unusual() -> None:
    model = Anomaly(NAMES)
    features, is_fraud, _ = stream(4000)
    genuine = features[is_fraud == 0]
    model.learn(genuine, np.zeros(len(genuine), dtype=np.int8), np.ones(len(genuine)))
    odd = genuine[:50].copy()
    odd[:, 0], odd[:, 1] = 4000.0, 30.0

    scores = model.scores(genuine[-1000:])

    assert model.scores(odd).min() > 10.0 * np.median(scores)
    # Over all events the scores add up to the share of frauds that is assumed.
    assert scores.mean() == pytest.approx(model.fraud_share, rel=0.5)


def test_the_same_seed_gives_the_same_bits_in_another_process() -> None:
    program = (
        "import hashlib; from tests.test_river_models import *\n"
        "print([hashlib.sha256(learn(make_model(name, NAMES, SMALL), stream(600)).tobytes())"
        ".hexdigest() for name in KNOWN])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    }

    assert len(found) == 1


@pytest.mark.parametrize("name", KNOWN)
def test_a_state_is_refused_unless_pickles_are_asked_for(name: str) -> None:
    kept = make_model(name, NAMES, PICKLED)
    learn(kept, stream(300))
    bytes_of = encode(kept, version=f"{name}@300", training_offset=300, schema_hash="a")

    with pytest.raises(SnapshotError, match="a River model is kept as a pickle, which can run any"):
        make_model(name, NAMES, SMALL).state()
    with pytest.raises(SnapshotError, match="a River model is kept as a pickle, which can run any"):
        decode(bytes_of)
    with pytest.raises(SnapshotError, match="a River model is kept as a pickle, which can run any"):
        model_class(name).from_state(*kept.state())


class Trap:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pytest.fail, ("a pickle was read that nobody asked for",)


def test_a_pickle_is_not_even_looked_at_unasked() -> None:
    model = make_model(BAYES, NAMES, PICKLED)
    model._river = Trap()  # type: ignore[attr-defined]
    bytes_of = encode(model, version="x@1", training_offset=1, schema_hash="a")

    with pytest.raises(SnapshotError, match="a River model is kept as a pickle"):
        decode(bytes_of)
    with pytest.raises(pytest.fail.Exception):
        decode(bytes_of, river_pickle=True)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("cut", [0, 450])
def test_with_pickles_a_restored_model_goes_on_bit_for_bit(name: str, cut: int) -> None:
    model = make_model(name, NAMES, PICKLED)
    features, is_fraud, weights = stream(ROWS)
    learn(model, (features[:cut], is_fraud[:cut], weights[:cut]))
    data = encode(model, version=f"{name}@{cut}", training_offset=cut, schema_hash="a")
    again = decode(data, river_pickle=True).model
    rest = features[cut:], is_fraud[cut:], weights[cut:]

    assert again.learned == cut
    assert learn(model, rest).tobytes() == again.learn(*rest).tobytes()


def test_a_pickle_that_is_no_such_model_is_refused() -> None:
    header, arrays = make_model(BAYES, NAMES, PICKLED).state()
    other = make_model(TREE, NAMES, PICKLED).state()[1]

    with pytest.raises(SnapshotError, match="pickle must hold GaussianNB"):
        restored(BAYES, header, other, river_pickle=True)
    with pytest.raises(SnapshotError, match="pickle cannot be read"):
        broken = {**arrays, "pickle": np.zeros(3, dtype=np.int8)}
        restored(BAYES, header, broken, river_pickle=True)
    with pytest.raises(SnapshotError, match=r"snapshot: River has no 'river.os.System'"):
        restored("river.os.System", header, arrays, river_pickle=True)
    for name in header:
        with pytest.raises(SnapshotError, match=f"state: .*{name}"):
            restored(BAYES, {**header, name: None}, arrays, river_pickle=True)


@pytest.mark.parametrize("name", KNOWN)
def test_live_models_that_cannot_be_kept_are_refused_at_the_start(name: str) -> None:
    names = ("additive", name)

    with pytest.raises(SettingError, match=f"{name}: a River model is kept as a pickle.*replay"):
        check_kept(names, SMALL)
    with pytest.raises(SettingError, match="a River model is kept as a pickle"):
        VersionFold(load_schema("card"), names, lambda start: iter(()), end=0)  # type: ignore[arg-type, return-value]
    check_kept(names, PICKLED)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("river.tree.NoSuch", {}, "River has no 'river.tree.NoSuch'"),
        ("river.nothing.Here", {}, "River has no 'river.nothing.Here'"),
        ("river.tree", {}, "a name is like river.tree.HoeffdingTreeClassifier"),
        ("river.preprocessing.StandardScaler", {}, "is no classifier"),
        ("river.tree.HoeffdingTreeRegressor", {}, "is no classifier"),
        ("forest", {"trees": 5}, "river_options: forest has no 'trees': known are n_models, "),
        ("forest", {"max_features": "some"}, "river_options: forest cannot learn: "),
        ("river.ensemble.BaggingClassifier", {}, "BaggingClassifier cannot be made: .*'model'"),
    ],
)
def test_what_river_does_not_have_is_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        make_model(name, NAMES, ModelOptions(river_options=json.dumps({name: options})))


@pytest.mark.parametrize("text", ["{", "[]", '{"forest": 5}'])
def test_options_are_json_by_model(text: str) -> None:
    with pytest.raises(SettingError, match="river_options must be"):
        _ = ModelOptions(river_options=text).river_arguments


def test_an_argument_may_be_another_of_rivers_classes() -> None:
    name = "river.ensemble.BaggingClassifier"
    options = {name: {"model": TREE, "n_models": 3}}
    model = make_model(name, NAMES, ModelOptions(river_options=json.dumps(options)))

    learn(model, stream(500))

    assert model.learned == 500


def river_checks() -> list[object]:
    return [
        pytest.param(name, check, id=f"{name}:{check.__name__}:{number}")
        for name in ("anomaly", BAYES)
        for number, check in enumerate(checks.yield_checks(model_class(name)()))
    ]


@pytest.mark.parametrize(("name", "check"), river_checks())
def test_rivers_estimator_checks(name: str, check: Callable[[ArrayModel], None]) -> None:
    random.seed(7)  # the checks shuffle and drop features
    check(model_class(name)())
