"""What becomes of a label: every path, in the order of the log, within bounds."""

from itertools import product

import pytest

from pipeline.durations import DAY_MS
from pipeline.events import SOURCES, Label, LabelDecoder, Source, encode_label
from pipeline.feedback import (
    HISTORY_MAX,
    LABEL_PATHS,
    SOURCE_RANKS,
    KnownVerdict,
    LabelPath,
    MemoryWaiting,
    Settled,
    join,
    matured_label,
    settle,
)
from tests.strategies import CARD, MONDAY_MS, decision, label

FRAUD_KNOWN = KnownVerdict("l1", True, "analyst", ("l1",))
MATURITY_MS = 60 * DAY_MS


def waiting_for(*transaction_ids: str, limit: int = 100) -> MemoryWaiting:
    waiting = MemoryWaiting(limit)
    waiting.add([decision(name) for name in transaction_ids])
    return waiting


def paths(waiting: MemoryWaiting, *labels: Label) -> list[LabelPath]:
    return [settled.path for settled in join(waiting, labels)]


def test_every_source_has_a_rank() -> None:
    assert set(SOURCE_RANKS) == set(SOURCES)


def test_the_first_label_is_learned() -> None:
    path, known = settle(None, label("l1"))

    assert (path, known) == ("learned", FRAUD_KNOWN)


def test_the_same_label_again_is_repeated_and_changes_nothing() -> None:
    assert settle(FRAUD_KNOWN, label("l1")) == ("repeated", FRAUD_KNOWN)


def test_an_equal_verdict_of_another_label_is_confirmed() -> None:
    path, known = settle(FRAUD_KNOWN, label("l2", source="chargeback"))

    assert path == "confirmed"
    assert (known.label_id, known.history) == ("l1", ("l1", "l2"))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("customer", "analyst", "analyst"), ("analyst", "customer", "analyst")],
)
def test_a_confirmed_verdict_has_the_source_of_the_higher_rank(
    first: Source, second: Source, expected: Source
) -> None:
    _, known = settle(None, label("l1", source=first))

    _, known = settle(known, label("l2", source=second))

    assert known.source == expected


@pytest.mark.parametrize(("first", "second"), list(product(SOURCES, SOURCES)))
def test_the_opposite_verdict_corrects_unless_its_source_ranks_lower(
    first: Source, second: Source
) -> None:
    _, known = settle(None, label("l1", source=first))

    path, after = settle(known, label("l2", source=second, is_fraud=False))

    may = SOURCE_RANKS[second] >= SOURCE_RANKS[first]
    assert path == ("corrected" if may else "contradicted")
    assert (after.label_id, after.is_fraud) == (("l2", False) if may else ("l1", True))
    assert after.history == ("l1", "l2")


def test_a_label_of_low_rank_corrects_what_it_supersedes_by_name() -> None:
    path, known = settle(
        FRAUD_KNOWN, label("l2", source="customer", is_fraud=False, supersedes="l1")
    )

    assert (path, known.is_fraud, known.source) == ("corrected", False, "customer")


def test_superseding_a_label_that_is_not_in_force_corrects_nothing() -> None:
    later = label("l2", source="customer", is_fraud=False, supersedes="l0")

    assert settle(FRAUD_KNOWN, later)[0] == "contradicted"


def test_a_contradiction_that_comes_again_is_repeated() -> None:
    later = label("l2", source="customer", is_fraud=False)
    _, known = settle(FRAUD_KNOWN, later)

    assert settle(known, later)[0] == "repeated"


def test_the_history_of_a_verdict_is_bounded() -> None:
    _, known = settle(None, label("l0"))
    for number in range(1, HISTORY_MAX + 3):
        _, known = settle(known, label(f"l{number}"))

    assert len(known.history) == HISTORY_MAX
    assert known.history[-1] == f"l{HISTORY_MAX + 2}"


def test_labels_are_settled_one_after_the_other() -> None:
    waiting = waiting_for("t1", "t2")

    found = paths(
        waiting,
        label("l1", source="customer"),
        label("l1", source="customer"),
        label("l2", transaction_id="t9"),
        label("l3", source="chargeback"),
        label("l4", is_fraud=False, source="customer"),
        label("l5", is_fraud=False, source="dispute_won"),
        label("l6", transaction_id="t2", is_fraud=False),
    )

    assert found == [
        "learned", "repeated", "unknown", "confirmed", "contradicted", "corrected", "learned",
    ]  # fmt: skip
    assert set(found) == set(LABEL_PATHS)


def test_only_what_is_to_be_learned_carries_its_decision() -> None:
    waiting = waiting_for("t1")
    labels = [label("l1"), label("l1"), label("l2"), label("l3", transaction_id="t9")]

    settled = list(join(waiting, labels))

    assert [item.decision is not None for item in settled] == [True, False, False, False]


def test_an_unknown_label_is_learned_once_its_decision_is_there() -> None:
    waiting = waiting_for()
    assert paths(waiting, label("l1")) == ["unknown"]

    waiting.add([decision("t1")])

    assert paths(waiting, label("l1")) == ["learned"]


def test_a_correction_names_the_label_that_was_learned() -> None:
    waiting = waiting_for("t1")

    *_, corrected = join(waiting, [label("l1"), label("l2"), label("l3", is_fraud=False)])

    assert (corrected.path, corrected.supersedes) == ("corrected", "l1")


def test_corrections_can_be_corrected() -> None:
    waiting = waiting_for("t1")
    verdicts = [label("l1"), label("l2", is_fraud=False), label("l3", is_fraud=True)]

    settled = list(join(waiting, verdicts))

    assert [(item.path, item.supersedes) for item in settled] == [
        ("learned", None), ("corrected", "l1"), ("corrected", "l2"),
    ]  # fmt: skip


def test_an_example_holds_what_was_decided_and_what_was_said() -> None:
    decided, said = decision("t1", score=0.4, action="review"), label("l1", source="chargeback")

    example = Settled(said, "learned", decided).example(partition=3, training_seq=17)

    assert (example.partition, example.training_seq) == (3, 17)
    assert (example.label_id, example.verdict, example.source) == ("l1", "fraud", "chargeback")
    assert (example.label_time, example.event_time) == (said.label_time_ms, decided.event_time)
    for name in ("features", "schema_hash", "score", "action", "model_version", "challengers"):
        assert getattr(example, name) == getattr(decided, name)


def test_beyond_the_limit_the_oldest_decision_goes_and_is_counted() -> None:
    waiting = waiting_for("t1", "t2", limit=2)
    paths(waiting, label("l1", transaction_id="t1"))

    waiting.add([decision("t3")])

    assert (len(waiting), waiting.expired) == (2, 1)
    assert waiting.decision("t1") is None
    assert waiting.verdict("t1") is None
    assert paths(waiting, label("l2", transaction_id="t1")) == ["unknown"]


def test_an_expired_decision_never_matures() -> None:
    waiting = waiting_for("t1", "t2", "t3", limit=2)

    matured = list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS))

    assert [item.transaction_id for item in matured] == ["t2", "t3"]


def test_decisions_mature_once_in_their_order_when_they_are_old_enough() -> None:
    waiting = MemoryWaiting(100)
    waiting.add([decision(f"t{hour}", event_time=MONDAY_MS + hour) for hour in range(4)])

    early = list(waiting.take_matured(MONDAY_MS + MATURITY_MS - 1, MATURITY_MS))
    first = list(waiting.take_matured(MONDAY_MS + MATURITY_MS + 1, MATURITY_MS))
    rest = list(waiting.take_matured(MONDAY_MS + 2 * MATURITY_MS, MATURITY_MS))

    assert early == []
    assert [item.transaction_id for item in first] == ["t0", "t1"]
    assert [item.transaction_id for item in rest] == ["t2", "t3"]


@pytest.mark.parametrize("is_fraud", [True, False])
def test_a_decision_with_a_verdict_does_not_mature(is_fraud: bool) -> None:
    waiting = waiting_for("t1", "t2")
    paths(waiting, label("l1", transaction_id="t1", is_fraud=is_fraud))

    matured = list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS))

    assert [item.transaction_id for item in matured] == ["t2"]


def test_an_approved_decision_matures_as_genuine_at_its_age() -> None:
    matured = matured_label(decision("t1"), MATURITY_MS)

    assert matured == Label(
        "matured-t1", "t1", "c1", False, "matured", MONDAY_MS + MATURITY_MS, by="maturity"
    )


@pytest.mark.parametrize("action", ["review", "decline"])
def test_what_did_not_go_through_never_matures(action: str) -> None:
    assert matured_label(decision("t1", action=action), MATURITY_MS) is None


def test_any_other_source_corrects_a_matured_verdict() -> None:
    waiting = waiting_for("t1")
    matured = matured_label(decision("t1"), MATURITY_MS)
    assert matured is not None

    for source in SOURCES:
        waiting = waiting_for("t1")
        assert paths(waiting, matured, label("l1", source=source)) == ["learned", "corrected"]


def test_the_id_of_a_matured_label_is_valid_for_the_longest_transaction_id() -> None:
    matured = matured_label(decision("t" * 64), MATURITY_MS)
    assert matured is not None

    assert LabelDecoder(CARD).decode_one(encode_label(matured, CARD)) == matured
