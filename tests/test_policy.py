"""From scores to actions, from contributions to reasons."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.compiled import kernel_source
from pipeline.features import Feature, feature_table
from pipeline.policy import REASONS_MAX, Policy, top_reasons
from pipeline.records import ACTIONS, Action
from tests.strategies import CARD

TABLE = tuple(
    Feature(name, "", "", code)
    for name, code in [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"), ("a2", "A"), ("e", "E")]
)
CONTRIBUTIONS = arrays.arrays(
    np.float64, st.tuples(st.integers(0, 5), st.just(6)), elements=st.floats(-20, 20)
)


def policy(*, review: float = 0.2, decline: float = 0.8) -> Policy:
    return Policy(TABLE, review_score_min=review, decline_score_min=decline)


@pytest.mark.parametrize(
    ("score", "action"),
    [
        (0.0, "approve"),
        (np.nextafter(0.2, 0.0), "approve"),
        (0.2, "review"),
        (np.nextafter(0.8, 0.0), "review"),
        (0.8, "decline"),
        (1.0, "decline"),
    ],
)
def test_a_threshold_belongs_to_the_stricter_action(score: float, action: Action) -> None:
    assert policy().action(score) == action


@given(st.lists(st.floats(0.0, 1.0)))
def test_a_higher_score_never_gets_a_milder_action(scores: list[float]) -> None:
    actions = policy().actions(np.array(sorted(scores), dtype=np.float64))

    assert actions.tolist() == sorted(actions.tolist())


def test_actions_of_a_batch_are_those_of_each_score() -> None:
    scores = np.linspace(0.0, 1.0, 101)

    actions = [ACTIONS[action] for action in policy().actions(scores)]

    assert actions == [policy().action(score) for score in scores.tolist()]


def reasons(*contributions: float) -> list[tuple[str, float]]:
    [given_back] = policy().reasons(np.array([contributions]))
    return given_back


def test_contributions_with_one_code_are_added_up() -> None:
    assert reasons(0.5, 0.75, 0.0, 0.0, 0.5, 0.0) == [("A", 1.0), ("B", 0.75)]


def test_what_speaks_against_a_code_is_taken_off() -> None:
    assert reasons(1.0, 0.125, 0.0, 0.0, -1.5, 0.0) == [("B", 0.125)]


def test_there_are_at_most_three_reasons_and_the_largest_is_first() -> None:
    assert reasons(1.0, 2.0, 3.0, 4.0, 0.0, 5.0) == [("E", 5.0), ("D", 4.0), ("C", 3.0)]


def test_what_does_not_speak_for_fraud_is_no_reason() -> None:
    assert reasons(-1.0, 0.0, -3.0, 0.0, 0.0, -5.0) == []


@given(CONTRIBUTIONS)
def test_reasons_are_the_largest_exact_sums_above_zero(contributions: np.ndarray) -> None:
    for given_back, row in zip(policy().reasons(contributions), contributions, strict=True):
        sums: dict[str, float] = {}
        for feature, value in zip(TABLE, row.tolist(), strict=True):
            sums[feature.reason_code] = sums.get(feature.reason_code, 0.0) + value
        above = sorted((value for value in sums.values() if value > 0.0), reverse=True)

        assert [value for _, value in given_back] == above[:REASONS_MAX]
        assert all(sums[code] == value for code, value in given_back)
        assert len({code for code, _ in given_back}) == len(given_back)


@given(CONTRIBUTIONS)
def test_the_compiled_kernel_is_its_source(contributions: np.ndarray) -> None:
    code_of_feature = np.array([0, 1, 2, 3, 0, 4])
    given_back = []
    for run in (top_reasons, kernel_source(top_reasons)):
        codes = np.full((len(contributions), REASONS_MAX), -1, dtype=np.int64)
        values = np.zeros((len(contributions), REASONS_MAX))
        run(contributions, code_of_feature, 5, codes, values)
        given_back.append((codes.tobytes(), values.tobytes()))

    assert given_back[0] == given_back[1]


def test_a_version_names_the_thresholds() -> None:
    first = policy()

    assert policy().version == first.version
    assert policy(review=0.21).version != first.version
    assert policy(decline=0.81).version != first.version


def test_the_version_does_not_depend_on_the_features() -> None:
    fewer = Policy(TABLE[:2], review_score_min=0.2, decline_score_min=0.8)

    assert fewer.version == policy().version


def test_every_reason_code_of_the_card_schema_can_be_given() -> None:
    table = feature_table(CARD)
    found = Policy(table, review_score_min=0.2, decline_score_min=0.8).reasons(np.eye(len(table)))

    assert [code for [(code, _)] in found] == [feature.reason_code for feature in table]


def test_renaming_a_feature_leaves_its_reasons() -> None:
    renamed = tuple(replace(feature, name=feature.name + "_2") for feature in TABLE)
    other = Policy(renamed, review_score_min=0.2, decline_score_min=0.8)
    contributions = np.arange(6.0)[None, :]

    assert other.reasons(contributions) == policy().reasons(contributions)
