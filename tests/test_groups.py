"""Quality by scenario and segment, by hand."""

import numpy as np

from pipeline.quality.groups import (
    OTHERS,
    SEGMENTS_MAX,
    GroupColumn,
    Groups,
    scenario_recalls,
    segments,
)
from pipeline.quality.intervals import wilson


def group(*codes: int, names: tuple[str, ...] = ("a", "b")) -> GroupColumn:
    return GroupColumn(names, np.array(codes, np.int32))


def test_values_keep_their_numbers_from_batch_to_batch() -> None:
    groups = Groups()

    groups.add("channel", ["web", "shop"])
    groups.add("channel", ["shop", "phone"])

    column = groups.columns()["channel"]
    assert [column.names[code] for code in column.code] == ["web", "shop", "shop", "phone"]


def test_a_scenario_counts_its_own_frauds_in_the_top_of_all() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    is_fraud = np.array([True, False, True, True, True])

    first, second = scenario_recalls(
        "m", scores, is_fraud, group(0, 0, 0, 1, 1), review_score_min=0.6
    )

    # Four frauds, so the four highest scores: two of a, one of b.
    assert (first.scenario, first.frauds, first.caught_in_top, first.caught) == ("a", 2, 2, 2)
    assert (second.scenario, second.frauds, second.caught_in_top, second.caught) == ("b", 2, 1, 1)
    assert second.recall == second.recall_in_top == wilson(1, 2)


def test_a_scenario_without_a_fraud_is_left_out() -> None:
    found = scenario_recalls(
        "m", np.array([0.5, 0.5]), np.array([True, False]), group(0, 1), review_score_min=0.1
    )

    assert [item.scenario for item in found] == ["a"]


def test_a_segment_by_hand() -> None:
    is_fraud = np.array([True, True, False, False, False, False])
    alerted = np.array([True, False, True, False, False, False])
    declined = np.array([True, False, False, False, False, False])

    large, small = segments(
        "channel", group(0, 0, 0, 0, 1, 1), is_fraud, alerted=alerted, declined=declined
    )

    assert (large.name, large.events, large.frauds, large.alerts) == ("a", 4, 2, 2)
    assert (large.caught, large.declined, large.genuine_alerted) == (1, 1, 1)
    assert (large.precision, large.recall) == (wilson(1, 2), wilson(1, 2))
    assert (large.false_positive_rate, large.decline_rate) == (wilson(1, 2), wilson(1, 4))
    assert (small.name, small.alerts, small.precision, small.recall) == ("b", 0, None, None)
    assert not (large.differs or small.differs)


def test_a_segment_whose_genuine_are_stopped_more_often_is_marked() -> None:
    code = np.repeat([0, 1], 1000).astype(np.int32)
    is_fraud = np.zeros(2000, np.bool_)
    alerted = np.zeros(2000, np.bool_)
    alerted[:100] = True
    alerted[1000:1020] = True

    found = segments(
        "age", GroupColumn(("old", "young"), code), is_fraud, alerted=alerted,
        declined=np.zeros(2000, np.bool_),
    )  # fmt: skip

    assert [item.differs for item in found] == [True, True]


def test_rare_values_are_judged_together() -> None:
    names = tuple(f"v{number}" for number in range(SEGMENTS_MAX + 3))
    code = np.concatenate([np.full(40 - number, number) for number in range(len(names))])
    nobody = np.zeros(len(code), np.bool_)

    found = list(
        segments(
            "city", GroupColumn(names, code.astype(np.int32)), nobody, alerted=nobody,
            declined=nobody,
        )
    )  # fmt: skip

    assert [item.name for item in found] == [*names[:SEGMENTS_MAX], OTHERS]
    assert sum(item.events for item in found) == len(code)
