"""Rows by id: they grow, are stored as bytes and read back; a hash tells ids apart."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.profiles import (
    BUCKET,
    BUCKET_SLOTS,
    LEARNED,
    TRAFFIC,
    LearnedProfiles,
    MemoryProfiles,
    Table,
    bucket_table,
    counterpart_hashes,
    learned_table,
    traffic_table,
)
from tests.strategies import CARD, IDS, MONDAY_MS, ONE_ENTITY, first_entity, visits

TABLES = [traffic_table, bucket_table, learned_table]


def filled(table: Table, ids: list[str], seed: int = 1) -> Table:
    """Give each id's row random bytes."""
    slots = table.slots(ids)
    chance = np.random.default_rng(seed)
    raw = table.rows.view(np.uint8).reshape(len(table.rows), -1)
    raw[slots] = chance.integers(0, 256, (len(ids), raw.shape[1]), dtype=np.uint8)
    return table


@given(st.lists(IDS, max_size=60))
def test_an_id_keeps_its_slot_and_a_new_one_gets_the_next(ids: list[str]) -> None:
    table = traffic_table()

    slots = table.slots(ids).tolist()

    assert table.slots(ids).tolist() == slots
    assert table.ids == list(dict.fromkeys(ids))
    assert [table.ids[slot] for slot in slots] == ids


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("count", [15, 16, 17, 1000])
def test_rows_keep_their_bytes_when_the_table_grows(make: Callable[[], Table], count: int) -> None:
    table = filled(make(), ["a", "b"])
    before = table.blob("a"), table.blob("b")

    table.slots([f"x{number}" for number in range(count)])

    assert (table.blob("a"), table.blob("b")) == before
    assert len(table) == count + 2
    assert len(table.rows) >= len(table)


@pytest.mark.parametrize("make", TABLES)
def test_a_row_that_is_new_is_empty(make: Callable[[], Table]) -> None:
    table = filled(make(), [f"a{number}" for number in range(16)])

    table.slots(["new"])

    assert table.blob("new") == bytes(len(table.blob("new")))


@pytest.mark.parametrize("make", TABLES)
def test_what_is_stored_is_loaded_again(make: Callable[[], Table]) -> None:
    ids = [f"a{number}" for number in range(40)]
    table, other = filled(make(), ids), make()

    other.load(ids[::-1], [table.blob(key) for key in ids[::-1]])

    assert [other.blob(key) for key in ids] == [table.blob(key) for key in ids]


@pytest.mark.parametrize("make", TABLES)
def test_loading_replaces_a_row_in_its_slot(make: Callable[[], Table]) -> None:
    table = filled(make(), ["a", "b"])
    kept, stored = table.blob("b"), filled(make(), ["x"], seed=2).blob("x")

    table.load(["a"], [stored])

    assert (table.blob("a"), table.blob("b"), table.ids) == (stored, kept, ["a", "b"])


@pytest.mark.parametrize("buckets", [0, 1, 24, BUCKET_SLOTS])
def test_a_ring_that_was_stored_short_is_empty_at_its_end(buckets: int) -> None:
    table, other = filled(bucket_table(), ["a"]), bucket_table()
    stored = table.blob("a")[: buckets * BUCKET.itemsize]

    other.load(["a"], [stored])

    assert other.blob("a") == stored.ljust(BUCKET_SLOTS * BUCKET.itemsize, b"\0")


def test_a_short_ring_among_whole_ones_shifts_nothing() -> None:
    table, other = filled(bucket_table(), ["a", "b", "c"]), bucket_table()

    other.load(["a", "b", "c"], [table.blob("a"), b"", table.blob("c")])

    assert (other.blob("a"), other.blob("c")) == (table.blob("a"), table.blob("c"))
    assert not any(other.blob("b"))


def test_loading_nothing_changes_nothing() -> None:
    table = filled(traffic_table(), ["a"])
    before = table.blob("a")

    table.load([], [])

    assert (table.blob("a"), len(table)) == (before, 1)


@pytest.mark.parametrize("make", TABLES)
def test_a_cleared_table_has_forgotten_every_id(make: Callable[[], Table]) -> None:
    table = filled(make(), ["a"])

    table.clear()

    assert (len(table), "a" in table) == (0, False)
    table.slots(["a"])
    assert not any(table.blob("a"))


@pytest.mark.parametrize("dtype", [TRAFFIC, BUCKET, LEARNED])
def test_a_stored_row_has_no_gaps(dtype: "np.dtype[np.void]") -> None:
    fields = dtype.fields
    assert fields is not None

    assert sum(field[0].itemsize for field in fields.values()) == dtype.itemsize


def test_batches_of_memory_profiles_share_their_rows() -> None:
    profiles = MemoryProfiles(CARD, LearnedProfiles(CARD))
    profiles.open(visits([MONDAY_MS])).traffic.values["last_ms"][0] = 7
    profiles.open(visits([MONDAY_MS] * 40, cards=[f"x{number}" for number in range(40)]))

    view = profiles.open(visits([MONDAY_MS]))

    assert view.traffic.values["last_ms"][view.traffic.slots].tolist() == [7]


def test_a_view_says_which_labels_it_knows() -> None:
    learned = LearnedProfiles(CARD)
    learned.offset = 17

    assert MemoryProfiles(CARD, learned).open(visits([MONDAY_MS])).label_offset == 17


def test_a_schema_of_one_entity_shares_nothing() -> None:
    learned = LearnedProfiles(ONE_ENTITY)

    view = MemoryProfiles(ONE_ENTITY, learned).open(first_entity(visits([MONDAY_MS] * 2)))

    assert (view.shared, len(view.learned)) == ((), 1)


@given(st.lists(IDS, unique=True, max_size=40))
def test_no_hash_of_a_counterpart_is_0_which_means_none(ids: list[str]) -> None:
    assert 0 not in counterpart_hashes(ids).tolist()


def test_hashes_are_the_same_on_every_machine() -> None:
    assert counterpart_hashes(["m1"]).tolist() == [7_521_699_631]
