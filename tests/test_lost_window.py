"""A labeller on a restored store settles each label as the log says it was settled before."""

import pytest

from consumers.label_step import LabelStep
from consumers.lost_window import LearnedBefore, Numbered
from pipeline.durations import DAY_MS
from pipeline.events import Label
from pipeline.feedback import matured_label
from pipeline.records import TrainingExample, decode_examples
from pipeline.topics import TRAINING
from pipeline.waiting_index import IndexEntry
from tests.strategies import CARD, decision, label

PARTITION, NEXT, MATURITY_MS = 3, 100, 60 * DAY_MS
MATURED = matured_label(decision(), MATURITY_MS)


def step_after(**numbers: int) -> LabelStep:
    """Give a step of a labeller whose log holds examples of `t1`; `m` is the matured one."""
    names = {"m": MATURED.label_id}
    stored = {
        f"t1/{names.get(name, name)}".encode(): str(number).encode()
        for name, number in numbers.items()
    }
    step = LabelStep(CARD, PARTITION, NEXT, 0, LearnedBefore(PARTITION, stored), MATURITY_MS)
    step.waiting.entries["t1"] = IndexEntry(7, True, None, None)
    step.waiting.decisions["t1"] = decision()
    return step


def examples(step: LabelStep) -> list[TrainingExample]:
    values = [record.value for record in step.records if record.topic == TRAINING]
    return [item for item in decode_examples(values) if item is not None]


def verdict(step: LabelStep) -> tuple[bool, int]:
    known = step.waiting.changed["t1"]
    return known.is_fraud, known.training_seq


def ledger(step: LabelStep) -> dict[str, int]:
    return {
        str(change[2]): int(change[3]) for change in step.all_changes() if change[0] == "HINCRBY"
    }


def test_a_label_that_was_never_learned_gets_the_next_number() -> None:
    step = step_after()

    assert step.join(label()) == "learned"

    assert [item.training_seq for item in examples(step)] == [NEXT]
    assert (step.seq, verdict(step)) == (NEXT + 1, (True, NEXT))


def test_a_label_that_was_learned_is_settled_under_its_number_and_not_published() -> None:
    step = step_after(l1=41)

    assert step.join(label()) == "learned"

    assert examples(step) == []
    assert (step.seq, verdict(step)) == (NEXT, (True, 41))
    assert ("HDEL", "again:3", "t1/l1") in step.all_changes()
    assert ledger(step) == {"learned": 1, "verdict_fraud": 1}


def test_it_is_repeated_when_it_comes_twice() -> None:
    step = step_after(l1=41)

    assert [step.join(label()), step.join(label())] == ["learned", "repeated"]
    assert examples(step) == []


def test_a_correction_that_was_learned_corrects_again() -> None:
    step = step_after(l1=41, l2=44)
    won = label("l2", is_fraud=False, source="dispute_won")

    assert [step.join(label()), step.join(won)] == ["learned", "corrected"]

    assert (examples(step), verdict(step)) == ([], (False, 44))
    assert ledger(step) == {"learned": 1, "corrected": 1, "verdict_genuine": 1}


def test_a_new_correction_names_the_old_number() -> None:
    step = step_after(l1=41)
    step.join(label())

    step.join(label("l2", is_fraud=False, source="dispute_won"))

    [example] = examples(step)
    assert (example.training_seq, example.supersedes) == (NEXT, 41)


@pytest.mark.parametrize(
    ("said", "path", "published", "known"),
    [
        # What had matured is confirmed, and not learned a second time.
        (label(is_fraud=False), "confirmed", [], (False, 40)),
        # A fraud that comes after it corrects it.
        (label(), "corrected", [(NEXT, 40)], (True, NEXT)),
    ],
    ids=["genuine", "fraud"],
)
def test_what_had_matured_is_mature_before_a_label_that_comes_later(
    said: Label, path: str, published: list[tuple[int, int]], known: tuple[bool, int]
) -> None:
    step = step_after(m=40)

    assert step.join(said) == path

    assert [(item.training_seq, item.supersedes) for item in examples(step)] == published
    assert verdict(step) == known
    assert ledger(step)["matured"] == 1


def test_of_two_that_were_learned_the_lower_number_comes_first() -> None:
    step = step_after(m=40, l1=41)

    assert step.join(label()) == "corrected"

    assert (examples(step), verdict(step)) == ([], (True, 41))


def test_what_matured_after_a_label_does_not_come_before_it() -> None:
    step = step_after(m=43, l1=41)

    assert step.join(label()) == "learned"
    assert verdict(step) == (True, 41)


def test_what_is_noted_is_found_again() -> None:
    noted = LearnedBefore(3, {}).noted([Numbered(3, 41, "t1", "l1"), Numbered(3, 42, "t2", "l2")])

    assert noted == [("HSET", "again:3", "t1/l1", 41, "t2/l2", 42)]
    assert LearnedBefore(3, {}).noted([]) == []
