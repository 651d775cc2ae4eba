"""Which label of a decision is in force: every path, in any order, within bounds."""

from collections import Counter
from collections.abc import Iterable
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Label
from pipeline.label_words import SOURCES, Source
from pipeline.verdicts import (
    HISTORY_MAX,
    SOURCE_RANKS,
    KnownVerdict,
    LabelPath,
    label_hash,
    settle,
)
from tests.strategies import label

FIRST_MS = label().label_time_ms


def told(labels: Iterable[Label]) -> tuple[list[LabelPath], KnownVerdict]:
    """Settle labels one after the other; gives their paths, and what is known at the end."""
    known: KnownVerdict | None = None
    paths, seq = [], 0
    for item in labels:
        path, known = settle(known, item, training_seq=seq)
        seq += path in ("learned", "corrected")
        paths.append(path)
    assert known is not None
    return paths, known


def paths(*labels: Label) -> list[LabelPath]:
    return told(labels)[0]


def in_force(known: KnownVerdict) -> tuple[int, bool, str]:
    return known.labels[0], known.is_fraud, known.source


def test_every_source_has_a_rank() -> None:
    assert set(SOURCE_RANKS) == set(SOURCES)


def test_the_first_label_is_learned() -> None:
    path, known = settle(None, label("l1"), training_seq=7)

    assert path == "learned"
    assert known == KnownVerdict(True, "analyst", FIRST_MS, 7, (label_hash("l1"),))


def test_the_same_label_again_is_repeated_and_changes_nothing() -> None:
    _, known = settle(None, label("l1"), training_seq=0)

    assert settle(known, label("l1"), training_seq=1) == ("repeated", known)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("customer", "analyst", "analyst"), ("analyst", "customer", "analyst")],
)
def test_a_confirmed_verdict_has_the_source_of_the_higher_rank(
    first: Source, second: Source, expected: Source
) -> None:
    found, known = told([label("l1", source=first), label("l2", source=second)])

    assert found == ["learned", "confirmed"]
    assert (known.source, known.training_seq) == (expected, 0)


@pytest.mark.parametrize(("first", "second"), list(product(SOURCES, SOURCES)))
def test_the_opposite_verdict_corrects_unless_its_source_ranks_lower(
    first: Source, second: Source
) -> None:
    later = label("l2", source=second, is_fraud=False, label_time_ms=FIRST_MS + 1)

    found, known = told([label("l1", source=first), later])

    may = SOURCE_RANKS[second] >= SOURCE_RANKS[first]
    assert found[1] == ("corrected" if may else "contradicted")
    assert (known.is_fraud, known.training_seq) == (not may, 1 if may else 0)
    assert set(known.labels) == {label_hash("l1"), label_hash("l2")}


def test_of_equal_rank_the_one_said_last_is_in_force_whichever_came_last() -> None:
    earlier = label("l2", is_fraud=False, label_time_ms=FIRST_MS - 1)

    assert paths(label("l1"), earlier) == ["learned", "contradicted"]
    assert paths(earlier, label("l1")) == ["learned", "corrected"]


def test_a_label_of_low_rank_corrects_what_it_supersedes_by_name() -> None:
    later = label("l2", source="customer", is_fraud=False, supersedes="l1")

    found, known = told([label("l1"), later])

    assert found == ["learned", "corrected"]
    assert in_force(known) == (label_hash("l2"), False, "customer")


def test_superseding_a_label_that_is_not_in_force_corrects_nothing() -> None:
    later = label("l2", source="customer", is_fraud=False, supersedes="l0")

    assert paths(label("l1"), later) == ["learned", "contradicted"]


def test_a_label_that_was_taken_back_before_it_came_is_superseded_once() -> None:
    back = label("l2", source="customer", is_fraud=False, supersedes="l1")

    found, known = told([back, label("l1"), label("l1")])

    assert found == ["learned", "superseded", "repeated"]
    assert in_force(known) == (label_hash("l2"), False, "customer")


def test_a_contradiction_that_comes_again_is_repeated() -> None:
    later = label("l2", source="customer", is_fraud=False)

    assert paths(label("l1"), later, later) == ["learned", "contradicted", "repeated"]


def test_a_correction_can_be_corrected() -> None:
    times = {"label_time_ms": FIRST_MS + 1}, {"label_time_ms": FIRST_MS + 2}

    found, known = told(
        [label("l1"), label("l2", is_fraud=False, **times[0]), label("l3", **times[1])]
    )

    assert found == ["learned", "corrected", "corrected"]
    assert (known.training_seq, known.is_fraud) == (2, True)


def test_the_history_of_a_verdict_is_bounded_and_keeps_the_one_in_force() -> None:
    _, known = told(
        label(f"l{number}", source="customer" if number else "analyst")
        for number in range(HISTORY_MAX + 3)
    )

    assert len(known.labels) == HISTORY_MAX
    assert known.labels[0] == label_hash("l0")
    assert known.labels[-1] == label_hash(f"l{HISTORY_MAX + 2}")


CHARGEBACK = label("chargeback", source="chargeback")
STORIES = {
    "dispute won": [
        CHARGEBACK,
        label(
            "won", source="dispute_won", is_fraud=False, label_time_ms=FIRST_MS + 9,
            supersedes="chargeback",
        ),
    ],
    "analyst thinks again": [
        label("a1"),
        label("a2", is_fraud=False, label_time_ms=FIRST_MS + 5, supersedes="a1"),
    ],
    "three voices": [
        label("c", source="customer", is_fraud=False),
        CHARGEBACK,
        label("a", is_fraud=False, label_time_ms=FIRST_MS + 1),
    ],
    "customer takes it back": [
        CHARGEBACK,
        label("c2", source="customer", is_fraud=False, supersedes="chargeback"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_the_same_labels_in_another_order_end_with_the_same_verdict(name: str) -> None:
    ends = {in_force(told(order)[1]) for order in permutations(STORIES[name])}

    assert len(ends) == 1


@pytest.mark.parametrize("name", STORIES)
def test_labels_that_come_twice_change_nothing_but_the_count(name: str) -> None:
    once, known = told(STORIES[name])
    twice, again = told(item for one in STORIES[name] for item in (one, one))

    assert again == known
    assert Counter(twice) == Counter(once) + Counter(repeated=len(once))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.sampled_from(SOURCES), st.booleans(), st.integers(0, 1 << 41),
            st.none() | st.integers(0, 12),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_what_is_known_fits_its_bytes(
    said: list[tuple[int, Source, bool, int, int | None]],
) -> None:
    _, known = told(
        label(
            f"l{number}", source=source, is_fraud=is_fraud, label_time_ms=time_ms,
            supersedes=None if back is None else f"l{back}",
        )
        for number, source, is_fraud, time_ms, back in said
    )  # fmt: skip

    assert KnownVerdict.unpacked(known.packed()) == known
    assert len(known.packed()) <= 20 + 8 * (HISTORY_MAX - 1)
