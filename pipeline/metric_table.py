"""All metrics in one table: who exports it, its name, what it is, what it means, its labels.

/metrics is made from this table and a sample that it does not know is an error of ours, so the
table, the exposition and the documentation cannot differ. Names follow Prometheus: base units,
`_total` on what can only grow, and labels of few known values, never an id. A gauge over a window
has the number of its samples beside it.

>>> [metric.name for metric in METRICS if metric.process == "trainer"][:2]
['fraud_examples_learned_total', 'fraud_examples_repeated_total']
"""

from dataclasses import dataclass
from typing import Literal

Process = Literal["worker", "trainer", "monitor"]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: who exports it, what it is, what its labels are."""

    process: Process
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _rows(process: Process, *given: tuple[str, Kind, str, tuple[str, ...]]) -> list[MetricRow]:
    return [MetricRow(process, *row) for row in given]


_WORKER = _rows(
    "worker",
    ("fraud_events_total", "counter", "Transactions taken from the log", ("schema",)),
    ("fraud_decisions_total", "counter", "Decisions committed", ("action", "mode")),
    (
        "fraud_overruled_decisions_total",
        "counter",
        "Decisions of a list or the breaker",
        ("reason",),
    ),
    ("fraud_duplicate_events_total", "counter", "Transactions decided before", ()),
    ("fraud_ids_remembered", "gauge", "Ids that were decided lately, of all partitions", ()),
    ("fraud_ids_dropped_total", "counter", "Ids that gave way at the limit, of all partitions", ()),
    ("fraud_late_events_total", "counter", "Transactions behind the watermark", ()),
    ("fraud_dead_letters_total", "counter", "Inputs that became dead letters", ("reason",)),
    ("fraud_redriven_records_total", "counter", "Dead letters that came again", ("topic",)),
    ("fraud_labels_total", "counter", "Labels decoded", ("source", "verdict")),
    ("fraud_label_paths_total", "counter", "What became of labels", ("path",)),
    ("fraud_outcomes_total", "counter", "Outcomes of decided events", ("outcome",)),
    ("fraud_labels_pending", "gauge", "Labels that wait for their decision", ()),
    ("fraud_feedback_waiting", "gauge", "Decisions that wait for a label", ()),
    ("fraud_feedback_expired_total", "counter", "Decisions that gave way at the limit", ()),
    ("fraud_commits_total", "counter", "Batches committed", ()),
    ("fraud_commits_refused_total", "counter", "Batches that another owner had committed", ()),
    ("fraud_model_adoptions_total", "counter", "Model versions adopted", ()),
    ("fraud_model_training_offset", "gauge", "Training offset of the version in force", ()),
    ("fraud_unread_records", "gauge", "Records not fetched yet", ("topic", "partition")),
    ("fraud_models_refused_total", "counter", "Records of models refused", ("fault",)),
    ("fraud_degraded_decisions_total", "counter", "Decisions by rules, for want of a model", ()),
    ("fraud_rules_in_force", "gauge", "Whether rules decide, for want of a model", ()),
    ("fraud_rules_files_taken_total", "counter", "Changed files of rules taken", ()),
    ("fraud_rules_files_refused_total", "counter", "Changed files of rules refused", ()),
    ("fraud_rules_file_broken", "gauge", "Whether the file of rules is refused as it stands", ()),
    ("fraud_controls_refused_total", "counter", "Records of controls refused", ("fault",)),
    ("fraud_controls_offset", "gauge", "Last record of controls in force; -1 before any", ()),
    ("fraud_acting", "gauge", "Whether decisions are to be acted on (1), or observed (0)", ()),
    ("fraud_version_pinned", "gauge", "Whether a freeze or a rollback holds a version", ()),
    ("fraud_breaker_open", "gauge", "Whether declines become reviews", ("partition",)),
    (
        "fraud_watermark_timestamp_seconds",
        "gauge",
        "Highest event time of a partition held",
        ("partition",),
    ),
    (
        "fraud_decision_duration_seconds",
        "histogram",
        "Duration of a stage of a batch",
        ("stage",),
    ),
)

_TRAINER = _rows(
    "trainer",
    ("fraud_examples_learned_total", "counter", "Examples learned", ("source", "verdict")),
    ("fraud_examples_repeated_total", "counter", "Examples not learned again", ()),
    ("fraud_snapshots_total", "counter", "Model versions published", ()),
    ("fraud_training_offset", "gauge", "Offset of the training log that was learned to", ()),
    (
        "fraud_restored_models_refused_total",
        "counter",
        "Published versions that a start of the trainer refused",
        ("fault",),
    ),
    ("fraud_label_profile_rows_total", "counter", "Label-derived profile rows written", ()),
    ("fraud_trainer_at_work", "gauge", "Whether it learns, or stands by (0)", ()),
    ("fraud_trainer_commits_refused_total", "counter", "Commits refused to this trainer", ()),
    ("fraud_standby_versions_total", "counter", "Versions compared standing by", ("result",)),
    ("fraud_learning_batch_seconds", "gauge", "Duration of the last batch learned", ()),
    ("fraud_learning_batch_events", "gauge", "Examples in the last batch learned", ()),
)

_MONITOR = _rows(
    "monitor",
    ("fraud_log_loss", "gauge", "Log loss over the window, in nats", ("model",)),
    ("fraud_brier_score", "gauge", "Brier score over the window", ("model",)),
    ("fraud_average_precision_ratio", "gauge", "Average precision over the window", ("model",)),
    (
        "fraud_calibration_error_ratio",
        "gauge",
        "Mean distance of score and fraud rate over the window",
        ("model",),
    ),
    ("fraud_quality_window_events", "gauge", "Labelled events in the window", ("model",)),
    ("fraud_quality_window_frauds", "gauge", "Frauds in the window", ("model",)),
    (
        "fraud_quality_label_delay_seconds",
        "gauge",
        "Median label delay of the window",
        ("model",),
    ),
    (
        "fraud_quality_slow_labels_ratio",
        "gauge",
        "Share of the window's labels that took a day or more",
        ("model",),
    ),
    ("fraud_judged_events_total", "counter", "Labelled events judged", ("model",)),
    ("fraud_judged_frauds_total", "counter", "Frauds judged", ("model",)),
    ("fraud_log_loss_nats_total", "counter", "Sum of log losses of judged events", ("model",)),
    ("fraud_squared_errors_total", "counter", "Sum of squared errors", ("model",)),
    ("fraud_model_scores_ignored_total", "counter", "Scores of models beyond the limit", ()),
    ("fraud_version_log_loss", "gauge", "Log loss of a day's versions", ("model", "day")),
    ("fraud_version_brier_score", "gauge", "Brier score of a day's versions", ("model", "day")),
    (
        "fraud_version_average_precision_ratio",
        "gauge",
        "Average precision of a day's versions",
        ("model", "day"),
    ),
    ("fraud_version_labels", "gauge", "Labels of that day's decisions", ("model", "day")),
    ("fraud_version_frauds", "gauge", "Frauds among them", ("model", "day")),
    (
        "fraud_version_first_training_offset",
        "gauge",
        "Training offset of the first version judged of a day",
        ("model", "day"),
    ),
    (
        "fraud_version_last_training_offset",
        "gauge",
        "Training offset of the last version judged of a day",
        ("model", "day"),
    ),
    ("fraud_label_delay_seconds", "histogram", "Label time minus event time", ("source",)),
    (
        "fraud_label_corrections_total",
        "counter",
        "Labels that took one back, inside or outside of the window",
        ("place",),
    ),
    (
        "fraud_judged_decisions_total",
        "counter",
        "Decisions with a label, by what was done and what was true",
        ("action", "verdict"),
    ),
    (
        "fraud_rule_hits_total",
        "counter",
        "Decisions for which a rule held, acting or watching",
        ("rule",),
    ),
    ("fraud_rule_labels", "gauge", "Labels of such decisions", ("rule", "verdict")),
    (
        "fraud_rule_labelled_amount",
        "gauge",
        "Their amount in major units, of whatever currency",
        ("rule", "verdict"),
    ),
    (
        "fraud_judged_amount_total",
        "counter",
        "Their amount in major units, of whatever currency",
        ("action", "verdict"),
    ),
    ("fraud_aged_decisions", "gauge", "Decisions at least this old", ("age_days",)),
    ("fraud_aged_decisions_labelled", "gauge", "Those of them with a label", ("age_days",)),
    ("fraud_card_precision_ratio", "gauge", "Card precision over mature days", ("k",)),
    ("fraud_card_precision_days", "gauge", "Mature days in the card precision", ("k",)),
    ("fraud_observed_decisions_total", "counter", "Decisions read", ("action",)),
    (
        "fraud_amount_total",
        "counter",
        "Amount decided on, in major units",
        ("action", "currency"),
    ),
    ("fraud_score", "histogram", "Score of a decision", ()),
    ("fraud_score_psi", "gauge", "PSI of the score against its pinned reference", ()),
    ("fraud_score_psi_events", "gauge", "Scores in the window of the PSI", ()),
    ("fraud_score_psi_reference_events", "gauge", "Scores in the reference of the PSI", ()),
    (
        "fraud_feature_psi",
        "gauge",
        "PSI of a feature against its reference: 0.1 is a warning, 0.25 is drift",
        ("feature",),
    ),
    ("fraud_feature_psi_events", "gauge", "Events in the window of the features' PSI", ()),
    (
        "fraud_feature_psi_reference_events",
        "gauge",
        "Events in the reference of the features' PSI",
        (),
    ),
    (
        "fraud_features_ignored_total",
        "counter",
        "Decisions whose features are of another schema",
        (),
    ),
    (
        "fraud_drift_detected_total",
        "counter",
        "Changes found; a rise of the error is drift",
        ("detector", "target", "direction"),
    ),
    (
        "fraud_drift_last_event_timestamp_seconds",
        "gauge",
        "Event time of the last change found",
        ("detector", "target", "direction"),
    ),
    (
        "fraud_drift_last_error_before_ratio",
        "gauge",
        "Mean squared error before the last change found",
        ("detector", "target", "direction"),
    ),
    (
        "fraud_drift_last_error_after_ratio",
        "gauge",
        "Mean squared error after the last change found",
        ("detector", "target", "direction"),
    ),
    ("fraud_drift_error_ratio", "gauge", "Mean squared error since the last change", ()),
    ("fraud_drift_error_events", "gauge", "Labelled events since the last change", ()),
    (
        "fraud_decision_training_offset",
        "gauge",
        "Training offset of the model of the latest decision",
        ("model",),
    ),
    (
        "fraud_model_age_examples",
        "gauge",
        "Training examples that the model of the latest decision has not learned",
        ("model",),
    ),
    ("fraud_last_event_timestamp_seconds", "gauge", "Highest event time decided", ()),
    (
        "fraud_last_decision_timestamp_seconds",
        "gauge",
        "When the latest decision was published, by the clock of the log",
        (),
    ),
    ("fraud_observed_dead_letters_total", "counter", "Dead letters read", ("reason",)),
    ("fraud_records_repeated_total", "counter", "Records that came again", ("topic",)),
    ("fraud_records_refused_total", "counter", "Records not of our format", ("topic",)),
    ("fraud_monitor_behind_records", "gauge", "Records not read yet", ("topic",)),
)

METRICS: tuple[MetricRow, ...] = (*_WORKER, *_TRAINER, *_MONITOR)
