"""Features are what their names say, see nothing that comes later, and never depend on batches."""

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pipeline.card_testing
import pipeline.feature_kernels
import pipeline.features
from models.compiled import kernel_source
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import Transactions
from pipeline.feature_kernels import add_to_bucket, record_verdicts, shared_kernel
from pipeline.features import (
    SHARED_WIDTH,
    FeatureKernel,
    feature_table,
    schema_hash,
    unusual_amounts,
)
from pipeline.profiles import (
    BUCKET,
    BUCKET_SLOTS,
    HOUR_SLOTS,
    LearnedProfiles,
    MemoryProfiles,
    Profiles,
    ProfileView,
    Rows,
)
from pipeline.schema import load_schema, shipped_schemas
from tests.feature_memory import KERNEL, Memory, float32, learn_some
from tests.strategies import (
    CARD,
    MONDAY_MS,
    ONE_ENTITY,
    VISITS,
    first_entity,
    joined,
    traffic,
    visits,
)

# The table.


@pytest.mark.parametrize("name", shipped_schemas())
def test_every_feature_has_a_name_of_its_own_and_says_what_it_is(name: str) -> None:
    table = feature_table(load_schema(name))

    assert len({feature.name for feature in table}) == len(table)
    assert all(feature.meaning and feature.unit and feature.reason_code for feature in table)


def test_the_hash_of_a_table_changes_with_names_and_order_only() -> None:
    table = feature_table(CARD)

    assert schema_hash(table) == schema_hash(feature_table(CARD))
    assert schema_hash(table) != schema_hash(table[:-1])
    assert schema_hash(table) != schema_hash((table[1], table[0], *table[2:]))
    assert schema_hash(table) != schema_hash(feature_table(ONE_ENTITY))


def test_a_schema_of_one_entity_has_all_of_its_columns() -> None:
    kernel, batch = (
        FeatureKernel(ONE_ENTITY),
        first_entity(visits([MONDAY_MS, MONDAY_MS + HOUR_MS])),
    )
    profiles = MemoryProfiles(ONE_ENTITY, LearnedProfiles(ONE_ENTITY))

    out = kernel.read_and_record(batch, profiles.open(batch))

    assert out.shape == (2, len(feature_table(ONE_ENTITY)))
    assert out[1, kernel.names.index("card_count_1h")] == 0.5
    assert out[1, kernel.names.index("card_risk_7d")] == float32(0.01)


def test_every_column_is_written() -> None:
    memory, batch = Memory(), traffic(3, 400)
    view = memory.profiles.open(batch)

    first = KERNEL.read_and_record(batch, view)
    again = Memory()
    second = KERNEL.read_and_record(batch, again.profiles.open(batch))

    assert first.shape == (400, len(KERNEL.names))
    assert first.tobytes() == second.tobytes()
    assert all(np.isfinite(first[:, column]).any() for column in read_without_labels())


def read_without_labels() -> list[int]:
    needs_labels = ("verdict", "days_since", "genuine", "fraud_run")
    return [
        column
        for column, name in enumerate(KERNEL.names)
        if not any(word in name for word in needs_labels)
    ]


# Compiled and plain.


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function of the module as plain Python, with all kernels that it leads to."""
    space = vars(pipeline.feature_kernels) | vars(pipeline.card_testing) | vars(pipeline.features)
    for name, value in list(space.items()):
        if hasattr(value, "py_func"):
            space[name] = FunctionType(kernel_source(value).__code__, space, name)
    return FunctionType(function.__code__, space, function.__name__)


class RecordProfiles:
    """Memory profiles whose rows are numpy records, so that plain Python can name their fields."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def open(self, batch: Transactions) -> ProfileView:
        view = self._profiles.open(batch)

        def named(part: Rows) -> Rows:
            return Rows(part.values.view(np.recarray), part.slots)

        return ProfileView(
            named(view.traffic),
            tuple(named(part) for part in view.shared),
            tuple(named(part) for part in view.learned),
            view.label_offset,
            tuple(named(part) for part in view.probes),
        )


def tables_of(view: ProfileView) -> list[bytes]:
    parts = (view.traffic, *view.shared, *view.learned, *view.probes)
    return [part.values.tobytes() for part in parts]


@pytest.mark.parametrize("seed", range(3))
def test_compiled_kernels_are_their_source_to_the_last_bit(seed: int) -> None:
    batch, ours, theirs = traffic(seed, 150, cards=5, terminals=5), Memory(), Memory()
    learn_some(ours, seed, record_verdicts)
    learn_some(theirs, seed, plain(record_verdicts))
    view, other = ours.profiles.open(batch), RecordProfiles(theirs.profiles).open(batch)
    assert tables_of(view) == tables_of(other)

    out = KERNEL.read_and_record(batch, view)
    expected = plain(FeatureKernel.read_and_record)(KERNEL, batch, other)

    different = np.flatnonzero((out.view(np.int32) != expected.view(np.int32)).any(axis=0))
    assert [KERNEL.names[column] for column in different] == []
    assert tables_of(view) == tables_of(other)


# Time and batches.


def features_in_batches(batch: Transactions, size: int) -> tuple[bytes, list[bytes]]:
    memory = Memory()
    learn_some(memory, 1, record_verdicts)
    parts = [batch.slice(start, start + size) for start in range(0, len(batch), size)]
    out = [KERNEL.read_and_record(part, memory.profiles.open(part)) for part in parts]
    return np.concatenate(out).tobytes(), tables_of(memory.profiles.open(batch))


@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_size_of_a_batch_never_changes_a_bit(size: int) -> None:
    batch = traffic(5, 1024)

    assert features_in_batches(batch, size) == features_in_batches(batch, 1024)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("known", [1, 50, 199])
def test_no_feature_changes_with_what_comes_later(seed: int, known: int) -> None:
    past, future, other = traffic(seed, 200), traffic(seed + 100, 200), traffic(seed + 200, 200)

    def first_rows(later: Transactions) -> bytes:
        batch = joined(past.slice(0, known), later)
        return KERNEL.read_and_record(batch, Memory().profiles.open(batch))[:known].tobytes()

    assert first_rows(future) == first_rows(other)
    alone = past.slice(0, known)
    assert (
        first_rows(future) == KERNEL.read_and_record(alone, Memory().profiles.open(alone)).tobytes()
    )


def test_no_feature_of_an_event_sees_the_event_itself() -> None:
    row = Memory().read_at(MONDAY_MS, amount=123_456)

    counts = {name: value for name, value in row.items() if "_count_" in name or "_amount_" in name}
    assert {value for value in counts.values() if not math.isnan(value)} == {0.0}


# Values by hand.


@pytest.mark.parametrize(
    ("time_ms", "hour", "weekday"),
    [
        (MONDAY_MS, 0.0, 0.0),
        (MONDAY_MS + 13 * HOUR_MS + HOUR_MS // 2, 13.5, 0.0),
        (MONDAY_MS - 1, float32((DAY_MS - 1) / HOUR_MS), 6.0),
        (MONDAY_MS + 3 * DAY_MS, 0.0, 3.0),
    ],
)
def test_hour_and_weekday_are_those_of_utc(time_ms: int, hour: float, weekday: float) -> None:
    row = Memory().read_at(time_ms)

    assert (row["hour"], row["weekday"]) == (hour, weekday)


def test_an_entity_without_history_has_nothing_but_priors() -> None:
    row = Memory().read_at(MONDAY_MS)

    assert row["amount"] == float32(math.log1p(1000))
    assert row["card_risk_7d"] == row["terminal_risk_120d"] == float32(0.01)
    assert (row["card_counterpart_new"], row["card_counterparts"]) == (1.0, 0.0)
    unknown = {name for name, value in row.items() if math.isnan(value)}
    assert unknown == {
        "card_seconds_since_last", "card_amount_z", "card_amount_ratio",
        "terminal_amount_ratio_1d", "terminal_amount_ratio_30d",
        *(f"{entity}_{name}" for entity in ("card", "terminal") for name in (
            "verdict", "days_since_run", "days_since_fraud", "days_since_genuine",
            "genuine_since_fraud", "genuine_z", "genuine_ratio", "alike_days_since_run",
            "alike_days_since_fraud", "alike_days_since_genuine",
            "small_share_1h", "small_share_1d", "declined_share_1h", "declined_share_1d",
        )),
    }  # fmt: skip


def test_counts_and_sums_of_a_card_halve_with_their_half_life() -> None:
    memory = Memory()
    memory.read_at(MONDAY_MS, amount=5000)

    row = memory.read_at(MONDAY_MS + HOUR_MS)

    assert row["card_count_1h"] == 0.5
    assert row["card_count_1d"] == float32(0.5 ** (1 / 24))
    assert row["card_amount_7d"] == float32(math.log1p(5000 * 0.5 ** (1 / 168)))
    assert row["card_seconds_since_last"] == float32(math.log1p(3600))
    assert row["card_age_days"] == float32(1 / 24)


def test_a_burst_is_the_rate_of_a_day_against_that_of_a_month() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS] * 3))

    row = memory.read_at(MONDAY_MS)

    assert row["card_burst"] == row["terminal_burst"] == float32(3 / (3 / 30 + 0.1))


def test_an_amount_is_measured_against_the_habit_of_its_card() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS] * 4, amounts=[800, 1200, 800, 1200]))

    row = memory.read_at(MONDAY_MS, amount=2004)

    # Mean 1000, deviation 200, and a floor of 5 % of the mean and one cent.
    assert row["card_amount_z"] == float32(1004 / 251)
    assert row["card_amount_ratio"] == float32(math.log1p(2004) - math.log1p(1000))


def test_a_habit_needs_three_events() -> None:
    memory = Memory()

    rows = memory.read(visits([MONDAY_MS] * 4))

    assert [math.isnan(row["card_amount_z"]) for row in rows] == [True, True, True, False]
    assert [math.isnan(row["card_amount_ratio"]) for row in rows] == [True, False, False, False]


def test_one_large_amount_does_not_become_the_habit() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS] * 4, amounts=[1000, 1000, 1000, 900_000_000]))

    row = memory.read_at(MONDAY_MS, amount=1000)

    # It is taken as three deviations of 51 above 1000.
    usual_mean = (3 * 1000 + 1153) / 4
    assert row["card_amount_ratio"] == float32(math.log1p(1000) - math.log1p(usual_mean))


def test_a_late_event_of_a_card_counts_as_if_it_came_now() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS + 5 * HOUR_MS, MONDAY_MS]))

    row = memory.read_at(MONDAY_MS + 5 * HOUR_MS)

    assert (row["card_count_1h"], row["card_seconds_since_last"]) == (2.0, 0.0)


def test_the_last_eight_counterparts_are_known() -> None:
    memory, times = Memory(), [MONDAY_MS] * 9
    names = [f"m{number}" for number in range(8)]

    rows = memory.read(visits(times, terminals=[*names, "m0"]))
    oldest, newest = memory.read(visits(times[:2], terminals=["m1", "m0"]))

    assert [row["card_counterpart_new"] for row in rows] == [1.0] * 8 + [0.0]
    assert [row["card_counterparts"] for row in rows] == [*range(9)]
    # m0 came a second time and pushed its own first visit out, m1 is pushed out by nobody yet.
    assert (oldest["card_counterpart_new"], newest["card_counterpart_new"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("feature", "last_seen_ms", "first_unseen_ms"),
    [
        ("terminal_count_1h", 2 * HOUR_MS - 1, 2 * HOUR_MS),
        ("terminal_count_1d", 25 * HOUR_MS - 1, 25 * HOUR_MS),
        ("terminal_count_7d", 8 * DAY_MS - 1, 8 * DAY_MS),
        ("terminal_count_30d", 31 * DAY_MS - 1, 31 * DAY_MS),
    ],
)
def test_whole_buckets_of_a_terminal_are_read(
    feature: str, last_seen_ms: int, first_unseen_ms: int
) -> None:
    for later_ms, count in ((last_seen_ms, 1.0), (first_unseen_ms, 0.0)):
        memory = Memory()
        memory.read_at(MONDAY_MS)

        assert memory.read_at(MONDAY_MS + later_ms)[feature] == count


def test_an_amount_is_measured_against_the_mean_of_its_terminal() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS, MONDAY_MS + 2 * DAY_MS], amounts=[1000, 3000]))

    row = memory.read_at(MONDAY_MS + 2 * DAY_MS, amount=4000)

    assert row["terminal_amount_ratio_1d"] == float32(math.log1p(4000) - math.log1p(3000))
    assert row["terminal_amount_ratio_30d"] == float32(math.log1p(4000) - math.log1p(2000))


def test_a_terminal_is_shared_by_cards() -> None:
    memory = Memory()

    rows = memory.read(visits([MONDAY_MS] * 3, cards=["c1", "c2", "c3"]))

    assert [row["terminal_count_1h"] for row in rows] == [0.0, 1.0, 2.0]
    assert [row["card_count_1h"] for row in rows] == [0.0, 0.0, 0.0]


# Rings.


def ring_after(events: Sequence[tuple[int, int]]) -> NDArray[Any]:
    ring = np.zeros((1, BUCKET_SLOTS), dtype=BUCKET)
    times, amounts = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    out = np.empty((len(events), SHARED_WIDTH), dtype=np.float32)
    unusual = (amounts % 2).astype(np.int8)
    shared_kernel(ring, np.zeros(len(events), dtype=np.int32), times, amounts, unusual, out, 0)
    return ring


@given(VISITS, st.randoms(use_true_random=False))
def test_a_ring_is_the_same_after_any_order_of_its_events(
    events: list[tuple[int, int]], chance: Any
) -> None:
    shuffled = events.copy()
    chance.shuffle(shuffled)

    assert ring_after(shuffled).tobytes() == ring_after(sorted(events)).tobytes()


@given(VISITS)
def test_partitions_that_send_sums_make_the_ring_of_all_events(
    events: list[tuple[int, int]],
) -> None:
    merged = np.zeros(BUCKET_SLOTS, dtype=BUCKET)
    for part in (events[::2], events[1::2]):
        [ring] = ring_after(part) if part else np.zeros((1, BUCKET_SLOTS), dtype=BUCKET)
        for slot, added in enumerate(ring.tolist()):
            add_to_bucket(merged, slot, *added)

    assert merged.tobytes() == ring_after(events)[0].tobytes()


def test_a_late_event_touches_its_own_buckets_only() -> None:
    events = [(MONDAY_MS + hour * HOUR_MS, 100) for hour in range(48)]

    ring = ring_after([*events, (MONDAY_MS + 40 * HOUR_MS, 900)])[0]

    before = ring_after(events)[0]
    hour, day = (MONDAY_MS + 40 * HOUR_MS) // HOUR_MS, (MONDAY_MS + 40 * HOUR_MS) // DAY_MS
    changed = np.flatnonzero(ring != before).tolist()
    assert changed == [hour % HOUR_SLOTS, HOUR_SLOTS + day % 31]
    assert (ring["count"] - before["count"])[changed].tolist() == [1, 1]
    assert (ring["amount"] - before["amount"])[changed].tolist() == [900, 900]


def test_an_event_too_late_for_its_hour_still_counts_for_its_day() -> None:
    events = [(MONDAY_MS + hour * HOUR_MS, 100) for hour in range(48)]

    ring = ring_after([*events, (MONDAY_MS + HOUR_MS, 900)])[0]

    changed = np.flatnonzero(ring != ring_after(events)[0]).tolist()
    assert changed == [HOUR_SLOTS + MONDAY_MS // DAY_MS % 31]


def test_buckets_after_an_event_are_not_read() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS + 5 * DAY_MS], cards=["other"]))

    row = memory.read_at(MONDAY_MS)

    assert (row["terminal_count_1d"], row["terminal_count_30d"]) == (0.0, 0.0)


# Unusual amounts.


def test_unusual_amounts_are_counted_where_they_are_spent_and_by_whom() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS] * 9))
    memory.read_at(MONDAY_MS, amount=90_000)

    now, later = (memory.read_at(MONDAY_MS + days * DAY_MS) for days in (0, 1))

    spans = ("1d", "7d", "30d")
    assert [now[f"card_unusual_{span}"] for span in spans] == [1.0, 1.0, 1.0]
    assert later["card_unusual_1d"] == 0.5
    assert [now[f"terminal_unusual_{span}"] for span in spans] == [1.0, 1.0, 1.0]
    assert memory.read_at(MONDAY_MS + 9 * DAY_MS)["terminal_unusual_7d"] == 0.0


def test_stored_features_tell_which_amounts_were_unusual() -> None:
    memory = Memory()
    batch = visits([MONDAY_MS] * 10, amounts=[1000] * 9 + [90_000])

    features = KERNEL.read_and_record(batch, memory.profiles.open(batch))

    assert unusual_amounts(features, CARD).tolist() == [0] * 9 + [1]
