"""Reads the plain numbers of a process as samples of the metrics in the table.

What is not known yet gives no sample, so that a wall never shows a zero that nobody measured.

>>> from pipeline.counts import TrainerCounts
>>> [sample for sample in trainer_samples(TrainerCounts(training_offset=7)) if not sample[1]][:3]
[('fraud_examples_repeated_total', (), 0), ('fraud_snapshots_total', (), 0), ('fraud_training...
"""

from collections.abc import Iterable, Iterator

from pipeline.counts import Buckets, TrainerCounts, WorkerCounts

# The name of a metric, the values of its labels in the order of the table, its value.
Sample = tuple[str, tuple[str, ...], float | Buckets]


def worker_samples(counts: WorkerCounts) -> list[Sample]:
    """Read the counts of a worker."""
    return [
        ("fraud_events_total", (counts.schema,), counts.events),
        *by_labels("fraud_decisions_total", counts.decisions.items()),
        *by_label("fraud_overruled_decisions_total", counts.overruled.items()),
        ("fraud_duplicate_events_total", (), counts.duplicates),
        ("fraud_ids_remembered", (), counts.ids_remembered),
        ("fraud_ids_dropped_total", (), counts.ids_dropped),
        ("fraud_late_events_total", (), counts.late),
        *by_label("fraud_dead_letters_total", counts.rejected.items()),
        *by_label("fraud_redriven_records_total", counts.redriven.items()),
        *by_labels("fraud_labels_total", counts.labels.items()),
        *by_label("fraud_label_paths_total", counts.label_paths.items()),
        *by_label("fraud_outcomes_total", counts.outcomes.items()),
        ("fraud_labels_pending", (), counts.labels_pending),
        ("fraud_feedback_waiting", (), counts.feedback_waiting),
        ("fraud_feedback_expired_total", (), counts.feedback_expired),
        ("fraud_commits_total", (), counts.commits),
        ("fraud_commits_refused_total", (), counts.commits_refused),
        ("fraud_model_adoptions_total", (), counts.model_adoptions),
        *known("fraud_model_training_offset", (), counts.model_offset),
        *_unread(counts),
        *by_label("fraud_models_refused_total", counts.models_refused.items()),
        ("fraud_degraded_decisions_total", (), counts.degraded),
        ("fraud_rules_in_force", (), int(counts.rules_in_force)),
        ("fraud_rules_files_taken_total", (), counts.rules_taken),
        ("fraud_rules_files_refused_total", (), counts.rules_refused),
        ("fraud_rules_file_broken", (), int(counts.rules_are_broken)),
        *by_label("fraud_controls_refused_total", counts.controls_refused.items()),
        ("fraud_controls_offset", (), counts.control_offset),
        ("fraud_acting", (), int(counts.is_acting)),
        ("fraud_version_pinned", (), int(counts.is_pinned)),
        *_breakers(counts),
        *_watermarks(counts),
        *by_label("fraud_decision_duration_seconds", counts.stage_seconds.items()),
    ]


def _unread(counts: WorkerCounts) -> Iterator[Sample]:
    for (topic, partition), number in counts.unread.items():
        yield "fraud_unread_records", (topic, str(partition)), number


def _breakers(counts: WorkerCounts) -> Iterator[Sample]:
    for partition, is_open in list(counts.breaker_open.items()):
        yield "fraud_breaker_open", (str(partition),), int(is_open)


def _watermarks(counts: WorkerCounts) -> Iterator[Sample]:
    for partition, moment in list(counts.watermark_ms.items()):
        yield from seconds("fraud_watermark_timestamp_seconds", (str(partition),), moment)


def trainer_samples(counts: TrainerCounts) -> list[Sample]:
    """Read the counts of the trainer."""
    return [
        *by_labels("fraud_examples_learned_total", counts.learned.items()),
        ("fraud_examples_repeated_total", (), counts.duplicates),
        ("fraud_snapshots_total", (), counts.snapshots),
        *known("fraud_training_offset", (), counts.training_offset),
        *by_label("fraud_restored_models_refused_total", counts.models_refused.items()),
        ("fraud_label_profile_rows_total", (), counts.profile_rows),
        ("fraud_trainer_at_work", (), counts.at_work),
        ("fraud_trainer_commits_refused_total", (), counts.refused),
        ("fraud_standby_versions_total", ("equal",), counts.standby[True]),
        ("fraud_standby_versions_total", ("different",), counts.standby[False]),
        *known("fraud_learning_batch_seconds", (), counts.batch_seconds),
        ("fraud_learning_batch_events", (), counts.batch_events),
    ]


def known(name: str, labels: tuple[str, ...], value: float | None) -> Iterator[Sample]:
    """Give the sample of a number that may not be known."""
    if value is not None:
        yield name, labels, value


def seconds(name: str, labels: tuple[str, ...], value_ms: float | None) -> Iterator[Sample]:
    """Give the sample, in seconds, of milliseconds that may not be known."""
    if value_ms is not None:
        yield name, labels, value_ms / 1000


def by_label(name: str, values: Iterable[tuple[str, float | Buckets]]) -> Iterator[Sample]:
    """Give a sample for each value of the one label."""
    # A list is made at once: the process that owns the numbers may go on adding keys.
    for label, value in list(values):
        yield name, (label,), value


def by_labels(
    name: str, values: Iterable[tuple[tuple[str, ...], int]], *, divisor: int = 1
) -> Iterator[Sample]:
    """Give a sample for each combination of labels."""
    for labels, value in list(values):
        yield name, labels, value / divisor
