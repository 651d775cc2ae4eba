"""Reads what a monitor knows as samples of the metrics in the table.

It stands apart from `metric_samples.py` because the worker has no use for scikit-learn and River.

>>> samples = monitor_samples(Monitor(window_events=10))
>>> [value for name, labels, value in samples if name == "fraud_drift_detected_total"]
[0, 0, 0, 0]
"""

from collections.abc import Iterator

from pipeline.drift import DETECTORS, DIRECTIONS, ErrorDrift
from pipeline.metric_samples import Sample, by_label, by_labels, known, seconds
from pipeline.monitoring import Monitor
from pipeline.prequential import PrequentialWindow
from pipeline.quality.cards import CARDS_TOP

ERROR = "error"


def monitor_samples(monitor: Monitor) -> list[Sample]:
    """Read what a monitor knows; not while another thread adds to it."""
    return [
        *_decided(monitor),
        *_labelled(monitor),
        *(sample for name in monitor.windows for sample in _judged(name, monitor.windows[name])),
        *(sample for name in monitor.windows for sample in _by_version(name, monitor)),
        ("fraud_model_scores_ignored_total", (), monitor.model_scores_ignored),
        *_drifted(monitor),
        *_model_age(monitor),
        *by_label("fraud_observed_dead_letters_total", monitor.dead_letters.items()),
        *by_label("fraud_records_repeated_total", monitor.repeated.items()),
        *by_label("fraud_records_refused_total", monitor.refused.items()),
        *by_label("fraud_monitor_behind_records", monitor.behind.items()),
    ]


def _decided(monitor: Monitor) -> Iterator[Sample]:
    yield from by_label("fraud_observed_decisions_total", monitor.actions.items())
    major = 10**monitor.minor_digits
    yield from by_labels("fraud_amount_total", monitor.amounts.items(), divisor=major)
    yield "fraud_score", (), monitor.scores
    yield from seconds("fraud_last_event_timestamp_seconds", (), monitor.last_event_ms)
    yield from seconds("fraud_last_decision_timestamp_seconds", (), monitor.last_published_ms)


def _labelled(monitor: Monitor) -> Iterator[Sample]:
    yield from by_label("fraud_label_delay_seconds", monitor.label_delays.items())
    yield from by_label("fraud_label_corrections_total", monitor.corrections.items())
    yield from by_labels("fraud_judged_decisions_total", monitor.judged.items())
    major, amounts = 10**monitor.minor_digits, monitor.judged_amounts.items()
    yield from by_labels("fraud_judged_amount_total", amounts, divisor=major)
    yield from _ruled(monitor)
    for share in monitor.labelled:
        age = (str(share.age_days),)
        yield "fraud_aged_decisions", age, share.decisions
        yield "fraud_aged_decisions_labelled", age, share.labelled
    top = (str(CARDS_TOP),)
    yield from known("fraud_card_precision_ratio", top, monitor.card_precision.value)
    yield "fraud_card_precision_days", top, monitor.card_precision.days


def _ruled(monitor: Monitor) -> Iterator[Sample]:
    major = 10**monitor.minor_digits
    for found in monitor.rules.numbers:
        yield "fraud_rule_hits_total", (found.rule,), found.hits
        fraud, genuine = (found.rule, "fraud"), (found.rule, "genuine")
        yield "fraud_rule_labels", fraud, found.frauds
        yield "fraud_rule_labels", genuine, found.genuine
        yield "fraud_rule_labelled_amount", fraud, found.fraud_minor / major
        yield "fraud_rule_labelled_amount", genuine, found.genuine_minor / major


def _judged(name: str, window: PrequentialWindow) -> Iterator[Sample]:
    quality, totals, model = window.quality, window.totals, (name,)
    yield from known("fraud_log_loss", model, quality.log_loss)
    yield from known("fraud_brier_score", model, quality.brier)
    yield from known("fraud_average_precision_ratio", model, quality.average_precision)
    yield from known("fraud_calibration_error_ratio", model, quality.calibration_error)
    yield "fraud_quality_window_events", model, quality.events
    yield "fraud_quality_window_frauds", model, quality.frauds
    delay_ms = quality.label_delay_ms_median
    yield from seconds("fraud_quality_label_delay_seconds", model, delay_ms)
    yield from known("fraud_quality_slow_labels_ratio", model, quality.slow_label_share)
    yield "fraud_judged_events_total", model, totals.events
    yield "fraud_judged_frauds_total", model, totals.frauds
    yield "fraud_log_loss_nats_total", model, totals.log_loss_sum
    yield "fraud_squared_errors_total", model, totals.brier_sum


def _by_version(name: str, monitor: Monitor) -> Iterator[Sample]:
    for quality in monitor.versions.shown(name):
        labels = (name, quality.day)
        yield "fraud_version_log_loss", labels, quality.log_loss
        yield "fraud_version_brier_score", labels, quality.brier
        precision = quality.average_precision
        yield from known("fraud_version_average_precision_ratio", labels, precision)
        yield "fraud_version_labels", labels, quality.labels
        yield "fraud_version_frauds", labels, quality.frauds
        yield "fraud_version_first_training_offset", labels, quality.offset_first
        yield "fraud_version_last_training_offset", labels, quality.offset_last


def _drifted(monitor: Monitor) -> Iterator[Sample]:
    yield from known("fraud_score_psi", (), monitor.psi.value)
    yield "fraud_score_psi_events", (), monitor.psi.events
    yield "fraud_score_psi_reference_events", (), monitor.psi.reference_count
    yield from by_label("fraud_feature_psi", monitor.features.values.items())
    if monitor.features.names:
        yield "fraud_feature_psi_events", (), monitor.features.events
        yield "fraud_feature_psi_reference_events", (), monitor.features.reference_count
    yield "fraud_features_ignored_total", (), monitor.features_ignored
    yield from _detected(monitor.drift)
    yield from known("fraud_drift_error_ratio", (), monitor.drift.error_mean)
    yield "fraud_drift_error_events", (), monitor.drift.window_events


def _detected(drift: ErrorDrift) -> Iterator[Sample]:
    for detector in DETECTORS:
        for direction in DIRECTIONS:
            labels, place = (detector, ERROR, direction), (detector, direction)
            yield "fraud_drift_detected_total", labels, drift.counts[place]
            if found := drift.last.get(place):
                moment = found.event_time_ms
                yield from seconds("fraud_drift_last_event_timestamp_seconds", labels, moment)
                yield "fraud_drift_last_error_before_ratio", labels, found.error_before
                yield "fraud_drift_last_error_after_ratio", labels, found.error_after


def _model_age(monitor: Monitor) -> Iterator[Sample]:
    champion, offset, end = monitor.champion, monitor.training_offset, monitor.training_end
    if champion is None or offset is None:
        return
    yield "fraud_decision_training_offset", (champion,), offset
    if end is not None:
        # Decisions and examples are read from two topics: either may be a little ahead.
        yield "fraud_model_age_examples", (champion,), max(0, end - offset)
