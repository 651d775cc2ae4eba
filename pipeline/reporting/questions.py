"""The figures of what was asked of a run: how it learned, what moves it, where it fails."""

from collections.abc import Iterator, Sequence

from pipeline.quality.groups import ScenarioRecall, Segment
from pipeline.quality.what_if import WhatIf
from pipeline.reporting import question_plots as plots
from pipeline.reporting.drawing import Row
from pipeline.reporting.figures import FRAUDS_FEW, Figure, frame_of, models_of
from pipeline.reporting.question_words import (
    interval_text,
    scenario_table,
    segment_table,
    what_if_table,
)
from pipeline.reporting.values import Report
from pipeline.reporting.words import Table, day_text, number, percent, share_text, small

NOTHING_LEARNED = ("Nothing was learned before the run ended.",)


def learning_figures(report: Report) -> Iterator[Figure]:
    """Show how the models learned, and whether they learn by heart."""
    yield _curve_figure(report)
    yield _overfitting_figure(report)


def cause_figures(report: Report) -> Iterator[Figure]:
    """Show what moves the scores."""
    parts, weights = report.findings.features, report.findings.weights
    champion = report.facts.models[0][0]
    names = [item.feature for item in parts if item.model == champion]
    rows: list[Row] = [
        {
            "name": item.feature, "model": item.model, "value": item.mean_absolute,
            "value_text": small(item.mean_absolute),
        }
        for item in parts
        if item.feature in names
    ]  # fmt: skip
    yield Figure(
        key="features",
        title="What moves the scores",
        reading="Mean size of each feature's contribution to the log-odds, over the latest 2,000 "
        "events that were learned; the champion's strongest. A contribution of 0.7 doubles the "
        "odds.",
        says=(f"{names[0]} moves the champion most.",) if names else NOTHING_LEARNED,
        table=Table(
            ("feature, model", "mean contribution"),
            tuple((f"{item.feature}, {item.model}", small(item.mean_absolute)) for item in parts),
        ),
        plot=plots.bars(rows, "mean contribution", models_of(report), names) if rows else None,
    )
    models = tuple(dict.fromkeys(item.model for item in weights))
    for model in models:
        found = [item for item in weights if item.model == model]
        yield Figure(
            key=f"weights-{model.replace('.', '-')}",
            title=f"The strongest weights of {model}",
            reading="What the model itself holds, by size; above 0 speaks for fraud. A strong "
            "weight may be of something rare.",
            says=(f"Strongest: {found[0].name}, {small(found[0].weight)}.",),
            table=Table(
                ("weight of", "weight"), tuple((item.name, small(item.weight)) for item in found)
            ),
            plot=plots.bars(
                [
                    {"name": item.name, "model": item.model, "value": item.weight,
                     "value_text": small(item.weight)}
                    for item in found
                ],
                "weight", (model,), [item.name for item in found],
            ),
        )  # fmt: skip


def part_figures(report: Report) -> Iterator[Figure]:
    """Show where the scores fail: by kind of fraud, by segment."""
    found = report.findings
    if found.scenarios:
        yield _scenario_figure(report, found.scenarios)
    for field in dict.fromkeys(item.field for item in found.segments):
        yield _segment_figure(field, [item for item in found.segments if item.field == field])


def what_if_figure(report: Report) -> Figure:
    """Show what other thresholds would have done."""
    asked, swept = report.findings.what_if, report.findings.sweep
    days = max(1, report.measured_days)
    rows = [row for item in swept for row in _threshold_rows(item, days)]
    points = [row for item in asked for row in _threshold_rows(item, days)]
    says = [
        f"Review from {item.review_score_min:.4g}, decline from {item.decline_score_min:.4g}: "
        f"{item.alerts_a_day:,.1f} reviews a day, {item.frauds - item.frauds_missed:,} of "
        f"{item.frauds:,} frauds caught, {item.genuine_declined:,} genuine declined."
        for item in asked or swept[-1:]
    ]
    return Figure(
        key="what-if",
        title="What other thresholds would have done",
        reading="Each point is a pair of thresholds over the judged period. The scores are those "
        "that were given: what a review or a decline would have changed in the stream is not "
        "known. Diamonds are the thresholds that were asked for.",
        says=tuple(says) or ("No event of the measured period has a label.",),
        table=what_if_table((*asked, *swept), report.minor_digits),
        plot=plots.thresholds(rows, points) if rows else None,
        wide=True,
    )


def _threshold_rows(item: WhatIf, days: int) -> Iterator[Row]:
    money = item.caught_minor + item.missed_minor
    genuine = item.events - item.frauds
    values = (
        (item.frauds - item.frauds_missed, item.frauds),
        (item.caught_minor, money),
        (item.genuine_reviewed + item.genuine_declined, genuine),
    )
    for what, (part, whole) in zip(plots.STOPPED, values, strict=True):
        if whole:
            yield {
                "what": what, "stopped_a_day": (item.reviewed + item.declined) / days,
                "share": part / whole, "share_text": percent(part / whole),
                "review_text": small(item.review_score_min),
                "decline_text": small(item.decline_score_min),
                "alerts_text": f"{item.alerts_a_day:,.1f}", "declined_text": f"{item.declined:,}",
                "insulted_text": f"{item.genuine_declined:,}",
            }  # fmt: skip


def _curve_figure(report: Report) -> Figure:
    steps = report.findings.learning_curve
    rows: list[Row] = [
        {
            "model": item.model, "labels": item.labels_mean, "value": item.average_precision,
            "value_text": number(item.average_precision), "from_text": f"{item.labels_from:,}",
            "events": item.events, "frauds": item.frauds, "few": item.frauds < FRAUDS_FEW,
        }
        for item in steps
        if item.average_precision is not None
    ]  # fmt: skip
    last = {item.model: item for item in steps if item.average_precision is not None}
    return Figure(
        key="learning-curve",
        title="Quality by labels learned",
        reading="Average precision of the scores that were given when so many labels had been "
        "learned. Still rising at its end: more labels would help. Flat: better features would. A "
        f"hollow point stands on fewer than {FRAUDS_FEW} frauds.",
        says=tuple(
            f"{name}: {number(item.average_precision)} from {item.labels_from:,} labels on."
            for name, item in last.items()
        )
        or ("No event has a label.",),
        table=Table(
            ("model, labels from", "events", "frauds", "average precision", "log loss"),
            tuple(
                (
                    f"{item.model}, {item.labels_from:,}", number(item.events),
                    number(item.frauds), number(item.average_precision), number(item.log_loss),
                )
                for item in steps
            ),
        ),
        plot=plots.learning_curve(rows, models_of(report)) if rows else None,
    )  # fmt: skip


def _overfitting_figure(report: Report) -> Figure:
    readings = report.findings.overfitting
    rows: list[Row] = [
        {
            "start_ms": item.event_time_ms, "model": item.model, "loss": loss, "value": value,
            "value_text": small(value), "gap_text": small(item.gap), "events": item.examples,
            "frauds": item.frauds, "day": day_text(item.event_time_ms),
        }
        for item in readings
        for loss, value in zip(
            plots.LOSSES, (item.prequential_log_loss, item.train_log_loss), strict=True
        )
    ]  # fmt: skip
    last = {item.model: item for item in readings}
    return Figure(
        key="overfitting",
        title="Does it learn by heart?",
        reading="The loss on the latest examples that were learned (20,000 at most): of the scores "
        "from before their labels were known, and of the model as it is after it learned them. A "
        "gap is right; one that grows while the upper line does not fall is learning by heart.",
        says=tuple(
            f"{name}: {small(item.prequential_log_loss)} before, {small(item.train_log_loss)} "
            f"after: a gap of {small(item.gap)}."
            for name, item in last.items()
        )
        or NOTHING_LEARNED,
        table=Table(
            ("model, learned to", "examples", "frauds", "before its label", "after", "gap"),
            tuple(
                (
                    f"{item.model}, {day_text(item.event_time_ms)}", number(item.examples),
                    number(item.frauds), small(item.prequential_log_loss),
                    small(item.train_log_loss), small(item.gap),
                )
                for item in readings
            ),
        ),
        plot=plots.overfitting(rows, frame_of(report)) if rows else None,
    )  # fmt: skip


def _scenario_figure(report: Report, found: Sequence[ScenarioRecall]) -> Figure:
    rows: list[Row] = [
        {
            "name": item.scenario, "model": item.model,
            "share": item.caught_in_top / item.frauds,
            "low": item.recall_in_top.low if item.recall_in_top else 0.0,
            "high": item.recall_in_top.high if item.recall_in_top else 1.0,
            "share_text": share_text(item.caught_in_top, item.frauds),
            "interval": interval_text(item.recall_in_top), "frauds": item.frauds,
            "events": item.frauds,
        }
        for item in found
    ]  # fmt: skip
    champion = [item for item in found if item.model == report.facts.models[0][0]]
    return Figure(
        key="scenarios",
        title="Which kinds of fraud are found?",
        reading="Share of each kind of fraud among as many of the highest scores as there are "
        "frauds. Bars are 95 % intervals by Wilson.",
        says=tuple(
            f"{item.scenario}: {share_text(item.caught_in_top, item.frauds)} of {item.frauds:,}."
            for item in champion
        ),
        table=scenario_table(found),
        plot=plots.shares(
            rows, "recall in the top", [item.scenario for item in champion], models_of(report)
        ),
    )


def _segment_figure(field: str, found: Sequence[Segment]) -> Figure:
    judged = [item for item in found if item.false_positive_rate is not None]
    rows: list[Row] = [
        {
            "name": item.name, "model": "champion",
            "share": item.genuine_alerted / (item.events - item.frauds),
            "low": item.false_positive_rate.low if item.false_positive_rate else 0.0,
            "high": item.false_positive_rate.high if item.false_positive_rate else 1.0,
            "share_text": share_text(item.genuine_alerted, item.events - item.frauds),
            "interval": interval_text(item.false_positive_rate),
            "events": item.events, "frauds": item.frauds,
        }
        for item in judged
    ]  # fmt: skip
    differing = [item.name for item in found if item.differs]
    return Figure(
        key=f"segment-{''.join(c if c.isalnum() else '-' for c in field)}",
        title=f"Is {field} treated alike?",
        reading="Share of the genuine events that were reviewed or declined, with 95 % intervals "
        "by Wilson. A segment differs where the share of the whole lies outside of its interval.",
        says=(
            f"Differing from the whole: {', '.join(differing)}."
            if differing
            else "No segment differs from the whole.",
        ),
        table=segment_table(found),
        plot=plots.shares(
            rows, "false-positive rate", [item.name for item in judged], ("champion",)
        )
        if rows
        else None,
    )
