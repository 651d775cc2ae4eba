"""Any version again from the training log: in any order, and the same to the last bit."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from models import ModelOptions, make_model
from models.contract import Model
from models.snapshot import encode
from pipeline.durations import HOUR_MS
from pipeline.learner import Learner
from pipeline.records import TrainingExample, pack_features
from pipeline.version_fold import STANDS_MAX, TrainingCursor, VersionFold
from tests.recorded import KERNEL, NAMES, as_log, folded, training
from tests.strategies import CARD, MONDAY_MS, example

LOG = training()
END = len(LOG)


def fold(**changes: object) -> VersionFold:
    return VersionFold(CARD, NAMES, as_log(LOG), **({"end": END} | changes))  # type: ignore[arg-type]


def bytes_of(model: Model | str, version: str) -> bytes:
    assert not isinstance(model, str), model
    offset = int(version.partition("@")[2])
    return encode(model, version=version, training_offset=offset, schema_hash=KERNEL.schema_hash)


def published(offset: int) -> dict[str, bytes]:
    return {
        f"{model.name}@{offset}": bytes_of(model, f"{model.name}@{offset}")
        for model in folded(LOG, offset).models
    }


def assert_versions(ours: VersionFold, offsets: Sequence[int]) -> None:
    for offset in offsets:
        for name, value in published(offset).items():
            assert bytes_of(ours.model(name), name) == value, (offset, name)


def test_rising_versions_are_those_of_the_fold() -> None:
    ours = fold()

    assert_versions(ours, [0, 0, 1, 40, 99, 100, 101, 102, 199, 201, 202, END])
    assert ours.examples == END


def test_versions_in_any_order_are_those_of_the_fold() -> None:
    chance = random.Random(5)

    assert_versions(fold(), [chance.randrange(END + 1) for _ in range(25)])


def test_more_versions_than_are_remembered_can_be_gone_back_to() -> None:
    ours = fold()
    rising = [5 * step for step in range(STANDS_MAX + 8)]

    assert_versions(ours, rising)
    assert_versions(ours, [5, 0, rising[-1], 10])


def test_going_back_ends_where_too_much_is_learned_again() -> None:
    ours = fold(examples_again_max=150)

    assert_versions(ours, [300, 100])
    said = ours.model("additive@90")

    assert said == "version lies too far behind: 150 examples were learned again"
    assert_versions(ours, [100, 300, 350])


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("additive", "version is not the name of one"),
        ("additive@-1", "version is not the name of one"),
        ("additive@1e3", "version is not the name of one"),
        ("additive@" + "9" * 30, "version is not the name of one"),
        ("forest9@3", "no such model"),
        ("additive@401", "the training log ends before the version"),
    ],
)
def test_what_is_no_version_of_this_log_is_said(version: str, reason: str) -> None:
    assert fold().model(version) == reason


def test_a_model_that_is_not_folded_is_said() -> None:
    ours = VersionFold(CARD, ("additive",), as_log(LOG), end=END)

    assert ours.model("logistic@3") == "model is not among --model and --challengers"


def test_published_snapshots_are_compared_with_the_fold() -> None:
    right, other = published(50) | published(120) | published(300), published(80)
    wrong = {"additive@200": other["additive@80"]}
    ours = fold(published=right | wrong | {"additive@9999": b"", "x": b""})

    assert_versions(ours, [0, 120, 10, 121])
    ours.check_rest()

    assert sorted(ours.checks.equal) == sorted(right)
    assert ours.checks.different == ["additive@200"]
    assert ours.checks.unchecked == ["additive@9999", "x"]


def test_a_published_version_beyond_the_log_is_taken_as_it_is() -> None:
    given = published(300)
    ours = VersionFold(CARD, NAMES, as_log(LOG[:0]), end=0, published=given)

    assert bytes_of(ours.model("additive@300"), "additive@300") == given["additive@300"]


def test_a_damaged_version_beyond_the_log_is_said() -> None:
    damaged = published(300)["additive@300"][:-1]
    ours = VersionFold(CARD, NAMES, as_log([]), end=0, published={"additive@300": damaged})

    assert str(ours.model("additive@300")).startswith("snapshot: SHA-256 must be")


def test_a_cursor_gives_every_example_once() -> None:
    cursor = TrainingCursor(as_log(LOG))

    given = [one for end in (0, 7, 7, 250, END, END) for part in cursor.until(end) for one in part]

    assert given == [one for one in LOG if one is not None]


def weeks(count: int = 2_000) -> list[TrainingExample]:
    """A log of four days, long enough for fits and for a window that lets go of days."""
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(count, len(KERNEL.names)))
    return [
        example(
            place,
            schema_hash=KERNEL.schema_hash,
            features=pack_features(rows[place]),
            verdict="fraud" if rows[place, 0] > 1.0 else "genuine",
            event_time=MONDAY_MS + place * HOUR_MS // 20,
        )
        for place in range(count)
    ]


def test_versions_that_remember_a_window_are_those_of_the_fold_in_any_order() -> None:
    given, chance = weeks(), random.Random(6)
    options = ModelOptions(refit_days=1.0, refit_window_days=1.5, boosted_trees=15)
    names = ("boosted", "ensemble")
    ours = VersionFold(CARD, names, as_log(given), end=len(given), options=options)
    learner = Learner(
        CARD, KERNEL.schema_hash, [make_model(name, KERNEL.names, options) for name in names]
    )
    straight: dict[str, bytes] = {}
    for stop in range(50, len(given) + 1, 50):
        learner.learn(learner.fresh(given[stop - 50 : stop]))
        for model in learner.models:
            straight[f"{model.name}@{stop}"] = bytes_of(model, f"{model.name}@{stop}")

    for version in chance.sample(sorted(straight), 24):
        assert bytes_of(ours.model(version), version) == straight[version], version
    assert learner.models[0].window_start > 0
