"""What we decided beside what the incumbent did: counts made by hand, and what must add up."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.actions import ACTIONS
from pipeline.comparison.columns import ComparisonColumns, ComparisonLog, Decided
from pipeline.comparison.compare import Comparison, compare
from pipeline.comparison.parts import Overlap, Part
from pipeline.comparison.reading import amount_band, check_segments, decided_of, take_labels
from pipeline.comparison.words import notes, tables, verdict
from pipeline.durations import DAY_MS
from pipeline.errors import DataError, SettingError
from pipeline.incumbent import Incumbent
from pipeline.mistakes import Costs
from pipeline.quality.groups import GroupColumn
from pipeline.records import encode_record
from tests.strategies import CARD, HANDBOOK, MONDAY_MS, decision, example, label_bytes

COSTS = Costs(decline_cost_minor=1_000, decline_cost_share=0.1)
NAMES = {"a": "approve", "r": "review", "d": "decline", "-": None}


def columns(
    rows: Sequence[tuple[int, float, str, float | None, str, int | None, int]],
) -> ComparisonColumns:
    """Give columns of day, our score and action, theirs, label and amount."""
    log = ComparisonLog()
    days, scores, actions, their_scores, their_actions, labels, amounts = zip(*rows, strict=True)
    incumbents = [
        None if (score, action) == (None, "-") else Incumbent(score, NAMES[action])  # type: ignore[arg-type]
        for score, action in zip(their_scores, their_actions, strict=True)
    ]
    ids = [f"t{row}" for row in range(len(rows))]
    log.decide(
        Decided(
            ids=ids,
            event_time_ms=[MONDAY_MS + day * DAY_MS for day in days],
            amount_minor=amounts,
            scores=scores,
            actions=[NAMES[action] or "" for action in actions],
            currencies=["EUR"] * len(rows),
            incumbents=incumbents,
            segments={"channel": ["web" if amount > 1_000 else "shop" for amount in amounts]},
        )
    )
    known = [row for row, label in enumerate(labels) if label is not None]
    log.label(
        [ids[row] for row in known], [labels[row] for row in known], np.zeros(len(known), np.bool_)
    )
    return log.columns()


# day, our score and action, their score and action, fraud, amount
BY_HAND = [
    (0, 0.9, "d", 0.2, "a", 1, 5_000),  # only we
    (0, 0.8, "d", 0.1, "a", 0, 2_000),  # our false decline
    (0, 0.3, "a", 0.9, "r", 1, 3_000),  # only they, at equal budget nobody
    (0, 0.1, "a", 0.1, "a", 1, 1_000),  # nobody
    (1, 0.7, "r", 0.8, "r", 1, 4_000),  # both
    (1, 0.2, "a", 0.7, "r", 0, 900),  # their false positive
    (1, 0.6, "r", 0.9, "d", None, 7_000),  # blocked: nobody knows
    (1, 0.1, "a", None, "-", 1, 8_000),  # said nothing: in no number
]


def test_what_was_done_is_counted() -> None:
    acted = compare(columns(BY_HAND), COSTS, k=1).acted

    assert acted is not None
    assert (acted.decisions, acted.days, acted.labelled, acted.frauds) == (7, 2, 6, 4)
    assert acted.fraud_minor == 13_000
    we, they = acted.we, acted.they
    assert (we.alerts, we.declined, we.caught, we.false_positives, we.unlabelled) == (4, 2, 2, 1, 1)
    assert (they.alerts, they.declined, they.caught) == (4, 1, 2)
    assert (they.false_positives, they.unlabelled) == (1, 1)
    assert (we.alerts_a_day, they.alerts_a_day) == (2.0, 2.0)
    assert (we.caught_minor, they.caught_minor) == (9_000, 7_000)
    assert (we.value_detected, they.value_detected) == (9 / 13, 7 / 13)
    assert (we.recall, we.precision, we.false_positive_ratio) == (0.5, 2 / 3, 0.5)
    assert (we.false_declines, they.false_declines) == (1, 0)
    # A false decline of 20.00 costs 10.00 and a tenth of it.
    assert (we.saved_minor, they.saved_minor) == (9_000 - 1_200, 7_000)
    assert acted.overlap == Overlap(1, 1, 1, 1, 4_000, 5_000, 3_000, 1_000)


def test_at_equal_budget_we_stop_as_many_as_they_did_each_day() -> None:
    part = compare(columns(BY_HAND), COSTS, k=1).equal_budget

    # One alert on the first day, three on the second, one of them a decline: our highest scores.
    assert (part.we.alerts, part.they.alerts, part.we.declined, part.they.declined) == (4, 4, 1, 1)
    assert (part.we.caught_minor, part.we.false_positives, part.we.false_declines) == (9_000, 1, 0)
    assert part.overlap == Overlap(1, 1, 1, 1, 4_000, 5_000, 3_000, 1_000)


def test_the_highest_scores_of_each_day_are_compared() -> None:
    top = compare(columns(BY_HAND), COSTS, k=1).top_k

    assert top is not None
    assert (top.we.alerts, top.they.alerts) == (2, 2)
    assert (top.we.caught, top.they.caught, top.they.unlabelled) == (2, 1, 1)
    assert (top.we.precision, top.we.recall, top.they.recall) == (1.0, 0.5, 0.25)


def test_what_the_incumbent_blocked_is_counted_as_nothing_and_said() -> None:
    found = compare(columns(BY_HAND), COSTS, k=1)

    assert (found.their_declines, found.their_declines_unlabelled) == (1, 1)
    assert (found.hidden.minor, found.hidden.we_stop, found.hidden.we_stop_minor) == (
        7_000,
        1,
        7_000,
    )
    assert any("declined 1 events; of 1 nobody knows" in note for note in notes(found))
    assert found.without_incumbent == 1


def test_the_scores_are_ranked_over_what_both_scored_and_is_labelled() -> None:
    ranking = compare(columns(BY_HAND), COSTS).ranking

    assert ranking is not None
    assert (ranking.events, ranking.frauds) == (6, 4)
    # Of eight pairs of a fraud and a genuine event.
    assert (ranking.our_auc, ranking.their_auc) == (4 / 8, 5.5 / 8)
    assert ranking.auc_difference is None


def test_weeks_and_segments_have_their_own_counts() -> None:
    later = [(day + 7 * (row % 2), *rest) for row, (day, *rest) in enumerate(BY_HAND)]
    found = compare(columns(later), COSTS)  # type: ignore[arg-type]

    assert [week.part.name for week in found.weeks] == ["2021-01-04", "2021-01-11"]
    assert [week.part.decisions for week in found.weeks] == [4, 3]
    names = [(item.field, item.part.name, item.part.frauds) for item in found.segments]
    assert names == [("channel", "web", 3), ("channel", "shop", 1)]


@pytest.mark.parametrize("rows", [[], [(0, 0.5, "r", None, "-", 1, 100)]])
def test_without_an_incumbent_there_is_nothing_to_compare(
    rows: list[tuple[int, float, str, float | None, str, int | None, int]],
) -> None:
    found = columns(rows) if rows else ComparisonLog().columns()

    with pytest.raises(DataError, match="nothing to compare|none of 1 decisions says"):
        compare(found, COSTS)


def test_values_that_could_not_be_read_are_named_where_none_could() -> None:
    log = ComparisonLog()
    record = decision("t1", incumbent=Incumbent(unread=("action",)))
    log.decide(decided_of([encode_record(record)], (), 2))

    with pytest.raises(DataError, match=r"1 values of it could not be read: see scale and actions"):
        compare(log.columns(), COSTS)


def test_an_incumbent_that_only_acts_or_only_scores_is_compared_as_far_as_that_goes() -> None:
    acting = compare(columns([(d, s, a, None, b, y, m) for d, s, a, _, b, y, m in BY_HAND]), COSTS)
    scoring = compare(columns([(d, s, a, x, "-", y, m) for d, s, a, x, _, y, m in BY_HAND]), COSTS)

    assert (acting.top_k, acting.ranking, acting.equal_budget.name) == (
        None,
        None,
        "at equal budget",
    )
    assert scoring.acted is None
    assert scoring.equal_budget.we.alerts == scoring.equal_budget.they.alerts
    assert any("gave scores and no actions" in note for note in notes(scoring))


ROWS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.sampled_from([0.1, 0.2, 0.5, 0.9]),
        st.sampled_from("ard"),
        st.none() | st.sampled_from([0.1, 0.5, 0.9]),
        st.sampled_from("ard-"),
        st.sampled_from([None, 0, 1]),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=60,
)


def parts_of(found: Comparison) -> list[Part]:
    parts = [found.acted, found.equal_budget, found.top_k]
    parts += [week.part for week in found.weeks] + [item.part for item in found.segments]
    return [part for part in parts if part is not None]


def heard(rows: Sequence[tuple[int, float, str, float | None, str, int | None, int]]) -> bool:
    return any(row[3] is not None or row[4] != "-" for row in rows)


@given(ROWS.filter(heard))
def test_whatever_was_decided_the_parts_add_up(
    rows: list[tuple[int, float, str, float | None, str, int | None, int]],
) -> None:
    found = compare(columns(rows), COSTS, k=2)

    for part in parts_of(found):
        overlap = part.overlap
        assert overlap.both + overlap.only_we + overlap.only_they + overlap.none == part.frauds
        assert overlap.both + overlap.only_we == part.we.caught
        assert overlap.both + overlap.only_they == part.they.caught
        assert overlap.both_minor + overlap.only_we_minor == part.we.caught_minor
        assert (
            overlap.only_they_minor + overlap.none_minor + part.we.caught_minor == part.fraud_minor
        )
        for side in (part.we, part.they):
            assert side.caught + side.false_positives + side.unlabelled == side.alerts
            assert side.declined <= side.alerts
    whole = found.equal_budget
    assert whole.we.alerts == whole.they.alerts
    assert whole.we.declined == whole.they.declined
    for pieces in ([week.part for week in found.weeks], [item.part for item in found.segments]):
        assert sum(part.decisions for part in pieces) == whole.decisions
        assert sum(part.we.caught_minor for part in pieces) == whole.we.caught_minor
        assert sum(part.they.alerts for part in pieces) == whole.they.alerts
    assert verdict(found)
    assert all(len(row) == len(table.header) for table in tables(found, 2) for row in table.rows)


@given(ROWS.filter(lambda rows: any(row[4] != "-" for row in rows)), st.integers(0, 20))
def test_on_each_day_we_stop_as_many_as_they_did(
    rows: list[tuple[int, float, str, float | None, str, int | None, int]], day: int
) -> None:
    seen = columns(rows)
    of_day = replace(
        seen, segments={"day": GroupColumn(("other", "asked"), np.array(
            [int(row[0] == day) for row in rows], np.int32
        ))}
    )  # fmt: skip

    parts = [item.part for item in compare(of_day, COSTS).segments if item.part.name == "asked"]

    theirs = sum(row[4] in "rd" for row in rows if row[0] == day)
    assert [part.we.alerts for part in parts] == [theirs] * len(parts)


def weeks_of(ours: str, theirs: str, *, frauds: int = 3, blocked: int = 0) -> Comparison:
    """Give four weeks in which each day has frauds that we and they stop as told."""
    rows: list[tuple[int, float, str, float | None, str, int | None, int]] = []
    for day in range(28):
        rows += [(day, 0.9 if ours == "d" else 0.1, ours, None, theirs, 1, 5_000)] * frauds
        rows += [(day, 0.5, "a", None, "d" if theirs == "a" else "a", 0, 900)] * frauds
        rows += [(day, 0.2, "a", None, "a", 0, 900)] * 5
        rows += [(day, 0.2, "a", None, "d", None, 5_000)] * blocked
    return compare(columns(rows), COSTS)


def test_the_verdict_says_who_catches_more_where_the_interval_holds_it() -> None:
    assert "we catch more, by +100.0 to +100.0 points" in verdict(weeks_of("d", "a"))
    assert "the incumbent catches more" in verdict(weeks_of("a", "d"))
    assert "may be chance: neither is better" in verdict(weeks_of("d", "d"))


@pytest.mark.parametrize(("frauds", "days"), [(9, 9), (30, 6), (0, 30)])
def test_no_verdict_stands_on_few_frauds_or_few_days(frauds: int, days: int) -> None:
    rows = [(row % days, 0.9, "d", None, "a", 1, 5_000) for row in range(frauds)]
    rows += [(day, 0.5, "a", None, "r", 0, 900) for day in range(days)] * 5

    found = compare(columns(rows), COSTS)  # type: ignore[arg-type]

    assert "value_detected" not in found.equal_budget.differences
    assert "no verdict" in verdict(found) or "nothing can be said" in verdict(found)
    assert "more" not in verdict(found).replace("catches more.", "")


@pytest.mark.parametrize(("blocked", "said"), [(1, "it would still hold"), (9, "cannot settle it")])
def test_a_verdict_for_us_says_whether_what_was_blocked_could_turn_it(
    blocked: int, said: str
) -> None:
    assert said in verdict(weeks_of("d", "a", blocked=blocked))


def test_a_period_leaves_out_what_is_not_in_it_and_a_repeated_decision_counts_once() -> None:
    log = ComparisonLog(MONDAY_MS, MONDAY_MS + DAY_MS)
    said = Incumbent(0.5, "review")
    times = [MONDAY_MS - 1, MONDAY_MS, MONDAY_MS + DAY_MS - 1, MONDAY_MS + DAY_MS]
    records = [
        decision(f"t{number}", event_time=time, incumbent=said) for number, time in enumerate(times)
    ]
    values = [encode_record(record) for record in (*records, records[1])]
    log.decide(decided_of([*values, b"{}", None], ("card", "amount"), 2))

    found = log.columns()

    assert len(found) == 2
    assert found.segments["card"].names == ("c1",)
    assert found.segments["amount"].names == ("0 to 10",)


def test_the_last_example_of_a_decision_is_its_label() -> None:
    log = ComparisonLog()
    log.decide(decided_of([encode_record(decision(f"t{number}")) for number in range(4)], (), 2))
    take_labels(
        log,
        [
            encode_record(example(0, transaction_id="t0", verdict="genuine", source="matured")),
            encode_record(example(1, transaction_id="t1")),
            encode_record(example(2, transaction_id="t1", verdict="genuine", supersedes=1)),
            label_bytes(transaction_id="t2"),
            b"nothing",
        ],
    )

    found = log.columns()

    assert found.label.tolist() == [0, 0, 1, -1]
    assert found.matured.tolist() == [True, False, False, False]


def test_a_segment_that_no_decision_has_is_refused_with_those_there_are() -> None:
    check_segments(CARD, ["card", "terminal", "amount"])
    with pytest.raises(SettingError, match="expected one of card, terminal, amount"):
        check_segments(CARD, ["channel"])
    assert replace(HANDBOOK).incumbent is None


def test_every_amount_has_its_band() -> None:
    assert [amount_band(minor, 2) for minor in (0, 999, 1_000, 499_999, 500_000)] == [
        "0 to 10", "0 to 10", "10 to 50", "1,000 to 5,000", "5,000 and more",
    ]  # fmt: skip
    assert amount_band(10, 0) == "10 to 50"
    assert ACTIONS == ("approve", "review", "decline")
