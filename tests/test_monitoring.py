"""The monitor counts each decision and label once, in bounded memory, and judges as a whole run."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from pipeline.drift import DETECTORS, ScorePsi
from pipeline.durations import DAY_MS
from pipeline.evaluation import evaluate
from pipeline.feature_drift import FeaturePsi
from pipeline.label_maturity import DAYS_KEPT, LabelledShare, LabelMaturity
from pipeline.metrics import registry_of
from pipeline.monitor_samples import monitor_samples
from pipeline.monitoring import (
    CURRENCIES_MAX,
    DEAD_LETTERS_REMEMBERED,
    MODELS_MAX,
    OTHER,
    DeadLetter,
    Monitor,
    trained_to,
)
from pipeline.records import DecisionRecord, TrainingExample, pack_features
from pipeline.rule_stats import CODES_MAX
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING


def decision(offset: int, *, partition: int = 0, **changed: object) -> DecisionRecord:
    plain = DecisionRecord(
        transaction_id=f"t{partition}-{offset}",
        event_time=offset * 1000,
        keys={"card": f"c{offset}", "terminal": "m1"},
        amount=250,
        currency="EUR",
        action="approve",
        score=0.1,
        reasons=[],
        model_version="additive@5000",
        policy_version="p",
        propensity=1.0,
        label_offset=5000,
        schema_hash="s",
        features=b"",
        challengers={},
        source=("transactions", partition, offset),
    )
    return msgspec.structs.replace(plain, **changed)


def example(seq: int, *, partition: int = 0, **changed: object) -> TrainingExample:
    plain = TrainingExample(
        label_id=f"l{partition}-{seq}",
        transaction_id=f"t{partition}-{seq}",
        partition=partition,
        training_seq=seq,
        verdict="genuine",
        source="simulated",
        weight=1.0,
        supersedes=None,
        keys={"card": f"c{seq}", "terminal": "m1"},
        amount=250,
        event_time=seq * 1000,
        label_time=seq * 1000 + DAY_MS,
        schema_hash="s",
        features=b"",
        score=0.1,
        action="approve",
        model_version="additive@5000",
        challengers={},
    )
    return msgspec.structs.replace(plain, **changed)


def labelled_stream(events: int) -> list[TrainingExample]:
    chance = np.random.default_rng(2)
    scores = chance.random(events)
    return [
        example(
            seq,
            score=score,
            verdict="fraud" if chance.random() < score else "genuine",
            challengers={f"logistic@{seq}": score / 2},
        )
        for seq, score in enumerate(scores.tolist())
    ]


def test_decisions_are_counted_with_their_amounts_in_major_units() -> None:
    monitor = Monitor(window_events=10, minor_digits=2)
    monitor.observe_decisions(
        [decision(0), decision(1, action="decline", amount=1), decision(2, currency="USD")]
    )

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    assert value("fraud_observed_decisions_total", {"action": "approve"}) == 2
    assert value("fraud_amount_total", {"action": "approve", "currency": "USD"}) == 2.5
    assert value("fraud_amount_total", {"action": "decline", "currency": "EUR"}) == 0.01
    assert value("fraud_last_event_timestamp_seconds") == 2.0
    assert value("fraud_score_bucket", {"le": "0.1"}) == 3
    assert value("fraud_decision_training_offset", {"model": "additive"}) == 5000


@pytest.mark.parametrize("again_from", [0, 3, 5])
def test_decisions_that_come_again_after_a_crash_count_once(again_from: int) -> None:
    monitor = Monitor(window_events=10)
    log = [decision(offset) for offset in range(5)]
    other = [decision(offset, partition=1) for offset in range(5)]

    monitor.observe_decisions(log + other)
    monitor.observe_decisions(log[again_from:] + [decision(5)] + other)

    assert monitor.view().events == 11
    assert monitor.repeated[DECISIONS] == 5 - again_from + 5


def test_examples_that_come_again_count_once() -> None:
    monitor = Monitor(window_events=100)
    log = [example(seq) for seq in range(5)]

    monitor.observe_examples(log[:3])
    monitor.observe_examples(log[1:] + [example(0, partition=1)])

    assert monitor.view().labels == 6
    assert monitor.repeated[TRAINING] == 2


def test_dead_letters_are_counted_once_by_a_known_reason() -> None:
    monitor = Monitor(window_events=10)
    first = DeadLetter("schema", ("transactions", "0", "7"))
    monitor.observe_dead_letters([first, DeadLetter("invented", ("transactions", "0", "8")), first])

    assert (monitor.dead_letters["schema"], monitor.dead_letters[OTHER]) == (1, 1)
    assert monitor.repeated[DEAD_LETTERS] == 1


def test_the_dead_letters_remembered_are_bounded() -> None:
    monitor = Monitor(window_events=10)
    letters = [
        DeadLetter("schema", ("transactions", "0", str(offset)))
        for offset in range(DEAD_LETTERS_REMEMBERED + 1)
    ]
    monitor.observe_dead_letters(letters)
    monitor.observe_dead_letters([letters[-1], letters[0]])

    assert monitor.repeated[DEAD_LETTERS] == 1
    assert monitor.dead_letters["schema"] == len(letters) + 1


def test_records_of_another_format_are_counted_and_harm_nothing() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_decisions([None, decision(0), None])
    monitor.observe_decisions([None])
    monitor.observe_examples([None, example(0)])

    assert monitor.refused == {DECISIONS: 3, TRAINING: 1, DEAD_LETTERS: 0}
    assert (monitor.view().events, monitor.view().labels) == (1, 1)


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_champion_and_challenger_are_judged_as_a_whole_run(batch: int) -> None:
    monitor = Monitor(window_events=1000)
    log = labelled_stream(1000)
    for start in range(0, len(log), batch):
        monitor.observe_examples(log[start : start + batch], training_end=start + batch)
    is_fraud = [item.is_fraud for item in log]
    champion = evaluate([item.score for item in log], is_fraud)
    challenger = evaluate([item.score / 2 for item in log], is_fraud)

    quality = monitor.view().quality

    assert list(quality) == ["additive", "logistic"]
    assert quality["additive"].log_loss == pytest.approx(champion.log_loss)
    assert quality["additive"].average_precision == pytest.approx(champion.average_precision)
    assert quality["logistic"].brier == pytest.approx(challenger.brier)
    assert quality["logistic"].label_delay_ms_median == DAY_MS
    assert monitor.view().totals["additive"].events == 1000


def test_quality_is_exported_by_model_with_its_count() -> None:
    monitor = Monitor(window_events=100)
    monitor.observe_examples(labelled_stream(250), training_end=5250)
    monitor.observe_decisions([decision(0)])

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    for model in ("additive", "logistic"):
        quality = monitor.windows[model].quality
        assert value("fraud_log_loss", {"model": model}) == quality.log_loss
        assert value("fraud_quality_window_events", {"model": model}) == 100
        assert value("fraud_judged_events_total", {"model": model}) == 250
        assert value("fraud_quality_label_delay_seconds", {"model": model}) == DAY_MS / 1000
    assert value("fraud_label_delay_seconds_count", {"source": "simulated"}) == 250
    assert value("fraud_model_age_examples", {"model": "additive"}) == 250


def test_another_version_of_the_champion_that_watches_is_not_judged_as_it() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_examples([example(0, score=0.9, challengers={"additive@1": 0.2})])

    assert monitor.windows["additive"].quality.brier == pytest.approx(0.81)


def test_a_label_taken_back_corrects_all_windows_and_counts_as_no_event() -> None:
    monitor = Monitor(window_events=10)
    both = {"logistic@1": 0.3}
    first = example(0, verdict="fraud", challengers=both)
    back = example(1, label_id="l9", supersedes=first.training_seq, challengers=both)

    monitor.observe_examples([first, back, example(2, label_id="l10", supersedes=99)])

    assert [window.quality.frauds for window in monitor.windows.values()] == [0, 0]
    assert [window.quality.events for window in monitor.windows.values()] == [1, 1]
    assert monitor.corrections == {"inside": 1, "outside": 1}
    assert monitor.view().labels == 1


def test_a_rise_of_the_error_is_reported_with_its_moment() -> None:
    monitor = Monitor(window_events=100)
    calm = [example(seq) for seq in range(3000)]
    storm = [example(seq, verdict="fraud" if seq % 2 else "genuine") for seq in range(3000, 4000)]
    monitor.observe_examples(calm + storm)

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    for detector in DETECTORS:
        labels = {"detector": detector, "target": "error", "direction": "rise"}
        moment = value("fraud_drift_last_event_timestamp_seconds", labels)
        after = value("fraud_drift_last_error_after_ratio", labels)
        assert value("fraud_drift_detected_total", labels) == 1
        assert moment is not None
        assert 3000 < moment < 3200
        before = value("fraud_drift_last_error_before_ratio", labels)
        assert before is not None
        assert after is not None
        assert 0.009 < before < after


def test_the_score_is_compared_once_the_model_has_learned() -> None:
    monitor = Monitor(window_events=10, psi=ScorePsi(reference_events=100, window_events=100))
    fresh_model = [decision(offset, model_version="additive@0") for offset in range(50)]
    chance = np.random.default_rng(4)
    learned = [
        decision(50 + row, score=score) for row, score in enumerate(chance.random(200).tolist())
    ]
    monitor.observe_decisions(fresh_model)
    assert monitor.psi.reference_count == 0

    monitor.observe_decisions(learned)
    assert monitor.psi.value is not None
    assert monitor.psi.value < 0.25
    monitor.observe_decisions([decision(250 + row, score=0.99) for row in range(100)])
    assert monitor.psi.value > 0.25


def test_the_models_judged_are_bounded_and_the_rest_is_counted() -> None:
    monitor = Monitor(window_events=10)
    many = {f"model_{number}@1": 0.5 for number in range(MODELS_MAX + 5)}
    monitor.observe_examples([example(0, challengers=many)])

    assert len(monitor.windows) == MODELS_MAX
    assert "additive" in monitor.windows
    assert monitor.model_scores_ignored == 6


def test_the_currencies_are_bounded_and_the_rest_is_shown_together() -> None:
    monitor = Monitor(window_events=10)
    currencies = [f"{chr(65 + number // 26)}{chr(65 + number % 26)}X" for number in range(100)]
    monitor.observe_decisions(
        [decision(row, currency=currency) for row, currency in enumerate(currencies)]
    )

    assert len(monitor.amounts) == CURRENCIES_MAX + 1
    assert monitor.amounts["approve", OTHER] == 250 * (100 - CURRENCIES_MAX)


def test_what_was_done_is_held_against_what_was_true() -> None:
    monitor = Monitor(window_events=10, minor_digits=2)
    caught = example(0, action="decline", verdict="fraud", amount=900)
    missed = example(1, verdict="fraud", amount=100)
    back = example(2, label_id="l9", supersedes=missed.label_id)
    monitor.observe_examples([caught, missed, back])

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    for action, count, amount in (("decline", 1, 9.0), ("approve", 1, 1.0), ("review", 0, 0.0)):
        labels = {"action": action, "verdict": "fraud"}
        assert value("fraud_judged_decisions_total", labels) == count
        assert value("fraud_judged_amount_total", labels) == amount
    assert value("fraud_judged_decisions_total", {"action": "approve", "verdict": "genuine"}) == 0


def test_a_label_before_its_event_has_no_delay() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_examples([example(5, label_time=0)])

    assert monitor.label_delays["simulated"].sum == 0
    assert monitor.windows["additive"].quality.label_delay_ms_median == 0


def test_a_view_does_not_change_with_later_events() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_decisions([decision(0)])
    before = monitor.view()
    monitor.observe_decisions([decision(1)])

    assert (before.events, before.actions["approve"]) == (1, 1)
    assert monitor.view().events == 2


def test_card_precision_joins_decisions_and_labels_by_the_entity() -> None:
    monitor = Monitor(window_events=10, entity="card")
    monitor.observe_decisions([decision(0, score=0.9), decision(1, event_time=8 * DAY_MS)])
    monitor.observe_examples([example(0, verdict="fraud")])

    assert (monitor.view().card_precision, monitor.view().card_precision_days) == (0.01, 1)


def test_the_labelled_share_is_of_decisions_old_enough() -> None:
    maturity = LabelMaturity()
    for day in (0, 0, 5, 10):
        maturity.observe_decision(day * DAY_MS)
    for day in (0, 10, 99):
        maturity.observe_label(day * DAY_MS)

    assert maturity.share(7) == LabelledShare(7, 2, 1)
    assert maturity.share(0) == LabelledShare(0, 4, 2)
    assert maturity.share(30) == LabelledShare(30, 0, 0)


def test_labels_of_decisions_that_were_not_seen_give_no_share_above_one() -> None:
    maturity = LabelMaturity()
    maturity.observe_decision(0)
    for _ in range(5):
        maturity.observe_label(0)

    assert maturity.share(0).labelled == 1


def test_the_days_remembered_are_bounded() -> None:
    maturity = LabelMaturity()
    for day in range(DAYS_KEPT + 50):
        maturity.observe_decision(day * DAY_MS)
    maturity.observe_decision(0)

    assert maturity.share(0).decisions == DAYS_KEPT


@pytest.mark.parametrize(
    ("version", "offset"), [("additive@12", 12), ("additive", None), ("a@", None), ("a@x", None)]
)
def test_the_training_offset_of_a_version(version: str, offset: int | None) -> None:
    assert trained_to(version) == offset


def test_the_order_of_two_partitions_makes_no_difference() -> None:
    def seen(order: Sequence[DecisionRecord]) -> object:
        monitor = Monitor(window_events=10)
        monitor.observe_decisions(order)
        view = monitor.view()
        return view.events, view.actions, view.amounts, view.last_event_ms

    left = [decision(offset) for offset in range(5)]
    right = [decision(offset, partition=1, action="review") for offset in range(5)]

    assert seen(left + right) == seen(right + left)


def stream_of_features(events: int, *, width: int = 2, **changed: object) -> list[DecisionRecord]:
    chance = np.random.default_rng(9)
    step_ms = 45 * DAY_MS // events
    return [
        decision(row, event_time=row * step_ms, features=pack_features(values), **changed)
        for row, values in enumerate(chance.normal(size=(events, width)))
    ]


def monitor_of_features() -> Monitor:
    psi = FeaturePsi(["amount", "hour"], reference_events=100, window_events=100)
    return Monitor(window_events=10, features=psi, schema_hash="s")


def test_features_are_compared_once_the_stream_and_the_model_are_old_enough() -> None:
    monitor, log = monitor_of_features(), stream_of_features(4_500)
    monitor.observe_decisions(log[:3_000])
    assert monitor.features.reference_count == 0

    monitor.observe_decisions(log[3_000:])
    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    psi = value("fraud_feature_psi", {"feature": "amount"})
    assert psi is not None
    assert psi < 0.25
    assert value("fraud_feature_psi_reference_events") == 700
    assert value("fraud_feature_psi_events") == 100


def test_features_of_a_model_that_has_learned_little_are_no_reference() -> None:
    monitor = monitor_of_features()
    monitor.observe_decisions(stream_of_features(4_500, model_version="additive@999"))

    assert monitor.features.reference_count == 0


def test_features_of_another_schema_are_counted_and_not_read() -> None:
    monitor = monitor_of_features()
    monitor.observe_decisions(stream_of_features(10, schema_hash="other"))
    monitor.observe_decisions(
        [decision(10 + row, features=pack_features([1.0])) for row in range(5)]
    )

    assert monitor.features_ignored == 15


def test_quality_is_exported_by_the_versions_of_a_day() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_examples(labelled_stream(1_000))

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    labels = {"model": "logistic", "day": "1970-01-01"}
    assert value("fraud_version_labels", labels) == 1_000
    assert value("fraud_version_last_training_offset", labels) == 999
    assert value("fraud_version_average_precision_ratio", labels) == pytest.approx(
        monitor_quality(1_000), abs=0.01
    )


def monitor_quality(events: int) -> float | None:
    monitor = Monitor(window_events=events)
    monitor.observe_examples(labelled_stream(events))
    return monitor.windows["logistic"].quality.average_precision


def test_the_moment_of_the_latest_decision_is_that_of_the_log() -> None:
    monitor = Monitor(window_events=10)
    monitor.observe_decisions([decision(0)], published_ms=9_000)
    monitor.observe_decisions([decision(1)], published_ms=8_000)

    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value
    assert value("fraud_last_decision_timestamp_seconds") == 9.0


# Rules.


def test_each_rule_has_its_hits_labels_and_money_and_a_correction_moves_them() -> None:
    monitor = Monitor(window_events=10, rule_codes=["RULE_A", "RULE_QUIET"])
    both = ["RULE_A", "RULE_B"]
    monitor.observe_decisions([decision(0, rules=both), decision(1, rules=["RULE_A"]), decision(2)])
    monitor.observe_decisions([decision(1, rules=["RULE_A"])])
    monitor.observe_examples(
        [
            example(0, rules=both, amount=500, verdict="fraud"),
            example(1, rules=["RULE_A"], amount=700),
            example(2, rules=["RULE_A"], amount=700, verdict="fraud", supersedes=1),
            example(3, amount=900, verdict="fraud"),
        ]
    )

    registry = registry_of("monitor", lambda: monitor_samples(monitor))

    def value(name: str, rule: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"rule": rule, **labels})

    assert [value("fraud_rule_hits_total", f"RULE_{name}") for name in ("A", "B", "QUIET")] == [
        2, 1, 0,
    ]  # fmt: skip
    assert value("fraud_rule_labels", "RULE_A", verdict="fraud") == 2
    assert value("fraud_rule_labels", "RULE_A", verdict="genuine") == 0
    assert value("fraud_rule_labelled_amount", "RULE_A", verdict="fraud") == 12.0
    assert value("fraud_rule_labelled_amount", "RULE_A", verdict="genuine") == 0
    assert value("fraud_rule_labelled_amount", "RULE_B", verdict="fraud") == 5.0


def test_rule_codes_beyond_the_limit_are_counted_together() -> None:
    monitor = Monitor(window_events=10)
    for number in range(CODES_MAX + 5):
        monitor.observe_decisions([decision(number, rules=[f"RULE_{number}"])])

    found = {item.rule: item.hits for item in monitor.rules.numbers}
    assert (len(found), found[OTHER]) == (CODES_MAX + 1, 5)
