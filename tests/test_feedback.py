"""What becomes of a label: every path, in the order of the log, within bounds."""

from dataclasses import dataclass

import pytest

from pipeline.durations import DAY_MS
from pipeline.events import Label, LabelDecoder, Outcome
from pipeline.feedback import MemoryWaiting, Settled, join, matured_label, went_through
from pipeline.feedback_encoding import encode_label
from pipeline.label_words import OUTCOME_KINDS, SOURCES, OutcomeKind
from pipeline.records import ACTIONS, Action, DecisionRecord
from pipeline.verdicts import LABEL_PATHS, LabelPath
from tests.strategies import CARD, MONDAY_MS, decision, label

MATURITY_MS = 60 * DAY_MS


@dataclass(frozen=True)
class Records:
    """Decisions as records, where a batch of columns is expected."""

    records: list[DecisionRecord]

    @property
    def transaction_ids(self) -> list[str]:
        return [record.transaction_id for record in self.records]

    def record(self, place: int) -> DecisionRecord:
        return self.records[place]


def waiting_for(*transaction_ids: str, limit: int = 100) -> MemoryWaiting:
    waiting = MemoryWaiting(limit)
    waiting.add(Records([decision(name) for name in transaction_ids]))
    return waiting


def paths(waiting: MemoryWaiting, *labels: Label) -> list[LabelPath]:
    return [settled.path for settled in join(waiting, labels, training_seq=0)]


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
    assert set(found) == set(LABEL_PATHS) - {"superseded"}


def test_only_what_is_to_be_learned_carries_its_decision() -> None:
    waiting = waiting_for("t1")
    labels = [label("l1"), label("l1"), label("l2"), label("l3", transaction_id="t9")]

    settled = list(join(waiting, labels, training_seq=0))

    assert [item.decision is not None for item in settled] == [True, False, False, False]


def test_an_unknown_label_is_learned_once_its_decision_is_there() -> None:
    waiting = waiting_for()
    assert paths(waiting, label("l1")) == ["unknown"]

    waiting.add(Records([decision("t1")]))

    assert paths(waiting, label("l1")) == ["learned"]


def test_a_correction_names_the_example_that_it_replaces() -> None:
    waiting = waiting_for("t1")
    later = [
        label("l2"),
        *(
            label(f"l{n}", is_fraud=n % 2 == 0, label_time_ms=MONDAY_MS + (n + 1) * DAY_MS)
            for n in (3, 4)
        ),
    ]

    settled = list(join(waiting, [label("l1"), *later], training_seq=5))
    learned = [item.example(partition=0) for item in settled if item.decision]

    assert [(item.training_seq, item.supersedes) for item in learned] == [(5, None), (6, 5), (7, 6)]


def test_an_example_holds_what_was_decided_and_what_was_said() -> None:
    decided, said = decision("t1", score=0.4, action="review"), label("l1", source="chargeback")

    example = Settled(said, "learned", decided, 17).example(partition=3)

    assert (example.partition, example.training_seq) == (3, 17)
    assert (example.label_id, example.verdict, example.source) == ("l1", "fraud", "chargeback")
    assert (example.label_time, example.event_time) == (said.label_time_ms, decided.event_time)
    for name in ("features", "schema_hash", "score", "action", "model_version", "challengers"):
        assert getattr(example, name) == getattr(decided, name)


def test_beyond_the_limit_the_oldest_decision_goes_and_is_counted_if_it_still_waited() -> None:
    waiting = waiting_for("t1", "t2", limit=2)
    paths(waiting, label("l1", transaction_id="t1"))

    waiting.add(Records([decision("t3")]))
    assert (len(waiting), waiting.expired) == (2, 0)
    waiting.add(Records([decision("t4")]))

    assert (len(waiting), waiting.expired) == (2, 1)
    assert not waiting.knows("t1")
    assert waiting.verdict("t1") is None
    assert paths(waiting, label("l2", transaction_id="t1")) == ["unknown"]


def test_an_expired_decision_never_matures() -> None:
    waiting = waiting_for("t1", "t2", "t3", limit=2)

    matured = list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS))

    assert [item.transaction_id for item in matured] == ["t2", "t3"]


def test_decisions_mature_once_in_their_order_when_they_are_old_enough() -> None:
    waiting = MemoryWaiting(100)
    waiting.add(Records([decision(f"t{hour}", event_time=MONDAY_MS + hour) for hour in range(4)]))

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


def test_a_matured_label_is_genuine_at_the_age_of_maturity() -> None:
    matured = matured_label(decision("t1"), MATURITY_MS)

    assert matured == Label(
        "matured-t1", "t1", "c1", False, "matured", MONDAY_MS + MATURITY_MS, by="maturity"
    )


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("outcome", [None, *OUTCOME_KINDS])
def test_only_what_went_through_matures(action: Action, outcome: OutcomeKind | None) -> None:
    waiting = MemoryWaiting(10)
    waiting.add(Records([decision("t1", action=action)]))
    if outcome is not None:
        waiting.set_outcome(Outcome("t1", "c1", outcome, MONDAY_MS))

    matured = list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS))

    through = outcome in ("approved", "settled", "overridden")
    assert went_through(action, outcome) == (through or (action == "approve" and outcome is None))
    assert len(matured) == went_through(action, outcome)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("outcome", [None, *OUTCOME_KINDS])
def test_while_we_only_observe_nothing_is_held_up(
    action: Action, outcome: OutcomeKind | None
) -> None:
    waiting = MemoryWaiting(10)
    waiting.add(Records([decision("t1", action=action, mode="observe", action_taken="none")]))
    if outcome is not None:
        waiting.set_outcome(Outcome("t1", "c1", outcome, MONDAY_MS))

    matured = list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS))

    # As if it had been approved, whatever we would have done.
    assert len(matured) == went_through("approve", outcome)


def test_the_latest_outcome_counts_and_one_of_an_unknown_event_nothing() -> None:
    waiting = waiting_for("t1")
    for kind in ("settled", "refunded"):
        waiting.set_outcome(Outcome("t1", "c1", kind, MONDAY_MS))
    waiting.set_outcome(Outcome("t9", "c1", "settled", MONDAY_MS))

    assert list(waiting.take_matured(MONDAY_MS + MATURITY_MS, MATURITY_MS)) == []


def test_any_other_source_corrects_a_matured_verdict() -> None:
    waiting = waiting_for("t1")
    matured = matured_label(decision("t1"), MATURITY_MS)

    for source in SOURCES:
        waiting = waiting_for("t1")
        later = label("l1", source=source, label_time_ms=matured.label_time_ms + 1)
        assert paths(waiting, matured, later) == ["learned", "corrected"]


def test_the_id_of_a_matured_label_is_valid_for_the_longest_transaction_id() -> None:
    matured = matured_label(decision("t" * 64), MATURITY_MS)

    assert LabelDecoder(CARD).decode_one(encode_label(matured, CARD)) == matured
