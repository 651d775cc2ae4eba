"""Features of card testing: what they count, how sure that is, and who has them at all."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.card_testing import SET_BITS, add_probe, estimated, places_of
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.errors import CommitError, SchemaError
from pipeline.events import Transactions
from pipeline.features import FeatureKernel
from pipeline.profiles import PROBES, LearnedProfiles, MemoryProfiles, probe_table
from pipeline.schema import load_schema, parse_schema
from pipeline.stored_rows import check_probe_bytes, check_probes
from tests.strategies import CARD, MONDAY_MS, visits

KERNEL = FeatureKernel(CARD)
HOUR = MONDAY_MS // HOUR_MS
# Events of one entity: the hour (0 to 29), whether the amount is small, the counterpart.
PROBED = st.lists(
    st.tuples(st.integers(0, 29), st.booleans(), st.integers(0, 40)), min_size=1, max_size=60
)


def read(*batches: Transactions, kernel: FeatureKernel = KERNEL) -> list[dict[str, float]]:
    profiles = MemoryProfiles(CARD, LearnedProfiles(CARD))
    rows = [kernel.read_and_record(batch, profiles.open(batch)) for batch in batches]
    return [dict(zip(kernel.names, row, strict=True)) for part in rows for row in part.tolist()]


def recorded(events: Sequence[tuple[int, bool, int]]) -> NDArray[Any]:
    row = np.zeros(1, PROBES)
    places = places_of([f"c{other}" for _, _, other in events])
    for (hour, small, _), place in zip(events, places.tolist(), strict=True):
        add_probe(row["hours"][0], row["seen"][0], HOUR + hour, small, place)
    return row


def test_small_and_zero_amounts_are_counted_by_the_hour_and_by_the_day() -> None:
    times = [MONDAY_MS, MONDAY_MS + 1, MONDAY_MS + 2, MONDAY_MS + 3 * HOUR_MS]
    rows = read(visits(times, amounts=[0, 200, 201, 5_000]))

    assert [row["card_small_1h"] for row in rows] == [0, 1, 2, 0]
    assert [row["terminal_small_1d"] for row in rows] == [0, 1, 2, 2]
    assert [row["card_small_share_1d"] for row in rows][1:] == pytest.approx([1, 1, 2 / 3])
    assert np.isnan([rows[0]["card_small_share_1h"], rows[3]["card_small_share_1h"]]).all()
    assert (
        read(visits([MONDAY_MS, MONDAY_MS + 25 * HOUR_MS], amounts=[0, 0]))[1]["card_small_1d"] == 0
    )


def test_different_cards_at_a_terminal_and_terminals_of_a_card_are_counted() -> None:
    cards = ["a", "b", "a", "c", "c", "d"]
    rows = read(visits([MONDAY_MS + place for place in range(6)], cards=cards))

    assert [row["terminal_cards_1h"] for row in rows] == [0, 1, 2, 2, 3, 3]
    assert [row["card_terminals_1h"] for row in rows] == [0, 0, 1, 0, 1, 0]


@given(PROBED)
def test_counts_are_those_of_exact_sets_within_what_is_promised(
    events: list[tuple[int, bool, int]],
) -> None:
    events = sorted(events)
    times = [MONDAY_MS + hour * HOUR_MS + place for place, (hour, _, _) in enumerate(events)]
    amounts = [200 if small else 201 for _, small, _ in events]
    rows = read(visits(times, cards=[f"c{other}" for _, _, other in events], amounts=amounts))

    for place, (hour, _, _) in enumerate(events):
        before = [event for event in events[:place] if hour - event[0] <= 24]
        near = [event for event in before if hour - event[0] <= 1]
        different = len({other for _, _, other in near})
        assert rows[place]["terminal_small_1d"] == sum(small for _, small, _ in before)
        assert rows[place]["terminal_small_1h"] == sum(small for _, small, _ in near)
        assert abs(rows[place]["terminal_cards_1h"] - different) <= max(2, different // 4)


@pytest.mark.parametrize(
    ("different", "exactly", "error_max"), [(5, 0.95, 0.3), (10, 0.88, 0.5), (20, 0.6, 1.0),
    (100, 0.05, 4.0), (1000, 0.0, 70.0)]
)  # fmt: skip
def test_the_error_of_the_sketch_is_the_documented_one(
    different: int, exactly: float, error_max: float
) -> None:
    chance = np.random.default_rng(7)
    found = []
    for _ in range(300):
        ids = [f"card-{number}" for number in chance.choice(10**7, different, replace=False)]
        bits = np.packbits(np.bincount(places_of(ids), minlength=512) > 0)
        found.append(estimated(int(SET_BITS[bits].sum())))
    errors = np.array(found) - different

    assert (errors == 0).mean() >= exactly
    assert np.sqrt((errors**2).mean()) <= error_max
    assert abs(errors.mean()) <= 0.03 * different


def test_a_full_sketch_says_the_most_that_it_can() -> None:
    assert estimated(512) == estimated(511) == 3194


@given(PROBED, st.randoms(use_true_random=False))
def test_a_row_is_the_same_after_any_order_of_its_events(
    events: list[tuple[int, bool, int]], chance: Any
) -> None:
    shuffled = events.copy()
    chance.shuffle(shuffled)

    row = recorded(shuffled)

    assert row.tobytes() == recorded(sorted(events)).tobytes()
    check_probes(["p:terminal:m1"], row)


@given(st.lists(st.tuples(st.integers(0, 3 * DAY_MS), st.integers(0, 5), st.integers(0, 400)),
                min_size=2, max_size=40), st.integers(1, 39))  # fmt: skip
def test_the_size_of_batches_changes_no_bit(events: list[tuple[int, int, int]], cut: int) -> None:
    events = sorted(events)
    batch = visits(
        [MONDAY_MS + time for time, _, _ in events],
        cards=[f"c{card}" for _, card, _ in events],
        amounts=[amount for _, _, amount in events],
    )
    parts = [batch.slice(place, place + cut) for place in range(0, len(batch), cut)]
    profiles, others = (MemoryProfiles(CARD, LearnedProfiles(CARD)) for _ in range(2))

    whole = KERNEL.read_and_record(batch, profiles.open(batch))
    pieces = [KERNEL.read_and_record(part, others.open(part)) for part in parts]

    assert whole.tobytes() == np.concatenate(pieces).tobytes()


def test_who_does_not_ask_for_card_testing_has_the_features_of_before() -> None:
    hashes = {name: FeatureKernel(load_schema(name)).schema_hash
              for name in ("handbook", "ecommerce", "phishing")}  # fmt: skip
    silent = FeatureKernel(replace(CARD, small_amount_minor=None))

    assert hashes == {
        "handbook": "6641325c6766bdd6",
        "ecommerce": "baa7d525ab36df5f",
        "phishing": "cca7e2ac7bc6351d",
    }
    assert silent.schema_hash == hashes["handbook"]
    assert silent.names == KERNEL.names[: len(silent.names)]


def test_another_small_amount_makes_other_features() -> None:
    assert FeatureKernel(replace(CARD, small_amount_minor=100)).schema_hash != KERNEL.schema_hash


SCHEMA = """
name = "mine"
version = 1
[event]
id = "id"
time = "time"
{amount}
[[entity]]
name = "card"
field = "card"
{second}
[card_testing]
small_amount = "{small}"
"""
AMOUNT = 'amount = "amount"\ncurrency_default = "EUR"'
SECOND = '[[entity]]\nname = "shop"\nfield = "shop"'


def test_a_schema_names_the_largest_small_amount_in_major_units() -> None:
    text = SCHEMA.format(amount=AMOUNT, second=SECOND, small="0.50")

    assert parse_schema(text, place="mine").small_amount_minor == 50


@pytest.mark.parametrize(
    ("amount", "second", "small", "said"),
    [
        (AMOUNT, SECOND, "0.505", "small_amount must be an amount in major units"),
        (AMOUNT, SECOND, "-1", r"small_amount .* \(got '-1'\)"),
        (AMOUNT, SECOND, "NaN", r"small_amount .* \(got 'NaN'\)"),
        (AMOUNT, "", "1", "needs an amount in .* and two"),
        ("", SECOND, "1", "needs an amount in .* and two"),
        (AMOUNT.replace("amount =", "currency ="), SECOND, "1", "needs an amount"),
    ],
)
def test_a_schema_that_cannot_have_card_testing_is_refused(
    amount: str, second: str, small: str, said: str
) -> None:
    with pytest.raises(SchemaError, match=said):
        parse_schema(SCHEMA.format(amount=amount, second=second, small=small), place="mine")


def test_a_first_entity_that_never_comes_twice_has_no_card_testing() -> None:
    text = SCHEMA.format(amount=AMOUNT, second=SECOND, small="1").replace('"id"', '"card"')

    with pytest.raises(SchemaError, match="comes more than once"):
        parse_schema(text, place="mine")


@pytest.mark.parametrize("length", [0, 12, 300, 367, 369, 640])
def test_a_stored_row_ends_where_a_sketch_ends(length: int) -> None:
    with pytest.raises(CommitError, match=f"p:card:c1 .* it has {length} bytes"):
        check_probe_bytes("p:card:c1", bytes(length))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("hours", "bucket", 1), ("hours", "small", 3), ("hours", "count", -1), ("seen", "bucket", 1),
     ("seen", "bits", 0)],
)  # fmt: skip
def test_a_row_that_no_event_can_have_written_is_refused(part: str, field: str, value: int) -> None:
    row = recorded([(0, True, 1), (0, False, 2)])
    slot = np.flatnonzero(row[part]["bucket"][0])[0]
    row[part][field][0, slot] = value

    with pytest.raises(CommitError, match="p:card:c1 .* no event can have written"):
        check_probes(["p:card:c1"], row)


def test_a_row_comes_back_from_its_stored_form() -> None:
    table, other = probe_table(), probe_table()
    row = recorded([(0, True, 1), (1, False, 2)])
    other.load(["a"], [row.tobytes()])
    table.load(["a"], [other.blob("a")[:436]])

    check_probe_bytes("p:card:a", other.blob("a")[:436])
    assert table.blob("a")[:436] == row.tobytes()[:436]
