"""Features of card testing: what they count, how sure that is, and who has them at all."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.card_testing import SET_BITS, add_probe, estimated, places_of
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.errors import DataError, SchemaError
from pipeline.events import Transactions
from pipeline.features import FeatureKernel
from pipeline.memory_ids import MemoryIds
from pipeline.profiles import PROBES, LearnedProfiles, MemoryProfiles
from pipeline.schema import DECLINED, load_schema, parse_schema
from pipeline.settings import Settings
from pipeline.transactions import TransactionDecoder
from producers.datasets import read_events
from producers.encoding import TransactionEncoder
from producers.schema_check import check_file
from producers.simulator import SimulatorOptions, simulate
from producers.writing import write_events
from tests.strategies import CARD, MONDAY_MS, declined_of, event_bytes, traffic, visits

KERNEL = FeatureKernel(CARD)
HOUR = MONDAY_MS // HOUR_MS
# Events of one entity: the hour (0 to 29), whether the amount is small, whether the attempt was
# declined, the counterpart.
Probed = tuple[int, bool, bool, int]
PROBED = st.lists(
    st.tuples(st.integers(0, 29), st.booleans(), st.booleans(), st.integers(0, 40)),
    min_size=1,
    max_size=60,
)


def memory() -> MemoryProfiles:
    return MemoryProfiles(CARD, LearnedProfiles(CARD))


def read(*batches: Transactions, kernel: FeatureKernel = KERNEL) -> list[dict[str, float]]:
    profiles = memory()
    rows = [kernel.read_and_record(batch, profiles.open(batch)) for batch in batches]
    return [dict(zip(kernel.names, row, strict=True)) for part in rows for row in part.tolist()]


def recorded(events: Sequence[Probed]) -> NDArray[Any]:
    row = np.zeros(1, PROBES)
    places = places_of([f"c{event[-1]}" for event in events])
    for (hour, small, declined, _), place in zip(events, places.tolist(), strict=True):
        add_probe(row["hours"][0], row["seen"][0], HOUR + hour, small, declined, place)
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


def test_declined_attempts_are_counted_by_the_hour_and_by_the_day() -> None:
    times = [MONDAY_MS, MONDAY_MS + 1, MONDAY_MS + 2, MONDAY_MS + 3 * HOUR_MS]
    rows = read(visits(times, cards=["a", "b", "a", "a"], declined=[True, True, False, False]))

    assert [row["terminal_declined_1h"] for row in rows] == [0, 1, 2, 0]
    assert [row["terminal_declined_1d"] for row in rows] == [0, 1, 2, 2]
    assert [row["card_declined_1h"] for row in rows] == [0, 0, 1, 0]
    assert [row["card_declined_share_1d"] for row in rows][2:] == [1, 0.5]
    assert [row["terminal_declined_share_1d"] for row in rows][1:] == pytest.approx([1, 1, 2 / 3])
    assert np.isnan([rows[1]["card_declined_share_1d"], rows[3]["card_declined_share_1h"]]).all()
    late = visits([MONDAY_MS, MONDAY_MS + 25 * HOUR_MS], declined=[True, False])
    assert read(late)[1]["card_declined_1d"] == 0


def test_an_answer_that_is_not_known_is_not_one_of_a_refusal() -> None:
    times = [MONDAY_MS, MONDAY_MS + 1]

    def features(*declined: bool) -> bytes:
        batch = visits(times, declined=declined or None)
        return KERNEL.read_and_record(batch, memory().open(batch)).tobytes()

    assert features() == features(False, False) != features(True, False)


@pytest.mark.parametrize("row", [0, 17, 158, 299])
def test_no_feature_of_an_event_sees_its_own_answer(row: int) -> None:
    batch = traffic(3, 300, cards=4, terminals=3)
    answers = declined_of(batch).copy()
    answers[row] = ~answers[row]
    other = replace(batch, declined=answers)
    ours, theirs = (KERNEL.read_and_record(b, memory().open(b)) for b in (batch, other))

    assert ours[: row + 1].tobytes() == theirs[: row + 1].tobytes()
    # It is felt by what comes afterwards, and by features of declines alone.
    assert row == 299 or (ours[row + 1 :].tobytes() != theirs[row + 1 :].tobytes())
    changed = np.flatnonzero((ours.view(np.int32) != theirs.view(np.int32)).any(axis=0))
    assert all("_declined_" in KERNEL.names[column] for column in changed)


def test_answers_are_felt_in_the_order_of_events_alone() -> None:
    batch = traffic(4, 300, cards=4, terminals=3)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    shuffled = np.random.default_rng(1).permutation(declined_of(batch))
    ours = KERNEL.read_and_record(batch, memory().open(batch))
    theirs = replace(batch, declined=shuffled)
    found = KERNEL.read_and_record(theirs, memory().open(theirs))

    column = KERNEL.names.index("terminal_declined_1d")
    assert ours[:, column].tobytes() != found[:, column].tobytes()
    for row, (time, terminal) in enumerate(
        zip((batch.event_time_ms // HOUR_MS).tolist(), batch.keys[1], strict=True)
    ):
        before = [
            bool(shuffled[place])
            for place in range(row)
            if batch.keys[1][place] == terminal
            and 0 <= time - batch.event_time_ms[place] // HOUR_MS <= 24
        ]
        assert found[row, column] == sum(before)


def test_different_cards_at_a_terminal_and_terminals_of_a_card_are_counted() -> None:
    cards = ["a", "b", "a", "c", "c", "d"]
    rows = read(visits([MONDAY_MS + place for place in range(6)], cards=cards))

    assert [row["terminal_cards_1h"] for row in rows] == [0, 1, 2, 2, 3, 3]
    assert [row["card_terminals_1h"] for row in rows] == [0, 0, 1, 0, 1, 0]


@given(PROBED)
def test_counts_are_those_of_exact_sets_within_what_is_promised(
    events: list[Probed],
) -> None:
    events = sorted(events)
    times = [MONDAY_MS + hour * HOUR_MS + place for place, (hour, *_) in enumerate(events)]
    amounts = [200 if small else 201 for _, small, _, _ in events]
    cards = [f"c{other}" for *_, other in events]
    rows = read(
        visits(times, cards=cards, amounts=amounts, declined=[event[2] for event in events])
    )

    for place, (hour, *_) in enumerate(events):
        before = [event for event in events[:place] if hour - event[0] <= 24]
        near = [event for event in before if hour - event[0] <= 1]
        different = len({other for *_, other in near})
        assert rows[place]["terminal_small_1d"] == sum(small for _, small, _, _ in before)
        assert rows[place]["terminal_small_1h"] == sum(small for _, small, _, _ in near)
        assert rows[place]["terminal_declined_1d"] == sum(event[2] for event in before)
        assert rows[place]["terminal_declined_1h"] == sum(event[2] for event in near)
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


def plain_place(key: str) -> int:
    found = zlib.crc32(key.encode())
    found ^= found >> 16
    found = found * 0x85EBCA6B % (1 << 32)
    found ^= found >> 13
    found = found * 0xC2B2AE35 % (1 << 32)
    found ^= found >> 16
    return found % 512


def test_an_id_has_the_place_that_murmurhash_gives_its_crc() -> None:
    ids = ["", "c1", "é", "\U0001f600", *(f"card-{number}" for number in range(20_000))]

    assert places_of(ids).tolist() == list(map(plain_place, ids))
    # What is stored goes by it: it must never change.
    assert places_of(["c1", "m1"]).tolist() == [231, 296]


def test_a_full_sketch_says_the_most_that_it_can() -> None:
    assert estimated(512) == estimated(511) == 3194


@given(PROBED, st.randoms(use_true_random=False))
def test_a_row_is_the_same_after_any_order_of_its_events(events: list[Probed], chance: Any) -> None:
    shuffled = events.copy()
    chance.shuffle(shuffled)

    row = recorded(shuffled)

    assert row.tobytes() == recorded(sorted(events)).tobytes()


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
    silent = FeatureKernel(replace(CARD, small_amount_minor=None, response=None, declined=()))
    unanswered = FeatureKernel(replace(CARD, response=None, declined=()))

    assert hashes == {
        "handbook": "6641325c6766bdd6",
        "ecommerce": "baa7d525ab36df5f",
        "phishing": "cca7e2ac7bc6351d",
    }
    assert silent.schema_hash == hashes["handbook"]
    assert silent.names == KERNEL.names[: len(silent.names)]
    # Card testing without an answer has the features, and the hash, that it always had.
    assert unanswered.schema_hash == "62385db35a4c81f6"
    assert unanswered.names == tuple(name for name in KERNEL.names if "_declined_" not in name)


def test_another_small_amount_makes_other_features() -> None:
    assert FeatureKernel(replace(CARD, small_amount_minor=100)).schema_hash != KERNEL.schema_hash


def test_other_codes_of_a_refusal_make_other_features() -> None:
    fewer, turned = (
        FeatureKernel(replace(CARD, declined=codes)).schema_hash
        for codes in (CARD.declined[1:], CARD.declined[::-1])
    )

    assert fewer != turned == KERNEL.schema_hash


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


def test_a_schema_names_the_answer_and_its_refusals() -> None:
    text = SCHEMA.format(amount=AMOUNT, second=SECOND, small="1")
    plain, answered, own = (
        parse_schema(text + more, place="mine")
        for more in ("", 'response = "rc"', 'response = "rc"\ndeclined = ["do_not_honor", "N7"]')
    )

    assert (plain.response, plain.declined) == (None, ())
    assert (answered.response, answered.declined) == ("rc", DECLINED)
    assert own.declined == ("do_not_honor", "N7")
    assert "rc" not in own.event_fields


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('declined = ["05"]', "needs response"),
        ('response = "rc"\ndeclined = ["05", "05"]', r"each once \(got '05'\)"),
        ('response = "rc"\ndeclined = ["not honoured"]', "codes of 1 to 32 letters"),
        ('response = "rc"\ndeclined = [5]', "Expected `str`, got `int`"),
        ('response = "card"', "field 'card' is used twice"),
    ],
)
def test_answers_that_cannot_be_are_refused(more: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        parse_schema(SCHEMA.format(amount=AMOUNT, second=SECOND, small="1") + more, place="mine")


def test_the_answer_is_decoded_to_whether_it_is_a_refusal() -> None:
    codes = ["05", "00", "N7", "91", ...]
    values = [event_bytes(response_code=code, event_time="2026-11-01T12:00:00Z") for code in codes]
    batch, _, rejected = TransactionDecoder(CARD).decode(values)
    rows = np.array([2, 3])

    assert rejected == []
    assert declined_of(batch).tolist() == [True, False, True, False, False]
    assert declined_of(batch.take(rows)).tolist() == [True, False]
    assert declined_of(batch.slice(2, 5)).tolist() == [True, False, False]
    assert TransactionDecoder(load_schema("handbook")).decode([])[0].declined is None


@pytest.mark.parametrize("code", [5, None, True, "", "do not honor", "0" * 33, ["05"]])
def test_an_answer_of_another_form_is_refused(code: object) -> None:
    batch, _, rejected = TransactionDecoder(CARD).decode([event_bytes(response_code=code)])

    assert (len(batch), rejected[0].problem.place) == (0, "$.response_code")


def test_a_transaction_that_comes_again_with_its_answer_is_a_duplicate() -> None:
    values = [event_bytes(), event_bytes(response_code="05")]
    batch, _, _ = TransactionDecoder(CARD).decode(values)

    found = MemoryIds(Settings()).sift(batch)

    assert (found.fresh.tolist(), found.duplicates, found.conflicts.tolist()) == ([0], 1, [])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_answers_come_back_from_a_file_and_from_the_wire(suffix: str, tmp_path: Path) -> None:
    days = list(simulate(SimulatorOptions(customers=400, terminals=50, days=2, burst_days=(1,))))
    write_events(tmp_path / f"days{suffix}", days, CARD)
    read_days = list(read_events(tmp_path / f"days{suffix}", CARD))
    sent = TransactionEncoder(CARD).encode(days[1])
    decoded, _, rejected = TransactionDecoder(CARD).decode(sent)
    made = [day.transactions() for day in days]

    assert sum(declined_of(day).sum() for day in made) > 200
    assert rejected == []
    assert declined_of(decoded).tolist() == declined_of(made[1]).tolist()
    assert [declined_of(day.transactions()).tolist() for day in read_days] == [
        [*declined_of(made[0]).tolist(), *declined_of(made[1]).tolist()]
    ]
    assert check_file(tmp_path / f"days{suffix}", CARD).fits


def test_a_file_without_answers_knows_none(tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text(
        "transaction_id,event_time,card_id,terminal_id,amount\nt1,2026-11-01T12:00:00Z,c1,m1,9.50\n"
    )

    assert next(read_events(path, CARD, labels=False)).declined is None
    path.write_text(path.read_text().replace("amount\n", "amount,response_code\n") + "\n")
    path.write_text(path.read_text().replace("9.50", "9.50,not honoured"))
    with pytest.raises(DataError, match="column 'response_code': expected a code"):
        list(read_events(path, CARD, labels=False))


def test_a_first_entity_that_never_comes_twice_has_no_card_testing() -> None:
    text = SCHEMA.format(amount=AMOUNT, second=SECOND, small="1").replace('"id"', '"card"')

    with pytest.raises(SchemaError, match="comes more than once"):
        parse_schema(text, place="mine")
