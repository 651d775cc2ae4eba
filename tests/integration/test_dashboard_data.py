"""What the dashboard and the rules ask has an answer, and the answer moves, in a real run.

The whole system runs on a real Kafka, Redis and Prometheus, with traffic in which everything
happens (`dashboards/traffic.py`); every expression is asked before a drift and after it.
"""

import logging

import pytest

from dashboards.observe import Asked, observe
from tests.proofs import program

pytestmark = [pytest.mark.integration, pytest.mark.slow]

logger = logging.getLogger(__name__)

# What may have the same value at both moments of a healthy run, and why.
CONSTANT = {
    "fraud_quality_label_delay_seconds": "labels of this run come seven days later, always",
    "fraud_card_precision_days": "the mature days are as many as are kept",
    "fraud_score_psi_reference_events": "the reference is pinned",
    "fraud_score_psi_events": "the window is full",
    "fraud_feature_psi_reference_events": "the reference is pinned",
    "fraud_feature_psi_events": "the window is full",
    'count(ALERTS{alertstate="firing"}) or vector(0)': "tests/rules says when alerts fire",
    'sum by (job) (up{job=~"worker|trainer|monitor"})': "nobody dies in this run",
    "sum by (topic) (fraud_monitor_behind_records)": "it is asked when all has been read",
    "sum(fraud_commits_refused_total)": "nobody else commits in this run",
    "sum(fraud_feedback_expired_total)": "no limit is reached in this run",
    "sum by (topic) (fraud_records_refused_total)": "all records are of our format",
    "sum by (topic) (fraud_records_repeated_total)": "nothing is published twice without a crash",
    "sum(fraud_features_ignored_total)": "all decisions are of one schema",
    "sum(fraud_model_scores_ignored_total)": "there are two models",
    "sum(fraud_examples_repeated_total)": "nothing is published twice without a crash",
    "sum by (topic) (fraud_redriven_records_total)": "no dead letter is sent again in this run",
    "sum by (topic) (fraud_unread_records)": "it is asked when all has been read",
    "sum(fraud_trainer_at_work)": "one trainer is at work all the time",
    "sum by (result) (fraud_standby_versions_total)": "no second trainer stands by",
    "sum(fraud_trainer_commits_refused_total)": "no second trainer stands by",
    "sum(fraud_breaker_open)": "it closes by itself",
    "max(fraud_ids_dropped_total)": "no limit is reached in this run",
    "sum(increase(fraud_degraded_decisions_total[15m])) "
    "/ sum(increase(fraud_decisions_total[15m]))": "a model decides all the time",
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    program("prometheus")
    return observe(tmp_path_factory.mktemp("observed"), logger.info)


def test_every_expression_has_an_answer_at_both_moments(asked: list[Asked]) -> None:
    empty = [
        f"{item.place}: {item.expression}"
        for item in asked
        if not item.is_alert and not (item.first and item.second)
    ]

    assert not empty, "\n".join(empty)


def test_every_answer_changes_during_the_run(asked: list[Asked]) -> None:
    still = [
        f"{item.place}: {item.expression} is {item.first}"
        for item in asked
        if not item.is_alert and item.first == item.second and item.expression not in CONSTANT
    ]

    assert not still, "\n".join(still)


def test_what_may_stay_the_same_is_asked_somewhere(asked: list[Asked]) -> None:
    assert set(CONSTANT) <= {item.expression for item in asked}


def test_all_that_alerts_read_is_there(asked: list[Asked]) -> None:
    """A condition that is empty because all is well is told from one that reads nothing."""
    unread = [
        f"{item.place}: {selector}"
        for item in asked
        for selector, answer in item.read.items()
        if not answer
    ]

    assert not unread, "\n".join(unread)


def test_the_drift_of_the_run_is_seen(asked: list[Asked]) -> None:
    found = {item.expression: item for item in asked}
    detected = found["sum by (detector, direction) (fraud_drift_detected_total)"]
    features = found["avg_over_time(fraud_feature_psi[15m])"]

    assert detected.second["adwin rise"] > detected.first["adwin rise"]
    assert features.second["amount"] > features.first["amount"]
