"""Features made again from the transactions' own log: one partition, equal to the last bit."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pipeline.feature_verification import FeaturesVerified, FeatureVerification
from pipeline.records import DecisionRecord, decode_decisions, encode_record, unpack_features
from pipeline.settings import Settings
from tests.recorded import KERNEL, Partition, Record, as_log, chunks, training, transactions
from tests.strategies import CARD, event_bytes

LOG = training(300)
SETTINGS = Settings(partitions=1, event_age_days_max=0.0)
# Labels were learned up to these training offsets while the events between were decided.
LABELLED = (0, 0, 20, 77, 290)
EACH = 40


def recorded() -> Partition:
    partition = Partition(0, SETTINGS, LOG)
    values = transactions(1, EACH * len(LABELLED))
    for place, offset in enumerate(LABELLED):
        partition.learn_labels(offset)
        part: list[bytes | None] = list(values[place * EACH : (place + 1) * EACH])
        # What is rejected, and what comes twice, stands between.
        part[10:10] = [b"hello", None, part[9], event_bytes(event_time="2099-01-01T00:00:00Z")]
        partition.decide(part, 0, size=13 + place)
    return partition


@pytest.fixture(scope="module")
def whole() -> Partition:
    return recorded()


@pytest.fixture
def partition(whole: Partition) -> Partition:
    """A partition whose logs a test may change."""
    return replace(whole, decisions=list(whole.decisions), transactions=list(whole.transactions))


DECIDED = EACH * len(LABELLED)


def verified(partition: Partition, *, size: int = 1_000, end: int = len(LOG)) -> FeaturesVerified:
    run = FeatureVerification(CARD, SETTINGS, as_log(LOG), end=end)
    return run.run(
        chunks(partition.transactions, size), chunks(partition.decisions, size), lambda _: None
    )


def nth(partition: Partition, number: int) -> DecisionRecord:
    [decision] = decode_decisions([partition.decisions[number].value])
    assert decision is not None
    return decision


def substituted(partition: Partition, number: int, **changes: object) -> None:
    value = encode_record(msgspec.structs.replace(nth(partition, number), **changes))
    partition.decisions[number] = replace(partition.decisions[number], value=value)


@pytest.mark.parametrize("size", [1, 7, 500, 1_024])
def test_the_features_of_every_decision_are_made_again(whole: Partition, size: int) -> None:
    result = verified(whole, size=size)

    assert result.findings == []
    assert (result.equal, result.is_equal) == (DECIDED, True)
    assert result.rejected == 3 * len(LABELLED)
    assert result.duplicates == len(LABELLED)


def test_labels_are_among_what_the_features_saw(whole: Partition) -> None:
    column = KERNEL.names.index("terminal_days_since_fraud")
    early, late = (
        {bool(np.isnan(unpack_features(nth(whole, number).features)[column])) for number in rows}
        for rows in (range(EACH), range(DECIDED - EACH, DECIDED))
    )

    assert early == {True}
    assert False in late


def test_the_last_bit_of_a_feature_counts(partition: Partition) -> None:
    features = unpack_features(nth(partition, 50).features).copy()
    column = KERNEL.names.index("amount")
    right, features[column] = features[column], np.nextafter(features[column], np.float32(99))
    substituted(partition, 50, features=features.tobytes())

    result = verified(partition)

    assert (result.different, result.equal, result.is_equal) == (1, DECIDED - 1, False)
    [finding] = result.findings
    assert finding.transaction_id == nth(partition, 50).transaction_id
    assert finding.what == "feature amount"
    assert (finding.expected, finding.got) == (right, features[column])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"amount": 1}, "amount"),
        ({"event_time": 1}, "event_time"),
        ({"transaction_id": "other"}, "transaction_id"),
        ({"currency": "USD"}, "currency"),
        ({"keys": {"card": "c1", "terminal": "other"}}, "keys"),
        ({"features": b"1234"}, "features"),
    ],
)
def test_a_decision_of_another_event_than_its_source_is_named(
    partition: Partition, changes: dict[str, object], what: str
) -> None:
    substituted(partition, 3, **changes)

    result = verified(partition)

    assert result.different == 1
    assert [finding.what for finding in result.findings] == [what]


def test_a_decision_that_stamps_another_label_offset_is_found(partition: Partition) -> None:
    substituted(partition, DECIDED - 1, label_offset=295)
    substituted(partition, 3 * EACH, label_offset=20)

    result = verified(partition)

    # The terminal of one of them has no label between the two offsets, perhaps.
    assert result.different >= 1
    assert not result.is_equal


def test_a_label_offset_that_falls_or_lies_beyond_the_log_is_said(partition: Partition) -> None:
    substituted(partition, 3 * EACH, label_offset=1_000)
    substituted(partition, DECIDED - 1, label_offset=30)

    result = verified(partition)

    assert result.not_recomputed == {
        "the training log ends before the label offset": 1,
        "label offset lies behind that of the decision before": 1,
    }
    assert (result.equal, result.is_equal) == (DECIDED - 2, False)


def test_a_decision_that_is_missing_is_named(partition: Partition) -> None:
    missing = nth(partition, 60)
    del partition.decisions[60]

    result = verified(partition)

    assert (result.missing, result.equal, result.is_equal) == (1, DECIDED - 1, False)
    [finding] = result.findings
    assert finding.transaction_id == missing.transaction_id
    assert finding.place == f"transactions[0] offset {missing.source[2]}"


def test_transactions_that_wait_for_their_decision_are_no_error(partition: Partition) -> None:
    del partition.decisions[-10:]

    result = verified(partition, size=7)

    assert (result.equal, result.missing, result.is_equal) == (DECIDED - 10, 0, True)


@pytest.mark.parametrize("place", [10, 12, 10_000])
def test_a_decision_of_what_was_not_to_be_decided_is_named(
    partition: Partition, place: int
) -> None:
    """Rejected, decided before, or not there at all."""
    odd = msgspec.structs.replace(nth(partition, 5), source=("transactions", 0, place))
    number = 10 if place < 100 else DECIDED
    partition.decisions.insert(number, Record(0, 0, encode_record(odd)))

    result = verified(partition)

    assert (result.unexpected, result.equal, result.is_equal) == (1, DECIDED, False)


def test_what_was_published_again_is_passed_over(partition: Partition) -> None:
    partition.decisions[60:60] = partition.decisions[40:60]

    assert verified(partition, size=7).is_equal


def test_features_of_another_schema_are_said(partition: Partition) -> None:
    substituted(partition, 3, schema_hash="other")

    assert verified(partition).not_recomputed == {"schema hash is of other features": 1}


def test_an_interrupt_leaves_what_was_found_until_then(whole: Partition) -> None:
    def interrupted(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        yield records[:50]
        raise KeyboardInterrupt

    run = FeatureVerification(CARD, SETTINGS, as_log(LOG), end=len(LOG))

    result = run.run(interrupted(whole.transactions), [whole.decisions], lambda _: None)

    assert (result.finished, result.is_equal) == (False, False)
    assert 0 < result.equal < DECIDED
