"""Reads what a monitor knows as samples of the metrics in the table.

It stands apart from `metric_samples.py` because the worker has no use for scikit-learn and River.

>>> samples = monitor_samples(Monitor(window_events=10))
>>> [value for name, labels, value in samples if name == "fraud_drift_detected_total"]
[0, 0]
"""

from collections.abc import Iterator

from pipeline.drift import DIRECTIONS
from pipeline.evaluation import CARDS_TOP
from pipeline.metric_samples import Sample, by_label, by_labels, known, seconds
from pipeline.monitoring import Monitor
from pipeline.prequential import PrequentialWindow

ERROR_LABELS = ("adwin", "error")


def monitor_samples(monitor: Monitor) -> list[Sample]:
    """Read what a monitor knows; not while another thread adds to it."""
    return [
        *_decided(monitor),
        *_labelled(monitor),
        *(sample for name in monitor.windows for sample in _judged(name, monitor.windows[name])),
        ("fraud_model_scores_ignored_total", (), monitor.model_scores_ignored),
        *_drifted(monitor),
        *_model_age(monitor),
        *by_label("fraud_observed_dead_letters_total", monitor.dead_letters.items()),
        *by_label("fraud_records_repeated_total", monitor.repeated.items()),
        *by_label("fraud_records_refused_total", monitor.refused.items()),
    ]


def _decided(monitor: Monitor) -> Iterator[Sample]:
    yield from by_label("fraud_observed_decisions_total", monitor.actions.items())
    major = 10**monitor.minor_digits
    yield from by_labels("fraud_amount_total", monitor.amounts.items(), divisor=major)
    yield "fraud_score", (), monitor.scores
    yield from seconds("fraud_last_event_timestamp_seconds", (), monitor.last_event_ms)


def _labelled(monitor: Monitor) -> Iterator[Sample]:
    yield from by_label("fraud_label_delay_seconds", monitor.label_delays.items())
    yield from by_label("fraud_label_corrections_total", monitor.corrections.items())
    for share in monitor.labelled:
        age = (str(share.age_days),)
        yield "fraud_aged_decisions", age, share.decisions
        yield "fraud_aged_decisions_labelled", age, share.labelled
    top = (str(CARDS_TOP),)
    yield from known("fraud_card_precision_ratio", top, monitor.card_precision.value)
    yield "fraud_card_precision_days", top, monitor.card_precision.days


def _judged(name: str, window: PrequentialWindow) -> Iterator[Sample]:
    quality, totals, model = window.quality, window.totals, (name,)
    yield from known("fraud_log_loss", model, quality.log_loss)
    yield from known("fraud_brier_score", model, quality.brier)
    yield from known("fraud_average_precision_ratio", model, quality.average_precision)
    yield "fraud_quality_window_events", model, quality.events
    yield "fraud_quality_window_frauds", model, quality.frauds
    delay_ms = quality.label_delay_ms_median
    yield from seconds("fraud_quality_label_delay_seconds", model, delay_ms)
    yield from known("fraud_quality_slow_labels_ratio", model, quality.slow_label_share)
    yield "fraud_judged_events_total", model, totals.events
    yield "fraud_judged_frauds_total", model, totals.frauds
    yield "fraud_log_loss_nats_total", model, totals.log_loss_sum
    yield "fraud_squared_errors_total", model, totals.brier_sum


def _drifted(monitor: Monitor) -> Iterator[Sample]:
    yield from known("fraud_score_psi", (), monitor.psi.value)
    yield "fraud_score_psi_events", (), monitor.psi.events
    yield "fraud_score_psi_reference_events", (), monitor.psi.reference_count
    for direction in DIRECTIONS:
        labels = (*ERROR_LABELS, direction)
        yield "fraud_drift_detected_total", labels, monitor.drift.counts[direction]
        moment = monitor.drift.last_event_ms.get(direction)
        yield from seconds("fraud_drift_last_event_timestamp_seconds", labels, moment)
    yield from known("fraud_drift_error_ratio", (), monitor.drift.error_mean)
    yield "fraud_drift_error_events", (), monitor.drift.window_events


def _model_age(monitor: Monitor) -> Iterator[Sample]:
    champion, offset, end = monitor.champion, monitor.training_offset, monitor.training_end
    if champion is None or offset is None:
        return
    yield "fraud_decision_training_offset", (champion,), offset
    if end is not None:
        # Decisions and examples are read from two topics: either may be a little ahead.
        yield "fraud_model_age_examples", (champion,), max(0, end - offset)
