"""The fold of the training log: every example once, and the same log gives the same bytes."""

from collections.abc import Sequence

import numpy as np
import pytest

from models import MODELS, Additive, make_model
from models.snapshot import decode, encode
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.places import Place
from pipeline.records import TrainingExample, pack_features
from tests.strategies import CARD, MONDAY_MS, example

KERNEL = FeatureKernel(CARD)
HASH = KERNEL.schema_hash
WIDTH = len(KERNEL.names)
LONG = 2_200


def learner(marks: dict[int, int] | None = None) -> Learner:
    models = [make_model(name, KERNEL.names) for name in sorted(MODELS)]
    return Learner(CARD, HASH, models, marks)


def log(count: int = 120) -> list[TrainingExample]:
    """A training log of three partitions, with some corrections."""
    chance = np.random.default_rng(1)
    return [
        example(
            place // 3,
            partition=place % 3,
            schema_hash=HASH,
            features=pack_features(chance.normal(size=WIDTH)),
            verdict=("genuine", "fraud")[place % 5 == 0],
            supersedes=None if place % 11 else 0,
            event_time=MONDAY_MS + int(chance.integers(0, 30 * DAY_MS)),
            amount=int(chance.integers(0, 100_000)),
            keys={"card": f"c{place % 7}", "terminal": f"m{place % 4}"},
            weight=1.0 if place % 2 else 0.5,
        )
        for place in range(count)
    ]


def fold(into: Learner, examples: Sequence[TrainingExample], size: int = 1000) -> Learner:
    for start in range(0, len(examples), size):
        into.learn(into.fresh(examples[start : start + size]))
    return into


def snapshots(of: Learner) -> list[bytes]:
    return [encode(model, version="v", training_offset=0, schema_hash=HASH) for model in of.models]


def state(of: Learner) -> list[bytes]:
    """All that a learner holds, as bytes."""
    rows = [table.blob(key) for table in of.profiles.tables for key in table.ids]
    ids = [repr(table.ids).encode() for table in of.profiles.tables]
    return [*snapshots(of), *rows, *ids]


@pytest.fixture(scope="module")
def whole() -> list[bytes]:
    """A long log learned at once: bins are cut anew with and without the whole sample."""
    return state(fold(learner(), log(LONG), LONG))


def rows_of(of: Learner) -> list[bytes]:
    return [table.rows.tobytes() for table in of.profiles.tables]


def test_the_same_log_gives_the_same_bytes() -> None:
    assert state(fold(learner(), log())) == state(fold(learner(), log()))


@pytest.mark.parametrize("size", [1, 7, 500, 1024])
def test_the_size_of_a_batch_never_changes_a_bit(whole: list[bytes], size: int) -> None:
    assert state(fold(learner(), log(LONG), size)) == whole


@pytest.mark.parametrize("size", [101, 500])
def test_restarts_from_snapshots_never_change_a_bit(whole: list[bytes], size: int) -> None:
    """As a trainer's: the models come back from their bytes, the rows were kept."""
    ours, examples = learner(), log(LONG)
    for start in range(0, LONG, size):
        restored = [decode(taken).model for taken in snapshots(ours)]
        following = Learner(CARD, HASH, restored, ours.marks)
        following.profiles = ours.profiles
        following.go_back(place_of(min(model.window_start for model in restored), examples))
        again = following.fresh(examples[following.place.learned : start])
        following.learn(again[:50], profiles=False)
        following.learn(again[50:], profiles=False)
        ours = fold(following, examples[start : start + size], 97)

    assert state(ours) == whole


def place_of(number: int, examples: Sequence[TrainingExample]) -> Place:
    marks = {one.partition: one.training_seq for one in examples[:number]}
    return Place(number, number, marks)


def test_the_order_of_the_log_matters() -> None:
    backwards = [
        example(place, partition=9, **fields_of(one)) for place, one in enumerate(log()[::-1])
    ]

    assert state(fold(learner(), backwards)) != state(fold(learner(), log()))


def fields_of(one: TrainingExample) -> dict[str, object]:
    names = ("schema_hash", "features", "verdict", "event_time", "amount", "keys")
    return {name: getattr(one, name) for name in names}


@pytest.mark.parametrize("repeated", [1, 40, 120])
def test_examples_that_were_published_twice_are_learned_once(repeated: int) -> None:
    once, twice = fold(learner(), log()), fold(learner(), log() + log()[-repeated:])

    assert state(twice) == state(once)
    assert (twice.counts["learned"], twice.counts["duplicate"]) == (120, repeated)


def test_a_duplicate_within_one_batch_is_dropped() -> None:
    first = example(0, schema_hash=HASH)
    ours = learner()

    assert ours.fresh([first, first]) == [first]
    assert ours.counts["duplicate"] == 1


def test_partitions_are_numbered_apart() -> None:
    examples = [example(0, partition=partition, schema_hash=HASH) for partition in range(3)]
    ours = learner()

    assert ours.fresh(examples) == examples
    assert ours.marks == {0: 0, 1: 0, 2: 0}


def test_marks_of_a_snapshot_are_held_to() -> None:
    given = {0: 4}
    ours = learner(given)

    fresh = ours.fresh([example(seq, schema_hash=HASH) for seq in range(7)])

    assert [one.training_seq for one in fresh] == [5, 6]
    assert given == {0: 4}


def test_an_example_of_another_schema_is_counted_and_passed_over() -> None:
    ours = learner()

    fresh = ours.fresh([example(0, schema_hash="other"), example(1, schema_hash=HASH)])

    assert [one.training_seq for one in fresh] == [1]
    assert (ours.counts["foreign_schema"], ours.marks) == (1, {0: 1})


def test_an_example_of_another_schema_that_comes_again_is_a_duplicate() -> None:
    ours, foreign = learner(), example(0, schema_hash="other")

    assert ours.fresh([foreign, foreign]) == []
    assert ours.counts == {"foreign_schema": 1, "duplicate": 1}


def test_models_can_learn_what_the_rows_hold_already() -> None:
    ours, whole = learner(), fold(learner(), log())
    untouched = rows_of(ours)

    ours.learn(ours.fresh(log()), profiles=False)

    assert rows_of(ours) == untouched
    assert [model.learned for model in ours.models] == [120] * len(MODELS)
    assert snapshots(ours) == snapshots(whole)


def test_every_model_learns_every_example() -> None:
    ours = fold(learner(), log(30))

    assert [model.learned for model in ours.models] == [30] * len(MODELS)


def test_what_labels_teach_is_kept_for_each_entity() -> None:
    ours = fold(learner(), [example(0, schema_hash=HASH, features=bytes(4 * WIDTH))])
    cards, terminals = ours.profiles.tables

    for table, key in ((cards, "c1"), (terminals, "m1")):
        [row] = table.rows[table.slots([key])]
        assert (row["fraud_ms"], row["run_length"]) == (MONDAY_MS, 1)


def test_a_correction_takes_back_what_was_learned_of_an_entity() -> None:
    features = bytes(4 * WIDTH)
    said = example(0, schema_hash=HASH, features=features)
    corrected = example(1, schema_hash=HASH, features=features, verdict="genuine", supersedes=0)

    ours = fold(learner(), [said, corrected])

    [row] = ours.profiles.tables[0].rows[:1]
    assert (row["labels"].tolist(), row["frauds"].tolist()) == ([1.0] * 3, [0.0] * 3)


def test_learning_nothing_changes_nothing() -> None:
    ours = fold(learner(), log(10))
    before = state(ours)

    ours.learn([])

    assert state(ours) == before


class Watching(Additive):
    """Additive, and what it was told of the time: at which example, which hour."""

    def tick(self, hour: int) -> None:
        self.__dict__.setdefault("heard", []).append((self.learned, hour))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_models_hear_of_each_hour_before_its_first_example(size: int) -> None:
    model = Watching(KERNEL.names)
    minutes = [0, 30, 61, 59, 62, 200, 1]
    examples = [
        example(
            place,
            schema_hash=HASH,
            features=pack_features(np.zeros(WIDTH)),
            event_time=MONDAY_MS + minute * 60_000,
        )
        for place, minute in enumerate(minutes)
    ]

    fold(Learner(CARD, HASH, [model]), examples, size)

    first = MONDAY_MS // HOUR_MS
    heard = model.__dict__["heard"]
    assert {hour: min(at for at, told in heard if told == hour) for _, hour in heard} == {
        first: 0,
        first + 1: 2,
        first + 3: 5,
    }
    assert [hour for _, hour in heard] == sorted(hour for _, hour in heard)
