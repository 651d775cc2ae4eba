"""The figures that say how good the scores were, and what thresholds and scores mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting import plots
from pipeline.reporting.drawing import Frame, Row
from pipeline.reporting.figures import FRAUDS_FEW, NO_LABELS, Figure, bar_end, frame_of, models_of
from pipeline.reporting.values import Report, Stretch
from pipeline.reporting.words import (
    STRETCH_NAMES,
    Table,
    day_text,
    number,
    percent,
    share_text,
    small,
    stretch_text,
)

# A plot is cut where values before the first labels are so many times those after them.
SQUEEZED = 2.0
TOP_MARGIN = 1.2
SCORE_SMALL = 0.01


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a stretch that is shown over time."""

    field: str
    title: str
    axis: str
    reading: str
    higher_is_better: bool = False


MEASURES = (
    Measure(
        "average_precision",
        "Average precision",
        "average precision",
        "How well frauds are ranked above the rest: 1 is perfect, a guess gets the share of fraud.",
        higher_is_better=True,
    ),
    Measure(
        "log_loss",
        "Log loss",
        "log loss (nats)",
        "How surprised the score was by the truth: lower is better, and a confident mistake costs "
        "most.",
    ),
    Measure(
        "brier",
        "Brier score",
        "Brier score",
        "Mean squared distance between the score and the truth (0 or 1): lower is better.",
    ),
)


def quality_figures(report: Report) -> Iterator[Figure]:
    """Show quality over time, and on how many labels it stands."""
    frame = frame_of(report)
    for measure in MEASURES:
        yield _quality_figure(report, frame, measure)
    yield _labels_figure(report, frame)


def _quality_figure(report: Report, frame: Frame, measure: Measure) -> Figure:
    rows = [
        {**row, "value": row[measure.field], "value_text": number(row[measure.field])}
        for row in _stretch_rows(report)
        if row[measure.field] is not None
    ]
    top = None if measure.higher_is_better else _top(report, rows)
    hollow = f"A hollow point stands on fewer than {FRAUDS_FEW} frauds."
    above = " Before the first labels the values lie above the plot: they are drawn at its edge."
    return Figure(
        key=measure.field.replace("_", "-"),
        title=f"{measure.title} by {frame.stretch}",
        reading=f"{measure.reading} {hollow}{above if top else ''}",
        says=tuple(_says_over_time(rows, measure)) or ("There is no labelled event.",),
        table=_stretch_table(report, measure),
        plot=plots.over_time(rows, "value", measure.axis, frame, top=top) if rows else None,
    )


def _top(report: Report, rows: Sequence[dict[str, Any]]) -> float | None:
    """Give where a plot ends, if a model that had not learned yet would squeeze all the rest."""
    begun_ms = (report.facts.first_ms or 0) + report.facts.label_delay_ms
    later = [row["value"] for row in rows if row["start_ms"] >= begun_ms]
    if not later or max(row["value"] for row in rows) < SQUEEZED * max(later):
        return None
    return float(TOP_MARGIN * max(later))


def threshold_figures(report: Report) -> Iterator[Figure]:
    """Show what thresholds give, and whether a score can be read as a probability."""
    models = models_of(report)
    quality = next(iter(report.quality.values()), None)
    rows = [
        {
            "model": point.model, "order": place, "score_min": small(point.score_min),
            "precision": round(point.precision, 5), "recall": round(point.recall, 5),
            "precision_text": percent(point.precision), "recall_text": percent(point.recall),
        }
        for place, point in enumerate(report.curve)
    ]  # fmt: skip
    points = [
        {
            "action": point.action, "score_min": f"{point.score_min:g}", "alerts": point.alerts,
            "frauds": point.frauds, "precision": point.precision, "recall": point.recall,
            "precision_text": percent(point.precision), "recall_text": percent(point.recall),
        }
        for point in report.operating_points
    ]  # fmt: skip
    share = quality.frauds / quality.events if quality and quality.events else 0.0
    at = [
        f"From {point.score_min:g} on ({point.action}): {point.alerts:,} events, "
        f"{percent(point.precision)} of them fraud, {percent(point.recall)} of all frauds."
        for point in report.operating_points
    ]
    yield Figure(
        key="precision-recall",
        title="Precision and recall",
        reading="Lowering the threshold moves right: more of the frauds are found, and more of "
        "what is flagged is genuine. Diamonds are the champion's thresholds in force; the dashed "
        "line is what flagging at random gives.",
        says=tuple(at) or ("No score reached a threshold.",),
        table=Table(
            ("threshold", "score from", "events above", "frauds", "precision", "recall"),
            tuple(
                (str(row["action"]), str(row["score_min"]), number(point.alerts),
                 number(point.frauds), str(row["precision_text"]), str(row["recall_text"]))
                for row, point in zip(points, report.operating_points, strict=True)
            ),
        ),
        plot=plots.precision_recall(rows, points, share, models) if rows else None,
    )  # fmt: skip
    yield from _calibration_figures(report, models)


def _stretch_rows(report: Report) -> Iterator[dict[str, Any]]:
    for item in report.stretches:
        yield {
            "model": item.model, "start_ms": item.start_ms,
            "period": stretch_text(item.start_ms, item.end_ms), "events": item.labelled,
            "frauds": item.frauds, "few": item.frauds < FRAUDS_FEW, "when": _when(item),
            "average_precision": item.average_precision, "log_loss": item.log_loss,
            "brier": item.brier,
        }  # fmt: skip


def _when(item: Stretch) -> str:
    name, day = STRETCH_NAMES[item.end_ms - item.start_ms], day_text(item.start_ms)
    return day if name == "day" else f"{name} of {day}"


def _says_over_time(rows: Sequence[dict[str, Any]], measure: Measure) -> Iterator[str]:
    pick = max if measure.higher_is_better else min
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        best = pick(of_model, key=lambda row: row["value"])
        yield (
            f"{model}: {of_model[0]['value_text']} at first, {of_model[-1]['value_text']} at last; "
            f"best {best['value_text']} ({best['when']})."
        )


def _stretch_table(report: Report, measure: Measure) -> Table:
    models = models_of(report)
    values = {
        (item.model, item.start_ms): getattr(item, measure.field) for item in report.stretches
    }
    rows = [
        (
            stretch_text(item.start_ms, item.end_ms),
            *(number(values[model, item.start_ms]) for model in models),
            number(item.labelled),
            number(item.frauds),
        )
        for item in _of_champion(report)
    ]
    heads = [f"{measure.axis}, {model}" for model in models]
    return Table(("stretch", *heads, "labelled events", "frauds"), tuple(rows))


def _of_champion(report: Report) -> list[Stretch]:
    return [item for item in report.stretches if item.model == report.facts.models[0][0]]


def _labels_figure(report: Report, frame: Frame) -> Figure:
    found = _of_champion(report)
    rows: list[Row] = []
    for item in found:
        row = {
            "start_ms": item.start_ms, "bar_end_ms": bar_end(item.start_ms, report.stretch_ms),
            "period": stretch_text(item.start_ms, item.end_ms), "events": item.events,
            "arrived": item.arrived, "share": share_text(item.arrived, item.events),
            "frauds": item.frauds,
        }  # fmt: skip
        came, waiting = "label came before the end", "no label yet"
        rows.append({**row, "state": came, "low": 0, "high": item.arrived})
        rows.append({**row, "state": waiting, "low": item.arrived, "high": item.events})
    events, arrived = (sum(getattr(item, name) for item in found) for name in ("events", "arrived"))
    return Figure(
        key="labels",
        title="Labels behind these numbers",
        reading="The file knows the truth of the last days as well, so their quality is shown; "
        "the model had not learned from them when the run ended.",
        says=(
            f"{arrived:,} of {events:,} events ({share_text(arrived, events)}) had a label that "
            "was learned before the run ended.",
        ),
        table=Table(
            ("stretch", "events", "labels that came", "share", "frauds in the file"),
            tuple(
                (
                    stretch_text(item.start_ms, item.end_ms), number(item.events),
                    number(item.arrived), share_text(item.arrived, item.events),
                    number(item.frauds),
                )
                for item in found
            ),
        ),
        plot=plots.labels_over_time(rows, frame) if rows else None,
    )  # fmt: skip


def _calibration_figures(report: Report, models: tuple[str, ...]) -> Iterator[Figure]:
    rows = [
        {
            "model": item.model, "bin": _score_bin(item.score_low, item.score_high),
            "events": item.events, "frauds": item.frauds, "few": item.frauds < FRAUDS_FEW,
            "score_mean": item.score_mean, "mean_text": small(item.score_mean),
            # A logarithmic axis has no 0: what is below its end is drawn there.
            "rate": max(item.fraud_rate, plots.SCORE_DOMAIN[0]),
            "rate_text": percent(item.fraud_rate),
            "rate_low": max(item.rate_low, plots.SCORE_DOMAIN[0]), "rate_high": item.rate_high,
            "interval": f"{percent(item.rate_low)} to {percent(item.rate_high)}",
        }
        for item in report.calibration
    ]  # fmt: skip
    table = Table(
        ("model, score", "events", "frauds", "mean score", "share of fraud", "95 % interval"),
        tuple(
            (f"{row['model']}, {row['bin']}", number(item.events), number(item.frauds),
             str(row["mean_text"]), str(row["rate_text"]), str(row["interval"]))
            for row, item in zip(rows, report.calibration, strict=True)
        ),
    )  # fmt: skip
    errors = [
        f"{name}: calibration error {number(quality.calibration_error)}."
        for name, quality in report.quality.items()
    ]
    yield Figure(
        key="calibration",
        title="Can a score be read as a probability?",
        reading="On the dashed line, of the events with a score of 0.2, one in five is a fraud. "
        "Below the line the score says too much, above it too little. Bars are 95 % intervals; a "
        f"hollow point stands on fewer than {FRAUDS_FEW} frauds. Both axes are logarithmic, since "
        "most scores are small.",
        says=tuple(errors) or NO_LABELS,
        table=table,
        plot=plots.reliability(rows, models) if rows else None,
    )
    bins = list(
        dict.fromkeys(
            _score_bin(item.score_low, item.score_high)
            for item in sorted(report.calibration, key=lambda item: item.score_low)
        )
    )
    yield Figure(
        key="score-counts",
        title="How many events have which score",
        reading="How many events stand behind each point of the calibration. The scale is "
        "logarithmic: each line is ten times the one below.",
        says=tuple(_share_below(report, name) for name in models) if rows else NO_LABELS,
        table=Table((), ()),
        plot=plots.score_counts(rows, models, bins) if rows else None,
        wide=True,
    )


def _share_below(report: Report, model: str) -> str:
    found = [item for item in report.calibration if item.model == model]
    below = sum(item.events for item in found if item.score_high <= SCORE_SMALL)
    share = share_text(below, sum(item.events for item in found))
    return f"{model}: {share} of the events have a score below {SCORE_SMALL:g}."


def _score_bin(low: float, high: float) -> str:
    return f"{low:g} to {high:g}"
