"""An entry of the index holds what it was given, in few bytes."""

import pytest

from pipeline.label_words import OUTCOME_KINDS, OutcomeKind
from pipeline.verdicts import KnownVerdict, settle
from pipeline.waiting_index import (
    BUCKETS,
    FIELD_BYTES,
    IndexEntry,
    outcome_code,
    packed_entries,
    place_of,
)
from tests.strategies import label

VERDICT = settle(None, label(), training_seq=1 << 39)[1]


@pytest.mark.parametrize("outcome", [None, *OUTCOME_KINDS])
@pytest.mark.parametrize("is_decided", [True, False])
@pytest.mark.parametrize("verdict", [None, VERDICT])
def test_an_entry_is_what_its_bytes_say(
    outcome: OutcomeKind | None, is_decided: bool, verdict: KnownVerdict | None
) -> None:
    entry = IndexEntry((1 << 48) - 1, is_decided, outcome, verdict)

    assert IndexEntry.unpacked(entry.packed()) == entry


def test_a_decision_that_waits_takes_seven_bytes_beside_its_name() -> None:
    assert len(IndexEntry(12, True, None, None).packed()) == 7
    assert FIELD_BYTES == 6


def test_every_outcome_has_a_number_of_its_own() -> None:
    assert len({outcome_code(outcome) for outcome in (None, *OUTCOME_KINDS)}) == 6


def test_places_are_spread_over_the_buckets() -> None:
    places = [place_of(f"t-{number}") for number in range(20_000)]

    assert len({(place.bucket, place.field) for place in places}) == len(places)
    assert max(place.bucket for place in places) < BUCKETS
    assert len({place.bucket for place in places}) > BUCKETS // 2


def test_many_entries_are_packed_as_each_alone() -> None:
    ids = [f"t-{number}" for number in range(2_000)] + ["", "é", "\U0001f600"]
    offsets = [number * 1_000_003 for number in range(len(ids) - 1)] + [(1 << 48) - 1]

    packed = packed_entries([transaction_id.encode() for transaction_id in ids], offsets)

    places = [place_of(transaction_id) for transaction_id in ids]
    assert packed == b"".join(
        place.bucket.to_bytes(2, "little") + place.field + offset.to_bytes(6, "little")
        for place, offset in zip(places, offsets, strict=True)
    )
