"""A transaction that comes again is decided once; an id of two transactions is a contradiction."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import make_model
from pipeline.durations import DAY_MS
from pipeline.engine import Engine, Version
from pipeline.errors import SettingError
from pipeline.events import Transactions
from pipeline.feedback import MemoryWaiting
from pipeline.memory_ids import MemoryIds
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from pipeline.recent_ids import Sieve, contents_of, digests_of
from pipeline.settings import Settings
from pipeline.texts import Numerals, Vocabulary
from tests.strategies import CARD, MONDAY_MS, visits

SECOND_MS = 1_000
WINDOW_MS = 7 * DAY_MS


def sifted(batch: Transactions, ids: MemoryIds | None = None) -> tuple[list[int], int, list[int]]:
    """Sift a batch; gives the fresh rows, the number of duplicates, the conflicting rows."""
    found = (MemoryIds(Settings()) if ids is None else ids).sift(batch)
    return found.fresh.tolist(), found.duplicates, found.conflicts.tolist()


def test_the_same_transaction_again_is_a_duplicate() -> None:
    assert sifted(visits([MONDAY_MS] * 3, ids=["t", "t", "t"])) == ([0], 2, [])


@pytest.mark.parametrize(
    "second",
    [
        visits([MONDAY_MS], ids=["t"], amounts=[1001]),
        visits([MONDAY_MS + 1], ids=["t"]),
        visits([MONDAY_MS], ids=["t"], cards=["c2"]),
        visits([MONDAY_MS], ids=["t"], terminals=["m2"]),
        replace(visits([MONDAY_MS], ids=["t"]), currency=["USD"]),
    ],
    ids=["amount", "time", "card", "terminal", "currency"],
)
def test_an_id_with_anything_else_in_it_contradicts(second: Transactions) -> None:
    ids = MemoryIds(Settings())

    assert sifted(visits([MONDAY_MS], ids=["t"]), ids) == ([0], 0, [])
    assert sifted(second, ids) == ([], 0, [0])
    # The first one counts, however often the other comes.
    assert sifted(second, ids) == ([], 0, [0])
    assert sifted(visits([MONDAY_MS], ids=["t"]), ids) == ([], 1, [])


def test_a_number_that_differs_contradicts() -> None:
    batch = replace(
        visits([MONDAY_MS] * 4, ids=["t"] * 4),
        numbers=np.array([[0.5], [0.5], [0.25], [np.nan]], np.float32),
    )

    assert sifted(batch) == ([0], 1, [2, 3])


def test_fields_do_not_run_into_each_other() -> None:
    first = visits([MONDAY_MS], cards=["c1"], terminals=["1m"])
    other = visits([MONDAY_MS], cards=["c11"], terminals=["m"])

    assert contents_of(first) != contents_of(other)


def test_a_separator_within_a_field_makes_no_two_contents_equal() -> None:
    plain = (["a"], ["b"], ["c"])
    pairs = [(["a\x1fb"], ["c"], ["d"]), (["a"], ["b\x1fc"], ["d"]), (["a"], ["b"], ["c\x1fd"])]
    batches = [replace(visits([MONDAY_MS], ids=["t"]), keys=keys) for keys in (*pairs, plain)]

    assert len({contents_of(batch)[0] for batch in batches}) == len(batches)
    for batch in batches:
        assert contents_of(batch) == contents_of(replace(batch, transaction_id=["other"]))


def test_near_duplicates_are_events_of_their_own() -> None:
    """Other ids, the same card, amount and terminal, within seconds: two coffees, say."""
    times = [MONDAY_MS, MONDAY_MS, MONDAY_MS + SECOND_MS, MONDAY_MS + 2 * SECOND_MS]

    assert sifted(visits(times, ids=["t1", "t2", "t3", "t4"])) == ([0, 1, 2, 3], 0, [])


@pytest.mark.parametrize(("late_ms", "is_known"), [(0, True), (SECOND_MS, False)])
def test_an_id_is_known_for_the_window_to_the_second(late_ms: int, is_known: bool) -> None:
    ids = MemoryIds(Settings())
    sifted(visits([MONDAY_MS], ids=["t"]), ids)
    sifted(visits([MONDAY_MS + WINDOW_MS + late_ms], ids=["newest"]), ids)

    expected = ([], 1, []) if is_known else ([0], 0, [])
    assert sifted(visits([MONDAY_MS], ids=["t"]), ids) == expected


def test_a_late_event_is_remembered_as_long_as_any_other() -> None:
    ids = MemoryIds(Settings())
    late = visits([MONDAY_MS], ids=["late"])
    sifted(visits([MONDAY_MS + 30 * DAY_MS], ids=["newest"]), ids)

    assert sifted(late, ids) == ([0], 0, [])
    sifted(visits([MONDAY_MS + 30 * DAY_MS + WINDOW_MS], ids=["next"]), ids)
    assert sifted(late, ids) == ([], 1, [])


def test_neither_duplicates_nor_contradictions_move_the_window() -> None:
    ids = MemoryIds(Settings())
    sifted(visits([MONDAY_MS], ids=["t"]), ids)
    sifted(visits([MONDAY_MS + 99 * DAY_MS], ids=["t"]), ids)

    assert sifted(visits([MONDAY_MS], ids=["t"]), ids) == ([], 1, [])


def test_an_id_that_has_expired_is_remembered_anew() -> None:
    ids = MemoryIds(Settings())
    old, later = visits([MONDAY_MS], ids=["t"]), MONDAY_MS + 2 * WINDOW_MS
    sifted(old, ids)
    sifted(visits([later], ids=["newest"]), ids)

    assert sifted(old, ids) == ([0], 0, [])
    assert sifted(old, ids) == ([], 1, [])


def test_memory_holds_a_window_and_little_more() -> None:
    ids = MemoryIds(Settings(duplicate_days=1.0))
    for day in range(20):
        times = MONDAY_MS + day * DAY_MS + np.arange(0, DAY_MS, DAY_MS // 1_000)
        sifted(visits(times.tolist(), ids=[f"{day}-{row}" for row in range(len(times))]), ids)

    assert 1_000 <= len(ids) <= 1_100
    assert ids.dropped == 0


def test_at_the_limit_the_oldest_go_and_are_counted() -> None:
    ids = MemoryIds(Settings(duplicate_ids_max=100))
    batch = visits([MONDAY_MS] * 300, ids=[f"t{number}" for number in range(300)])
    sifted(batch, ids)

    assert (len(ids), ids.dropped) == (100, 200)
    assert sifted(batch.slice(200, 300), ids) == ([], 100, [])
    assert sifted(batch.slice(199, 200), ids) == ([0], 0, [])


@pytest.mark.parametrize("days", [0.0, -1.0])
def test_a_window_of_nothing_is_refused(days: float) -> None:
    with pytest.raises(SettingError, match="duplicate_days"):
        Settings(duplicate_days=days)


def test_hashes_are_the_same_on_every_machine() -> None:
    batch = visits([MONDAY_MS], ids=["t1"])

    assert [item.hex() for item in digests_of(batch)] == ["cbe920c372f7cf29"]
    assert [item.hex() for item in contents_of(batch)] == ["e95b100baedb"]


# A few ids and days: duplicates, contradictions and expiry all come about.
STREAMS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(1, 2), st.integers(1, 2)),
    min_size=1,
    max_size=60,
)


def stream_of(events: Sequence[tuple[int, int, int, int]]) -> Transactions:
    return visits(
        [MONDAY_MS + day * DAY_MS for _, day, _, _ in events],
        ids=[f"t{number}" for number, _, _, _ in events],
        amounts=[amount for _, _, amount, _ in events],
        cards=[f"c{card}" for _, _, _, card in events],
    )


def by_the_book(batch: Transactions) -> tuple[list[int], int, list[int]]:
    """Say the rule again, plainly: every event against every one before it."""
    kept: dict[str, tuple[int, object]] = {}
    newest = 0
    fresh, duplicates, conflicts = [], 0, []
    for row, key in enumerate(batch.transaction_id):
        content = (
            int(batch.event_time_ms[row]),
            int(batch.amount_minor[row]),
            *(ids[row] for ids in batch.keys),
        )
        seen = kept.get(key)
        if seen is not None and newest - seen[0] <= WINDOW_MS:
            if seen[1] == content:
                duplicates += 1
            else:
                conflicts.append(row)
            continue
        newest = max(newest, content[0])
        kept[key] = newest, content
        fresh.append(row)
    return fresh, duplicates, conflicts


@given(STREAMS, st.integers(1, 60))
def test_batches_of_any_size_sift_as_the_rule_says(
    events: list[tuple[int, int, int, int]], size: int
) -> None:
    batch, ids = stream_of(events), MemoryIds(Settings())
    fresh, conflicts = list[int](), list[int]()
    duplicates = 0
    for start in range(0, len(batch), size):
        found = sifted(batch.slice(start, min(start + size, len(batch))), ids)
        fresh += [start + row for row in found[0]]
        duplicates += found[1]
        conflicts += [start + row for row in found[2]]

    assert (fresh, duplicates, conflicts) == by_the_book(batch)


def of_numbers(batch: Transactions, kind: int) -> Transactions:
    """Give the same events with ids that are whole numbers, as texts or not, keys coded or not."""
    numbers = [int(key[1:]) for key in batch.transaction_id]
    texts: Sequence[str] = Numerals(np.array(numbers)) if kind % 2 else list(map(str, numbers))
    words = [Vocabulary() for _ in batch.keys]
    keys = [item.coded(ids) for item, ids in zip(words, batch.keys, strict=True)]
    return replace(batch, transaction_id=texts, keys=tuple(keys) if kind > 1 else batch.keys)


@given(STREAMS, st.integers(1, 60), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_what_ids_and_keys_are_made_of_changes_nothing(
    events: list[tuple[int, int, int, int]], size: int, kinds: list[int]
) -> None:
    batch, ids, others = stream_of(events), MemoryIds(Settings()), MemoryIds(Settings())
    for start, kind in zip(range(0, len(batch), size), kinds, strict=False):
        part = batch.slice(start, min(start + size, len(batch)))

        assert sifted(of_numbers(part, kind), others) == sifted(part, ids)


@given(STREAMS, st.integers(1, 60))
def test_memory_sifts_as_the_rule_of_redis_does(
    events: list[tuple[int, int, int, int]], size: int
) -> None:
    batch, ids, sieve = stream_of(events), MemoryIds(Settings()), Sieve(WINDOW_MS)
    known: dict[bytes, bytes] = {}
    for start in range(0, len(batch), size):
        part = batch.slice(start, min(start + size, len(batch)))
        found, entries = sieve.sift(part, digests_of(part), known)
        known |= entries

        expected = (found.fresh.tolist(), found.duplicates, found.conflicts.tolist())
        assert sifted(part, ids) == expected


def engine() -> Engine:
    profiles = MemoryProfiles(CARD, LearnedProfiles(CARD))
    made = Engine(CARD, Settings(), profiles, MemoryWaiting(100))
    made.adopt(Version(make_model("additive", made.kernel.names), 0))
    return made


def test_profiles_count_a_duplicate_once_and_a_contradiction_never() -> None:
    batch = visits(
        [MONDAY_MS] * 4, ids=["t1", "t1", "t1", "t2"], cards=["c1", "c1", "c2", "c1"],
        amounts=[1000, 1000, 1000, 1000],
    )  # fmt: skip
    ours, alone = engine(), engine()

    decisions = ours.decide(batch)
    expected = alone.decide(batch.take(np.array([0, 3])))

    assert (decisions.rows.tolist(), decisions.conflicts.tolist()) == ([0, 3], [2])
    assert decisions.features.tobytes() == expected.features.tobytes()
