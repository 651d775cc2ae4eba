"""The figures that say whether the stream changed, what was decided, and when the truth came."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.drift import PSI_WINDOW_EVENTS
from pipeline.durations import DAY_MS
from pipeline.reporting import plots
from pipeline.reporting.drawing import Frame, Row
from pipeline.reporting.figures import Figure, bar_end, frame_of
from pipeline.reporting.plots import PSI_BANDS, PSI_EDGES
from pipeline.reporting.values import Report
from pipeline.reporting.words import (
    STRETCH_NAMES,
    Table,
    day_text,
    moment_text,
    number,
    share_text,
    short_span,
    small,
    span_text,
    stretch_text,
)

DETECTOR_NAMES = {"adwin": "ADWIN", "page_hinkley": "Page-Hinkley"}


def drift_figures(report: Report) -> Iterator[Figure]:
    """Show what changed in the stream: the error, the score, the features."""
    frame = frame_of(report)
    yield _error_figure(report, frame_of(report, DAY_MS))
    yield from _psi_figures(report, frame)


def action_figures(report: Report) -> Iterator[Figure]:
    """Show what was decided, and when the truth came."""
    yield _actions_figure(report)
    yield _delays_figure(report)


def _error_figure(report: Report, frame: Frame) -> Figure:
    days: list[Row] = [
        {
            "start_ms": day.start_ms, "period": day_text(day.start_ms), "events": day.events,
            "error": day.error, "error_text": small(day.error),
        }
        for day in report.error_days
    ]  # fmt: skip
    moments: list[Row] = [
        {
            "start_ms": found.event_time_ms, "moment": moment_text(found.event_time_ms),
            "detector": DETECTOR_NAMES[found.detector], "direction": found.direction,
            "before_text": small(found.error_before), "after_text": small(found.error_after),
        }
        for found in report.detections
    ]  # fmt: skip
    count = Counter(found.direction for found in report.detections)
    says = f"Detected in the error: {count['rise']} rises, {count['fall']} falls."
    return Figure(
        key="drift",
        title="Error and detected changes",
        reading="The champion's mean squared error day by day. A solid line is a moment from which "
        "a detector saw the error rise: the world changed faster than the model learned. A dashed "
        "line is a fall: the model got better. Detectors see an error when its label comes.",
        says=(says,),
        table=Table(
            ("moment (UTC)", "detector", "error", "before", "after"),
            tuple(
                (
                    str(row["moment"]),
                    str(row["detector"]),
                    str(row["direction"]),
                    str(row["before_text"]),
                    str(row["after_text"]),
                )
                for row in moments
            ),
        ),
        plot=plots.errors(days, moments, frame) if days else None,
        wide=True,
    )


def _psi_figures(report: Report, frame: Frame) -> Iterator[Figure]:
    few = (
        "There are too few events for a reference of a week and a window of "
        f"{PSI_WINDOW_EVENTS:,} events.",
    )
    stretch = STRETCH_NAMES[report.stretch_ms]
    score = [_psi_row(report, item.name, item.start_ms, item.psi) for item in report.score_psi]
    highest = max((item.psi for item in report.score_psi), default=None)
    yield Figure(
        key="score-psi",
        title="Has the score moved?",
        reading="Population stability index (PSI): how far the distribution of the latest 10,000 "
        f"scores is from that of the reference, the highest of each {stretch}. Below 0.1 is "
        "stable, from 0.25 on it has changed. It needs no label. A model that learns moves its "
        "scores as well.",
        says=few if highest is None else (f"Highest PSI of the score: {small(highest)}.",),
        table=Table(
            ("stretch", "PSI", "band"),
            tuple((str(row["period"]), str(row["psi_text"]), str(row["band"])) for row in score),
        ),
        plot=plots.score_stability(score, frame) if score else None,
    )
    rows = [_psi_row(report, item.name, item.start_ms, item.psi) for item in report.feature_psi]
    names = list(dict.fromkeys(item.name for item in report.feature_psi))
    worst = {
        name: max((row for row in rows if row["name"] == name), key=lambda row: row["psi"])
        for name in names
    }
    yield Figure(
        key="feature-psi",
        title="Which features have moved?",
        reading=f"The {len(names)} features whose PSI rose highest, those first. What is known of "
        "cards and terminals grows with the stream, so features that count history move at first.",
        says=few
        if not names
        else (
            f"{names[0]} moved most: PSI {worst[names[0]]['psi_text']} in "
            f"{worst[names[0]]['period']}.",
        ),
        table=Table(
            ("feature", "highest PSI", "when"),
            tuple(
                (name, str(worst[name]["psi_text"]), str(worst[name]["period"])) for name in names
            ),
        ),
        plot=plots.feature_stability(rows, frame, names) if rows else None,
    )


def _psi_row(report: Report, name: str, start_ms: int, psi: float) -> dict[str, Any]:
    end_ms = start_ms + report.stretch_ms
    return {
        "name": name, "start_ms": start_ms, "end_ms": end_ms, "psi": round(psi, 5),
        "psi_text": small(psi), "period": stretch_text(start_ms, end_ms),
        "band": PSI_BANDS[sum(psi >= edge for edge in PSI_EDGES)],
    }  # fmt: skip


def _actions_figure(report: Report) -> Figure:
    size = report.action_stretch_ms
    rows: list[Row] = []
    frauds: list[Row] = []
    for day in report.action_days:
        row = {
            "start_ms": day.start_ms, "bar_end_ms": bar_end(day.start_ms, size),
            "middle_ms": day.start_ms + size // 2, "approve": day.approve, "frauds": day.frauds,
            "period": stretch_text(day.start_ms, day.start_ms + size),
        }  # fmt: skip
        stop = day.decline + day.review
        rows.append(
            {**row, "action": "decline", "events": day.decline, "low": 0, "high": day.decline}
        )
        rows.append(
            {**row, "action": "review", "events": day.review, "low": day.decline, "high": stop}
        )
        frauds.append({**row, "action": "known fraud"})
    truths = [
        f"{item.action} {item.events:,} events, {share_text(item.frauds, item.events)} fraud"
        for item in report.action_truths
    ]
    return Figure(
        key="actions",
        title=f"Reviews and declines a {STRETCH_NAMES[size]}",
        reading="Bars are what was not simply approved; ticks are the frauds that the file knows "
        "of. Where bars stay below the ticks, frauds went through; far above, genuine customers "
        "were stopped.",
        says=("Of the measured events: " + "; ".join(truths) + ".",)
        if truths
        else ("No event was decided.",),
        table=Table(
            ("stretch", "approve", "review", "decline", "known frauds"),
            tuple(
                (stretch_text(day.start_ms, day.start_ms + size), number(day.approve),
                 number(day.review), number(day.decline), number(day.frauds))
                for day in report.action_days
            ),
        ),
        plot=plots.actions(rows, frauds, frame_of(report, size)) if rows else None,
        wide=True,
    )  # fmt: skip


def _delays_figure(report: Report) -> Figure:
    bins = {
        (item.low_ms, item.high_ms): f"from {short_span(item.low_ms)}"
        if item.high_ms is None
        else f"{short_span(item.low_ms)} to {short_span(item.high_ms)}"
        for item in sorted(report.delays, key=lambda item: item.low_ms)
    }
    rows = [
        {"source": item.source, "bin": bins[item.low_ms, item.high_ms], "labels": item.labels}
        for item in report.delays
    ]
    sources = [item.source for item in report.delay_summaries]
    says = [
        f"{item.source}: {item.labels:,} labels, half of them within {span_text(item.median_ms)}."
        for item in report.delay_summaries
    ]
    return Figure(
        key="label-delay",
        title="How long labels took",
        reading="Event time from an event to its label, by who gave it. A bin holds its lower edge "
        "and not its upper one. The model cannot learn of a fraud before that.",
        says=tuple(says) or ("No label came before the run ended.",),
        table=Table(
            ("source", "labels", "median", "nine of ten within", "longest"),
            tuple(
                (item.source, number(item.labels), span_text(item.median_ms),
                 span_text(item.p90_ms), span_text(item.longest_ms))
                for item in report.delay_summaries
            ),
        ),
        plot=plots.delays(rows, list(bins.values()), sources) if rows else None,
    )  # fmt: skip
