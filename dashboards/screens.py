"""What the dashboard shows: one table of rows, panels and expressions, and nothing of Grafana.

Ranges are written out instead of Grafana's own variables, so that every expression can be given to
a Prometheus as it stands; a test does. A number over a window has its count in the same panel, and
quality has the maturity of its labels beside it.

>>> [screen.title for screen in SCREENS][:3]
['Volume and money', 'Decisions and latency', 'Quality, and how mature its labels are']
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.feature_drift import PSI_DRIFT_MIN, PSI_WARNING_MIN

Kind = Literal["lines", "number", "bars"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the name of its series; `{{label}}` is the value of a label."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One panel: its queries share a unit of Grafana's; `bands` colour it from a value on."""

    title: str
    meaning: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    bands: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """One row of the dashboard."""

    title: str
    panels: tuple[PanelRow, ...]


def expressions() -> Iterator[tuple[str, str, str]]:
    """Give every expression with its screen and panel."""
    for screen in SCREENS:
        for panel in screen.panels:
            for query in panel.queries:
                yield screen.title, panel.title, query.expression


def _panel(
    title: str, meaning: str, unit: str, *queries: tuple[str, str], kind: Kind = "lines"
) -> PanelRow:
    return PanelRow(title, meaning, unit, tuple(Query(*query) for query in queries), kind)


def _psi(title: str, meaning: str, *queries: tuple[str, str], kind: Kind = "lines") -> PanelRow:
    found = tuple(Query(*query) for query in queries)
    return PanelRow(title, meaning, "none", found, kind, (PSI_WARNING_MIN, PSI_DRIFT_MIN))


_VOLUME = Screen(
    "Volume and money",
    (
        _panel(
            "Transactions a second",
            "Taken from the log by all workers.",
            "ops",
            ("fraud:transactions:rate5m", "taken"),
        ),
        _panel(
            "Decisions a second",
            "Committed, by action.",
            "ops",
            ("fraud:decisions:rate5m", "{{action}}"),
        ),
        _panel(
            "Amount a second",
            "Major units decided on, by action and currency.",
            "none",
            (
                "sum by (action, currency) (rate(fraud_amount_total[5m]))",
                "{{action}} {{currency}}",
            ),
        ),
        _panel(
            "Share reviewed or declined",
            "Of the decisions of the last hour, and of the last day.",
            "percentunit",
            ("fraud:alerts:share1h", "1 hour"),
            ("fraud:alerts:share1d", "1 day"),
        ),
        _panel(
            "Decisions of the last day",
            "By action.",
            "short",
            ("sum by (action) (increase(fraud_observed_decisions_total[1d]))", "{{action}}"),
            kind="number",
        ),
        _panel(
            "Amount held back in the last day",
            "Declined or sent to review, in major units.",
            "short",
            (
                "sum by (action, currency) "
                '(increase(fraud_amount_total{action=~"review|decline"}[1d]))',
                "{{action}} {{currency}}",
            ),
            kind="number",
        ),
    ),
)

_DECISIONS = Screen(
    "Decisions and latency",
    (
        _panel(
            "Duration of a stage, p99",
            "Of a batch; decode, read, decide, commit, publish follow each other.",
            "s",
            ("fraud:stage_duration:p99_5m", "{{stage}}"),
        ),
        _panel(
            "Duration of a stage, p50",
            "Of a batch.",
            "s",
            (
                "histogram_quantile(0.5, "
                "sum by (stage, le) (rate(fraud_decision_duration_seconds_bucket[5m])))",
                "{{stage}}",
            ),
        ),
        _panel(
            "Batches committed a second",
            "By all workers.",
            "ops",
            ("sum(rate(fraud_commits_total[5m]))", "committed"),
        ),
        _panel(
            "Scores up to a bound",
            "Share of decisions whose score is not above the bound.",
            "percentunit",
            (
                "sum by (le) (rate(fraud_score_bucket[5m])) "
                "/ on () group_left sum(rate(fraud_score_count[5m]))",
                "{{le}}",
            ),
        ),
        _panel(
            "Event time reached",
            "Highest event time of each partition held.",
            "dateTimeAsIso",
            (
                "max by (partition) (fraud_watermark_timestamp_seconds) * 1000",
                "partition {{partition}}",
            ),
        ),
        _panel(
            "Repeated and late transactions a second",
            "Decided before, and behind the watermark.",
            "ops",
            ("sum(rate(fraud_duplicate_events_total[5m]))", "repeated"),
            ("sum(rate(fraud_late_events_total[5m]))", "late"),
        ),
    ),
)

_CONTROLS = Screen(
    "Controls",
    (
        _panel(
            "Decisions a second, by mode",
            "In observe mode nothing is to be done of what is decided.",
            "ops",
            ("sum by (mode) (rate(fraud_decisions_total[5m]))", "{{mode}}"),
        ),
        _panel(
            "Workers that act, and hold a version",
            "By the last word of the operators.",
            "none",
            ("sum(fraud_acting)", "act"),
            ("sum(fraud_version_pinned)", "hold a version"),
        ),
        _panel(
            "Decisions of a list or the breaker",
            "A second, by reason.",
            "ops",
            (
                "sum by (reason) (rate(fraud_overruled_decisions_total[5m]))",
                "{{reason}}",
            ),
        ),
        _panel(
            "Partitions whose breaker is open",
            "Their declines become reviews.",
            "none",
            ("sum(fraud_breaker_open)", "open"),
        ),
    ),
)

_QUALITY = Screen(
    "Quality, and how mature its labels are",
    (
        _panel(
            "Average precision",
            "Over the latest labelled events. Compare only windows of equal label maturity.",
            "none",
            ("fraud_average_precision_ratio", "{{model}}"),
            ("fraud:average_precision:mean7d", "{{model}}, mean of 7 days"),
        ),
        _panel(
            "Labels in the window that took a day or more",
            "Where it is low, quality speaks of reviewed events and not of the stream.",
            "percentunit",
            ("fraud_quality_slow_labels_ratio", "{{model}}"),
        ),
        _panel(
            "Median label delay of the window",
            "Label time minus event time.",
            "s",
            ("fraud_quality_label_delay_seconds", "{{model}}"),
        ),
        _panel(
            "Labelled events and frauds in the window",
            "What the numbers of quality rest on.",
            "short",
            ("fraud_quality_window_events", "{{model}} events"),
            ("fraud_quality_window_frauds", "{{model}} frauds"),
        ),
        _panel(
            "Frauds and genuine payments stopped",
            "Share reviewed or declined, of those whose labels came in seven days.",
            "percentunit",
            ("fraud:recall:share7d", "frauds (recall)"),
            ("fraud:false_positives:share7d", "genuine (false positives)"),
        ),
        _panel(
            "Value stopped",
            "Share of the amount of frauds that was reviewed or declined, over seven days.",
            "percentunit",
            (
                'sum(increase(fraud_judged_amount_total{verdict="fraud",'
                'action=~"review|decline"}[7d])) '
                '/ sum(increase(fraud_judged_amount_total{verdict="fraud"}[7d]))',
                "value detection",
            ),
        ),
        _panel(
            "Rules beside the model",
            "Decisions for which each rule held, acting or watching (docs/rules.md).",
            "none",
            ("sum by (rule) (increase(fraud_rule_hits_total[1h]))", "{{rule}} in 1 hour"),
        ),
        _panel(
            "Precision of rules",
            "Share of frauds among the labelled decisions of each rule, since the monitor began.",
            "percentunit",
            (
                'sum by (rule) (fraud_rule_labels{verdict="fraud"}) '
                "/ (sum by (rule) (fraud_rule_labels) > 0)",
                "{{rule}}",
            ),
        ),
        _panel(
            "Money of rules",
            "Amount of the frauds that each rule met (fraud), and of its false alarms (genuine).",
            "none",
            ("fraud_rule_labelled_amount", "{{rule}} {{verdict}}"),
        ),
        _panel(
            "Changed files of rules",
            "Taken by running workers, and refused.",
            "none",
            ("sum(fraud_rules_files_taken_total)", "taken"),
            ("sum(fraud_rules_files_refused_total)", "refused"),
        ),
        _panel(
            "Fraud rate of the labels",
            "Of those of the last hour.",
            "percentunit",
            (
                "sum by (model) (increase(fraud_judged_frauds_total[1h])) "
                "/ sum by (model) (increase(fraud_judged_events_total[1h]))",
                "{{model}}",
            ),
        ),
        _panel(
            "Log loss",
            "In nats: over the window, and over the labels of the last hour.",
            "none",
            ("fraud_log_loss", "{{model}} window"),
            ("fraud:log_loss:mean1h", "{{model}} 1 hour"),
        ),
        _panel(
            "Brier score",
            "Mean squared error over the window, and over the labels of the last hour.",
            "none",
            ("fraud_brier_score", "{{model}} window"),
            (
                "sum by (model) (increase(fraud_squared_errors_total[1h])) "
                "/ sum by (model) (increase(fraud_judged_events_total[1h]))",
                "{{model}} 1 hour",
            ),
        ),
        _panel(
            "Calibration error",
            "Mean distance of score and fraud rate over bins of the score.",
            "none",
            ("fraud_calibration_error_ratio", "{{model}}"),
        ),
        _panel(
            "Card precision, top 100 a day",
            "Share of defrauded cards among the 100 most suspicious of a mature day.",
            "none",
            ("fraud_card_precision_ratio", "precision"),
            ("fraud_card_precision_days", "mature days"),
        ),
        _panel(
            "Average precision of a day's versions",
            "By the UTC day of the decision, for days with 500 labels.",
            "none",
            ("fraud_version_average_precision_ratio", "{{model}} {{day}}"),
        ),
        _panel(
            "Log loss and Brier score of a day's versions",
            "By the UTC day of the decision.",
            "none",
            ("fraud_version_log_loss", "{{model}} {{day}} log loss"),
            ("fraud_version_brier_score", "{{model}} {{day}} Brier"),
        ),
        _panel(
            "Labels and frauds of a day's versions",
            "A day that is young has few, and rather the reviewed ones.",
            "short",
            ("fraud_version_labels", "{{model}} {{day}} labels"),
            ("fraud_version_frauds", "{{model}} {{day}} frauds"),
        ),
        _panel(
            "Versions of a day",
            "Training offset of the first and of the last version judged.",
            "short",
            ("fraud_version_first_training_offset", "{{model}} {{day}} first"),
            ("fraud_version_last_training_offset", "{{model}} {{day}} last"),
        ),
    ),
)

_DRIFT = Screen(
    "Drift",
    (
        _psi(
            "PSI of the score",
            "Against its pinned reference: from 0.1 a warning, from 0.25 drift.",
            ("fraud_score_psi", "score"),
            ("fraud:score_psi:mean15m", "score, mean of 15 minutes"),
        ),
        _psi(
            "PSI of features, the ten highest",
            "Against the same hours of the week of the reference.",
            ("topk(10, fraud_feature_psi)", "{{feature}}"),
            kind="bars",
        ),
        _psi(
            "PSI of features over time",
            "Mean of 15 minutes of those in a band.",
            (f"fraud:feature_psi:mean15m >= {PSI_WARNING_MIN}", "{{feature}}"),
        ),
        _panel(
            "Events behind the PSI",
            "Without a full reference and window there is no PSI.",
            "short",
            ("fraud_score_psi_reference_events", "score, reference"),
            ("fraud_score_psi_events", "score, window"),
            ("fraud_feature_psi_reference_events", "features, reference"),
            ("fraud_feature_psi_events", "features, window"),
        ),
        _panel(
            "Changes of the error found",
            "Since the start; a rise is drift, a fall is a model that got better.",
            "short",
            (
                "sum by (detector, direction) (fraud_drift_detected_total)",
                "{{detector}} {{direction}}",
            ),
        ),
        _panel(
            "Moment of the last change",
            "Event time of the label that showed it.",
            "dateTimeAsIso",
            (
                "max by (detector, direction) (fraud_drift_last_event_timestamp_seconds) * 1000",
                "{{detector}} {{direction}}",
            ),
            kind="number",
        ),
        _panel(
            "Error before and after the last change",
            "Mean squared error.",
            "none",
            ("fraud_drift_last_error_before_ratio", "{{detector}} {{direction}} before"),
            ("fraud_drift_last_error_after_ratio", "{{detector}} {{direction}} after"),
        ),
        _panel(
            "Mean error since the last change",
            "As ADWIN sees it, with the labels that it rests on.",
            "none",
            ("fraud_drift_error_ratio", "error"),
            ("fraud_drift_error_events", "labels"),
        ),
    ),
)

_LABELS = Screen(
    "Label health",
    (
        _panel(
            "Labels a second",
            "Decoded, by source and verdict.",
            "ops",
            (
                "sum by (source, verdict) (rate(fraud_labels_total[5m])) > 0",
                "{{source}} {{verdict}}",
            ),
        ),
        _panel(
            "Label delay, p50 and p95",
            "Label time minus event time, by source.",
            "s",
            *(
                (
                    f"histogram_quantile({quantile}, "
                    "sum by (source, le) (rate(fraud_label_delay_seconds_bucket[1h])))",
                    f"{{{{source}}}} p{quantile * 100:.0f}",
                )
                for quantile in (0.5, 0.95)
            ),
        ),
        _panel(
            "What became of labels",
            "Share of the labels of the last hour, by path.",
            "percentunit",
            ("fraud:label_paths:share1h", "{{path}}"),
        ),
        _panel(
            "Decisions without a label",
            "Share of the decisions at least this old.",
            "percentunit",
            ("fraud:unlabelled:share", "{{age_days}} days"),
        ),
        _panel(
            "Decisions of an age",
            "How many the share without a label rests on.",
            "short",
            ("fraud_aged_decisions", "{{age_days}} days"),
        ),
        _panel(
            "What waits",
            "Decisions for a label, labels for their decision.",
            "short",
            ("sum(fraud_feedback_waiting)", "decisions"),
            ("sum(fraud_labels_pending)", "labels"),
        ),
        _panel(
            "Outcomes a second",
            "Of decided payments: what went through may mature as genuine.",
            "ops",
            ("sum by (outcome) (rate(fraud_outcomes_total[5m]))", "{{outcome}}"),
        ),
        _panel(
            "Verdicts taken back",
            "Inside the window of quality, and outside of it.",
            "short",
            ("sum by (place) (fraud_label_corrections_total)", "{{place}}"),
        ),
    ),
)

_MODEL = Screen(
    "The model's life",
    (
        _panel(
            "Training offset",
            "Learned to, in force at the workers, and of the latest decision.",
            "short",
            ("max(fraud_training_offset)", "learned to"),
            ("min(fraud_model_training_offset)", "in force at every worker"),
            ("fraud_decision_training_offset", "latest decision"),
        ),
        _panel(
            "Examples that the deciding model has not learned",
            "The age of the model in examples.",
            "short",
            ("fraud_model_age_examples", "{{model}}"),
        ),
        _panel(
            "Examples learned a second",
            "By source and verdict.",
            "ops",
            (
                "sum by (source, verdict) (rate(fraud_examples_learned_total[5m])) > 0",
                "{{source}} {{verdict}}",
            ),
        ),
        _panel(
            "Versions published and adopted",
            "In the last hour.",
            "short",
            ("sum(increase(fraud_snapshots_total[1h]))", "published"),
            ("sum(increase(fraud_model_adoptions_total[1h]))", "adopted"),
        ),
        _panel(
            "Duration of the last batch learned",
            "With the examples in it.",
            "none",
            ("max(fraud_learning_batch_seconds)", "seconds"),
            ("max(fraud_learning_batch_events)", "examples"),
        ),
        _panel(
            "Label-derived profile rows written a second",
            "What labels taught the profiles.",
            "ops",
            ("sum(rate(fraud_label_profile_rows_total[5m]))", "rows"),
        ),
    ),
)

_RELIABILITY = Screen(
    "Dead letters and reliability",
    (
        _panel(
            "Alerts that fire",
            "Of dashboards/rules.yml; what to do stands in dashboards/RUNBOOK.md.",
            "short",
            ('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),
            kind="number",
        ),
        _panel(
            "Age of the latest decision",
            "Wall time since it was published: a gap of 30 minutes calls somebody.",
            "s",
            ("time() - max(fraud_last_decision_timestamp_seconds)", "age"),
            kind="number",
        ),
        _panel(
            "Processes that answer",
            "Each serves its own metrics.",
            "short",
            ('sum by (job) (up{job=~"worker|trainer|monitor"})', "{{job}}"),
            kind="number",
        ),
        _panel(
            "Dead letters",
            "Share of the input of the last 15 minutes.",
            "percentunit",
            ("fraud:dead_letters:share15m", "share"),
        ),
        _panel(
            "Dead letters by reason",
            "Written by the workers, and read back by the monitor.",
            "short",
            ("sum by (reason) (fraud_dead_letters_total)", "{{reason}}"),
            ("sum by (reason) (fraud_observed_dead_letters_total)", "{{reason}}, read back"),
            ("sum by (topic) (fraud_redriven_records_total)", "{{topic}}, sent again"),
        ),
        _panel(
            "Records that the workers have not fetched yet",
            "The backlog of each input.",
            "short",
            ("sum by (topic) (fraud_unread_records)", "{{topic}}"),
        ),
        _panel(
            "Trainers",
            "One is at work; one that stands by compares its versions with those, byte for byte.",
            "short",
            ("sum(fraud_trainer_at_work)", "at work"),
            ("sum by (result) (fraud_standby_versions_total)", "versions compared: {{result}}"),
        ),
        _panel(
            "Records that the monitor has not read yet",
            "Where it grows, the other screens are old.",
            "short",
            ("sum by (topic) (fraud_monitor_behind_records)", "{{topic}}"),
        ),
        _panel(
            "Ids remembered",
            "So that no transaction is decided twice; of all partitions.",
            "short",
            ("max(fraud_ids_remembered)", "ids"),
        ),
        _panel(
            "What should not happen",
            "Zero in a healthy system: the runbook says what each means.",
            "short",
            ("sum(fraud_commits_refused_total)", "commits refused"),
            ("sum(fraud_trainer_commits_refused_total)", "commits of a trainer refused"),
            ("sum(fraud_feedback_expired_total)", "decisions expired"),
            ("max(fraud_ids_dropped_total)", "ids dropped before their time"),
            ("sum by (topic) (fraud_records_refused_total)", "{{topic}} not of our format"),
            ("sum by (topic) (fraud_records_repeated_total)", "{{topic}} published again"),
            ("sum(fraud_features_ignored_total)", "features of another schema"),
            ("sum(fraud_model_scores_ignored_total)", "scores beyond the models judged"),
            ("sum(fraud_examples_repeated_total)", "examples learned before"),
        ),
    ),
)

SCREENS = (_VOLUME, _DECISIONS, _QUALITY, _DRIFT, _LABELS, _MODEL, _CONTROLS, _RELIABILITY)
