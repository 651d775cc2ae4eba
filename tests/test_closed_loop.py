"""The world behind the stream: what becomes known, when, and that the declined stays hidden."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Decisions
from pipeline.errors import SettingError
from pipeline.events import Label, LabelDecoder, Outcome
from pipeline.feedback_encoding import encode_label
from pipeline.label_source import Known
from pipeline.records import Action
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings
from producers.closed_loop import Case, ClosedLoop, LoopOptions
from producers.loop_options import CLOSED_LOOP_FRAUD_SCALE
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS

FOREVER_MS = MONDAY_MS + 1_000 * DAY_MS
# Everything that is left to chance happens, or never does.
SURE = LoopOptions(
    unnoticed_share=0.0, called_share=0.0, mistaken_share=0.0, issuer_declined_share=0.0
)


def case(name: str = "t1", **changes: object) -> Case:
    fields: dict[str, object] = {
        "transaction_id": name,
        "key": "c1",
        "event_time_ms": MONDAY_MS,
        "amount_minor": 1_000,
        "taken": "approve",
        "score": 0.5,
        "is_fraud": 1,
    }
    return Case(**(fields | changes))  # type: ignore[arg-type]


def cases(count: int, **changes: object) -> list[Case]:
    """Give cases a minute apart."""
    return [
        case(f"t{number}", event_time_ms=MONDAY_MS + number * 60_000, **changes)
        for number in range(count)
    ]


def world_of(*given: Case, options: LoopOptions = SURE) -> ClosedLoop:
    world = ClosedLoop(options)
    for item in given:
        world.react(item)
    return world


def delays_days(known: Known) -> np.ndarray:
    """Give the delays of labels, in days, whose events are those of `cases`."""
    return np.array(
        [
            (label.label_time_ms - MONDAY_MS - int(label.transaction_id[1:]) * 60_000) / DAY_MS
            for label in known.labels
        ]
    )


# What was declined.


@pytest.mark.parametrize("is_fraud", [0, 1, -1])
def test_of_what_was_declined_nothing_ever_comes_back(is_fraud: int) -> None:
    options = replace(SURE, called_share=1.0, mistaken_share=1.0, issuer_declined_share=1.0)

    world = world_of(*cases(100, taken="decline", is_fraud=is_fraud), options=options)

    assert world.due(FOREVER_MS) == Known([], [])
    assert world.report().labels_waiting == 0


# What went through.


def test_fraud_that_went_through_comes_back_as_a_chargeback_after_20_to_90_days() -> None:
    known = world_of(*cases(2_000)).due(FOREVER_MS)

    assert {(label.source, label.is_fraud) for label in known.labels} == {("chargeback", True)}
    assert len({label.label_id for label in known.labels}) == 2_000
    days = delays_days(known)
    assert 20 <= days.min() < 21
    assert 89 < days.max() <= 90
    # Even between these: a fourth in each quarter.
    quarters = np.histogram(days, bins=4, range=(20, 90))[0] / 2_000
    assert (np.abs(quarters - 0.25) < 0.04).all()


def test_a_genuine_payment_comes_back_as_silence() -> None:
    assert world_of(*cases(100, is_fraud=0)).due(FOREVER_MS) == Known([], [])


def test_a_truth_that_nobody_knows_comes_back_as_silence() -> None:
    assert world_of(*cases(100, is_fraud=-1)).due(FOREVER_MS) == Known([], [])


def test_nothing_comes_before_its_time_nor_twice() -> None:
    world = world_of(*cases(500))
    came: list[Label] = []

    for day in range(100):
        now_ms = MONDAY_MS + day * DAY_MS
        known = world.due(now_ms)
        assert all(now_ms - DAY_MS < label.label_time_ms <= now_ms for label in known.labels)
        came += known.labels

    assert len({label.label_id for label in came}) == len(came) == 500
    times = [label.label_time_ms for label in came]
    assert times == sorted(times)


def test_some_frauds_are_never_noticed() -> None:
    known = world_of(*cases(4_000), options=replace(SURE, unnoticed_share=0.05)).due(FOREVER_MS)

    assert len(known.labels) / 4_000 == pytest.approx(0.95, abs=0.015)


def test_some_holders_call_within_days_and_the_chargeback_follows() -> None:
    known = world_of(*cases(4_000), options=replace(SURE, called_share=0.1)).due(FOREVER_MS)

    calls = [label for label in known.labels if label.source == "customer"]
    assert len(calls) / 4_000 == pytest.approx(0.1, abs=0.02)
    days = delays_days(Known(calls))
    assert days.min() >= 1 and days.max() <= 5
    assert len(known.labels) == 4_000 + len(calls)


def test_a_chargeback_by_mistake_is_reversed_by_a_label_that_names_it() -> None:
    options = replace(SURE, mistaken_share=1.0)

    known = world_of(*cases(50, is_fraud=0), options=options).due(FOREVER_MS)

    charged = {label.transaction_id: label for label in known.labels if label.is_fraud}
    won = {label.transaction_id: label for label in known.labels if not label.is_fraud}
    assert set(charged) == set(won) and len(charged) == 50
    for name, label in won.items():
        assert (charged[name].source, label.source) == ("chargeback", "dispute_won")
        assert label.supersedes == charged[name].label_id
        assert label.label_time_ms > charged[name].label_time_ms


def test_what_the_issuer_declines_has_that_outcome_and_no_label() -> None:
    options = replace(SURE, issuer_declined_share=0.2)

    known = world_of(*cases(4_000), options=options).due(FOREVER_MS)

    refused = {outcome.transaction_id for outcome in known.outcomes}
    assert {outcome.outcome for outcome in known.outcomes} == {"issuer_declined"}
    assert len(refused) / 4_000 == pytest.approx(0.2, abs=0.02)
    assert refused.isdisjoint(label.transaction_id for label in known.labels)
    assert len(refused) + len(known.labels) == 4_000


def test_labels_of_the_longest_id_are_valid_on_the_wire() -> None:
    known = world_of(case("t" * 64)).due(FOREVER_MS)

    for label in known.labels:
        assert LabelDecoder(CARD).decode_one(encode_label(label, CARD)) == label


# Review.


@pytest.mark.parametrize("budget", [0, 1, 7, 100, 24_000])
def test_no_more_alerts_are_reviewed_in_a_day_than_the_budget(budget: int) -> None:
    world = world_of(
        *cases(3 * 24 * 60, taken="review", is_fraud=0),
        options=replace(SURE, review_budget=budget),
    )

    known = world.due(FOREVER_MS)

    days = Counter(int(label.transaction_id[1:]) // (24 * 60) for label in known.labels)
    # More alerts than the budget come in every hour, unless it is the largest.
    assert days == ({day: min(budget, 24 * 60) for day in range(3)} if budget else {})
    report = world.report()
    assert report.alerts_reviewed + report.alerts_unreviewed == report.decided == 3 * 24 * 60


def test_a_later_hour_may_use_what_an_earlier_one_left() -> None:
    evening = [
        case(f"t{number}", taken="review", event_time_ms=MONDAY_MS + 23 * HOUR_MS)
        for number in range(150)
    ]

    world = world_of(*evening)
    world.due(FOREVER_MS)

    assert world.report().alerts_reviewed == 100


def test_the_highest_scores_are_reviewed() -> None:
    alerts = [
        case(f"t{number}", taken="review", score=number / 100, event_time_ms=MONDAY_MS)
        for number in np.random.default_rng(1).permutation(60).tolist()
    ]

    known = world_of(*alerts, options=replace(SURE, review_budget=24 * 10)).due(FOREVER_MS)

    reviewed = {label.transaction_id for label in known.labels if label.source == "analyst"}
    assert reviewed == {f"t{number}" for number in range(50, 60)}


def test_the_answer_comes_within_hours_and_never_before_the_hour_has_ended() -> None:
    world = world_of(*cases(60, taken="review"), options=replace(SURE, review_budget=24_000))

    assert world.due(MONDAY_MS + HOUR_MS - 1) == Known([], [])
    assert world.report().alerts_waiting == 60
    known = world.due(MONDAY_MS + 5 * HOUR_MS)
    assert [label.source for label in known.labels] == ["analyst"] * 60
    assert all(label.label_time_ms >= MONDAY_MS + HOUR_MS for label in known.labels)


def test_a_reviewed_fraud_does_not_go_through() -> None:
    known = world_of(case(taken="review", event_time_ms=MONDAY_MS + HOUR_MS)).due(FOREVER_MS)

    assert [(label.source, label.is_fraud) for label in known.labels] == [("analyst", True)]
    assert known.outcomes == []


def test_a_reviewed_genuine_goes_through() -> None:
    alert = case(taken="review", is_fraud=0, event_time_ms=MONDAY_MS + HOUR_MS)

    known = world_of(alert).due(FOREVER_MS)

    assert [(label.source, label.is_fraud) for label in known.labels] == [("analyst", False)]
    [outcome] = known.outcomes
    assert outcome == Outcome("t1", "c1", "approved", known.labels[0].label_time_ms)


@pytest.mark.parametrize(("is_fraud", "sources"), [(1, ["chargeback"]), (0, []), (-1, [])])
def test_an_alert_beyond_the_budget_goes_through(is_fraud: int, sources: list[str]) -> None:
    alert = case(taken="review", is_fraud=is_fraud)

    known = world_of(alert, options=replace(SURE, review_budget=0)).due(FOREVER_MS)

    assert [label.source for label in known.labels] == sources
    assert known.outcomes == [Outcome("t1", "c1", "approved", MONDAY_MS + HOUR_MS)]


def test_looking_does_not_tell_what_nobody_knows() -> None:
    alert = case(taken="review", is_fraud=-1, event_time_ms=MONDAY_MS + HOUR_MS)

    world = world_of(alert)
    known = world.due(FOREVER_MS)

    assert (known.labels, [outcome.outcome for outcome in known.outcomes]) == ([], ["approved"])
    assert world.report().alerts_unreviewed == 1


# The same decisions have the same consequences.


def mixed(count: int = 600) -> list[Case]:
    actions: tuple[Action, ...] = ("approve", "review", "decline")
    chance = np.random.default_rng(3)
    return [
        item._replace(
            taken=actions[int(chance.integers(3))],
            is_fraud=int(chance.integers(2)),
            score=float(chance.random()),
        )
        for item in cases(count)
    ]


REALISTIC = LoopOptions(called_share=0.3, mistaken_share=0.2, issuer_declined_share=0.1)


def in_order(known: Known) -> tuple[list[Label], list[Outcome]]:
    return (
        sorted(known.labels, key=lambda label: label.label_id),
        sorted(known.outcomes, key=lambda outcome: outcome.transaction_id),
    )


def test_the_order_of_decisions_changes_nothing() -> None:
    known = world_of(*mixed(), options=REALISTIC).due(FOREVER_MS)
    other = world_of(*reversed(mixed()), options=REALISTIC).due(FOREVER_MS)

    assert in_order(known) == in_order(other)
    assert known.labels and known.outcomes


def test_it_makes_no_difference_how_often_it_is_asked() -> None:
    at_once = world_of(*mixed(), options=REALISTIC).due(FOREVER_MS)
    world, hourly = ClosedLoop(REALISTIC), Known([], [])

    for hour in range(24 * 200):
        for item in mixed()[hour * 60 : (hour + 1) * 60] if hour < 10 else []:
            world.react(item)
        known = world.due(MONDAY_MS + (hour + 1) * HOUR_MS)
        hourly.labels.extend(known.labels)
        hourly.outcomes.extend(known.outcomes)

    assert in_order(hourly) == in_order(at_once)


def test_another_seed_is_another_world() -> None:
    options = replace(REALISTIC, seed=8)

    assert world_of(*mixed(), options=REALISTIC).due(FOREVER_MS) != world_of(
        *mixed(), options=options
    ).due(FOREVER_MS)


# What it was worth.


def test_the_report_counts_every_decision_once_and_closes() -> None:
    world = world_of(*mixed(), options=replace(REALISTIC, review_budget=20))
    before = world.report()
    known = world.due(FOREVER_MS)
    report = world.report()

    assert before.decided + before.alerts_waiting == report.decided == 600
    frauds = sum(item.is_fraud for item in mixed())
    assert report.frauds == frauds
    assert frauds == (
        report.frauds_declined
        + report.frauds_reviewed
        + report.frauds_missed
        + report.frauds_issuer_declined
    )
    assert sum(report.labels.values()) == len(known.labels)
    assert sum(report.outcomes.values()) == len(known.outcomes)
    assert report.labels_waiting == 0


def test_the_report_says_in_money_what_was_stopped_and_what_was_missed() -> None:
    noon_ms = MONDAY_MS + 12 * HOUR_MS
    world = world_of(
        case("t1", taken="decline", amount_minor=300),
        case("t2", taken="review", amount_minor=100, event_time_ms=noon_ms),
        case("t3", taken="approve", amount_minor=500),
        case("t4", taken="decline", amount_minor=70, is_fraud=0),
        case("t5", taken="review", amount_minor=100),
        options=replace(SURE, review_budget=2),
    )
    world.due(FOREVER_MS)

    report = world.report()

    assert report.value_detected == 400 / 1_000
    assert report.missed_minor == 600
    assert (report.false_declines, report.false_declines_minor) == (1, 70)
    assert (report.alerts_reviewed, report.alerts_unreviewed) == (1, 1)


def test_only_events_of_the_measured_period_are_counted() -> None:
    options = replace(SURE, start_ms=MONDAY_MS + 10 * 60_000, end_ms=MONDAY_MS + 30 * 60_000)

    world = world_of(*cases(100), options=options)

    assert world.report().frauds == 20
    assert len(world.due(FOREVER_MS).labels) == 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"review_budget": -1}, "review_budget (-1)"),
        ({"called_share": 1.5}, "called_share must be 0 to 1 (got 1.5)"),
        ({"unnoticed_share": -0.1}, "unnoticed_share must be 0 to 1 (got -0.1)"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(SettingError) as refused:
        replace(SURE, **changes)  # type: ignore[arg-type]

    assert said in str(refused.value)


# In a replay.


@pytest.mark.parametrize("seed", [1, 7])
def test_a_closed_loop_has_one_to_three_frauds_in_a_thousand(seed: int) -> None:
    world = SimulatorOptions(
        customers=1_000, terminals=2_000, days=90, seed=seed, fraud_scale=CLOSED_LOOP_FRAUD_SCALE
    )

    # Compromised terminals and cards add up over their first weeks.
    is_fraud = np.concatenate([batch.is_fraud for batch in simulate(world)][28:])

    assert 0.001 < is_fraud.mean() < 0.003


def test_while_we_only_observe_every_event_goes_on_and_is_counted() -> None:
    world = world_of(*cases(50, taken="none"))
    acting = world_of(*cases(50, taken="approve"))

    assert world.due(FOREVER_MS) == acting.due(FOREVER_MS)
    report = world.report()
    assert (report.observed, report.frauds_missed, report.value_detected) == (50, 50, 0.0)
    assert replace(report, observed=0) == acting.report()


def replayed(batch_events_max: int) -> tuple[ClosedLoop, dict[str, int], list[float]]:
    scores: list[float] = []

    def keep(decisions: Decisions) -> None:
        scores.extend(decisions.scores.tolist())

    world = ClosedLoop(replace(REALISTIC, review_budget=20))
    settings = Settings(
        mode="act",
        challengers="none",
        maturity_days=10.0,
        batch_events_max=batch_events_max,
        review_score_min=0.02,
        decline_score_min=0.3,
    )
    run = Replay(CARD, settings, ReplayOptions(0), decided=keep, labels=world)
    options = SimulatorOptions(customers=100, terminals=100, days=60, seed=3)
    result = run.run(
        [(batch.transactions(), batch.is_fraud) for batch in simulate(options)], lambda _: None
    )
    return world, dict(result.labels), scores


def test_a_replay_in_a_closed_loop_is_the_same_whatever_its_batches() -> None:
    world, paths, scores = replayed(1_024)
    other, other_paths, other_scores = replayed(7)

    assert other_scores == scores
    assert (other.report(), other_paths) == (world.report(), paths)
    report = world.report()
    assert min(report.frauds_declined, report.frauds_reviewed, report.frauds_missed) > 0
    assert {"learned", "corrected"} <= set(paths)
