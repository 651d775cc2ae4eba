"""The plots of a report, as Vega-Lite specifications made with Altair.

A plot gets rows of plain values and says how they are drawn; what all have in common is in
`drawing.py`.

>>> rows = [{"model": "additive", "start_ms": 0, "value": 0.5}]
>>> spec = over_time(rows, "value", "log loss (nats)", Frame((0, 1), "day", ("additive",)))
>>> spec["width"], "#" in str(spec["layer"])
('container', False)
"""

from collections.abc import Sequence

import altair as alt

from pipeline.feature_drift import PSI_DRIFT_MIN, PSI_WARNING_MIN
from pipeline.reporting.drawing import (
    SERIES_COLOURS,
    Frame,
    Row,
    Spec,
    data_of,
    dots,
    model_colours,
    model_dashes,
    model_fills,
    model_shapes,
    period_marks,
    spec_of,
    tooltip,
)

# The usual bands of PSI, and one for features that count history and so must move.
PSI_EDGES = (PSI_WARNING_MIN, PSI_DRIFT_MIN, 1.0)
PSI_BANDS = ("below 0.1", "0.1 to 0.25", "0.25 to 1", "1 and above")
BAND_COLOURS = tuple(f"var(--band-{place})" for place in range(len(PSI_BANDS)))
ROW_HEIGHT = 24
FEATURE_NAME_WIDTH = 175
SCORE_DOMAIN = (1e-5, 1.0)
_LOG_AXIS = alt.Axis(
    values=[1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], format="~g", labelOverlap=True, tickCount=6
)


def over_time(
    rows: Sequence[Row], field: str, title: str, frame: Frame, *, top: float | None = None
) -> Spec:
    """Draw a line for each model; a point that stands on few frauds is hollow.

    What lies above `top` is drawn there.
    """
    scale = alt.Scale(zero=True) if top is None else alt.Scale(domain=[0, top], clamp=True)
    base = alt.Chart(data_of(row for row in rows if row[field] is not None)).encode(
        x=frame.x(),
        y=alt.Y(f"{field}:Q", title=title, scale=scale),
        color=model_colours(frame.models),
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=model_dashes(frame.models))
    points = base.mark_point(size=46, opacity=1, strokeWidth=1.5).encode(
        fill=model_fills(frame.models),
        shape=model_shapes(frame.models),
        fillOpacity=alt.condition("datum.few", alt.value(0), alt.value(1)),
        tooltip=tooltip(
            period=frame.stretch, model="model", value_text=title, events="labelled events",
            frauds="frauds",
        ),
    )  # fmt: skip
    return spec_of(alt.layer(*period_marks(frame), line, points))


def labels_over_time(rows: Sequence[Row], frame: Frame) -> Spec:
    """Draw how many events of each stretch had a label when the run ended."""
    base = alt.Chart(data_of(rows)).encode(
        x=frame.x(),
        x2="bar_end_ms",
        tooltip=tooltip(
            period=frame.stretch, events="events", arrived="labels that came", share="share",
            frauds="frauds",
        ),
    )  # fmt: skip
    state = alt.Color(
        "state:N",
        title=None,
        scale=alt.Scale(
            domain=["label came before the end", "no label yet"],
            range=["var(--series-0)", "var(--quiet)"],
        ),
    )
    bars = base.mark_bar().encode(
        y=alt.Y("low:Q", title="events", axis=alt.Axis(format="~s")), y2="high", color=state
    )
    return spec_of(alt.layer(*period_marks(frame), bars))


def precision_recall(
    rows: Sequence[Row], points: Sequence[Row], share: float, models: tuple[str, ...]
) -> Spec:
    """Draw precision over recall, the thresholds in force, and what a guess would give."""
    unit = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    x = alt.X("recall:Q", title="recall: share of all frauds that is found", scale=unit)
    y = alt.Y("precision:Q", title="precision: share of fraud", scale=unit, axis=percent)
    base = alt.Chart(data_of(rows)).encode(x=x.axis(percent), y=y)
    line = base.mark_line(strokeWidth=2, interpolate="step-before").encode(
        color=model_colours(models),
        strokeDash=model_dashes(models),
        order="order:Q",
    )
    touch = base.mark_point(size=60, opacity=0, filled=True).encode(
        tooltip=tooltip(
            model="model", score_min="score from", precision_text="precision", recall_text="recall"
        )
    )
    guess = (
        alt.Chart(data_of([{"precision": share}]))
        .mark_rule(strokeDash=[3, 3], color="var(--ink-2)")
        .encode(y="precision:Q")
    )
    threshold = alt.Chart(data_of(points)).encode(x="recall:Q", y="precision:Q")
    dots = threshold.mark_point(
        size=130, filled=True, opacity=1, shape="diamond", stroke="var(--paper)", strokeWidth=1.5
    ).encode(
        color=alt.value("var(--ink)"),
        tooltip=tooltip(
            action="threshold", score_min="score from", alerts="events above", frauds="frauds",
            precision_text="precision", recall_text="recall",
        ),
    )  # fmt: skip
    names = threshold.mark_text(align="right", dx=-10, dy=12, fontWeight=600).encode(
        text="action:N", color=alt.value("var(--ink)")
    )
    return spec_of(alt.layer(guess, line, touch, dots, names), height=320)


def reliability(rows: Sequence[Row], models: tuple[str, ...]) -> Spec:
    """Draw fraud rates over scores; on the diagonal a score is the fraud rate."""
    scale = alt.Scale(type="log", domain=list(SCORE_DOMAIN), clamp=True)
    x = alt.X("score_mean:Q", title="mean score of the bin", scale=scale, axis=_LOG_AXIS)
    y = alt.Y("rate:Q", title="share of fraud in the bin", scale=scale, axis=_LOG_AXIS)
    diagonal = (
        alt.Chart(data_of([{"score_mean": end, "rate": end} for end in SCORE_DOMAIN]))
        .mark_line(strokeDash=[3, 3], strokeWidth=1, color="var(--ink-2)")
        .encode(x=x, y=y)
    )
    base = alt.Chart(data_of(rows)).encode(x=x, color=model_colours(models))
    intervals = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("rate_low:Q", title="share of fraud in the bin"), y2="rate_high:Q"
    )
    points = base.mark_point(size=60, opacity=1, strokeWidth=1.5).encode(
        y=y,
        fill=model_fills(models),
        shape=model_shapes(models),
        fillOpacity=alt.condition("datum.few", alt.value(0), alt.value(1)),
        tooltip=tooltip(
            model="model", bin="score", mean_text="mean score", rate_text="share of fraud",
            interval="95 % interval", events="events", frauds="frauds",
        ),
    )  # fmt: skip
    return spec_of(alt.layer(diagonal, intervals, points), height=320)


def score_counts(rows: Sequence[Row], models: tuple[str, ...], bins: Sequence[str]) -> Spec:
    """Draw how many events fell into each bin of scores."""
    bars = (
        alt.Chart(data_of(rows))
        .mark_bar()
        .encode(
            x=alt.X("bin:O", title="score", sort=list(bins), axis=alt.Axis(labelAngle=-45)),
            xOffset=alt.XOffset("model:N", sort=list(models)),
            y=alt.Y(
                "events:Q",
                title="events (logarithmic)",
                scale=alt.Scale(type="symlog", constant=1, domainMin=0),
                axis=alt.Axis(
                    values=[1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7],
                    # Each number with its own unit; a format would give all of them one.
                    labelExpr="format(datum.value, '~s')",
                ),
            ),
            color=model_colours(models),
            tooltip=tooltip(model="model", bin="score", events="events", frauds="frauds"),
        )
    )
    return spec_of(bars)


def errors(rows: Sequence[Row], moments: Sequence[Row], frame: Frame) -> Spec:
    """Draw the error day by day, and the moments at which a detector found a change."""
    line = (
        alt.Chart(data_of(rows))
        .mark_line(strokeWidth=1.5, color="var(--series-0)", point=dots(14))
        .encode(
            x=frame.x(),
            y=alt.Y("error:Q", title="mean squared error", scale=alt.Scale(zero=True)),
            tooltip=tooltip(period="day", error_text="error", events="labelled events"),
        )
    )
    found = alt.Chart(data_of(moments)).encode(
        x="start_ms:T",
        color=alt.Color(
            "direction:N",
            title="change found",
            scale=alt.Scale(
                domain=["rise", "fall"], range=["var(--alarm)", "var(--series-2)"]
            ),
        ),
        tooltip=tooltip(
            detector="detector", direction="error", moment="event (UTC)", before_text="before",
            after_text="after",
        ),
    )  # fmt: skip
    rules = found.mark_rule(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash(
            "direction:N",
            title="change found",
            scale=alt.Scale(domain=["rise", "fall"], range=[[1, 0], [4, 3]]),
        )
    )
    layers = [*period_marks(frame), line, rules] if moments else [*period_marks(frame), line]
    return spec_of(alt.layer(*layers))


def score_stability(rows: Sequence[Row], frame: Frame) -> Spec:
    """Draw the PSI of the score, with the usual bands."""
    line = (
        alt.Chart(data_of(rows))
        .mark_line(strokeWidth=2, color="var(--series-0)", point=dots(40))
        .encode(
            x=frame.x(),
            y=alt.Y("psi:Q", title="PSI of the score", scale=alt.Scale(zero=True)),
            tooltip=tooltip(period=frame.stretch, psi_text="PSI", band="band"),
        )
    )
    words = zip(PSI_EDGES, ("watch", "changed"), strict=False)
    bands = alt.Chart(data_of([{"psi": value, "text": f"{value} {word}"} for value, word in words]))
    rules = bands.mark_rule(strokeDash=[3, 3], color="var(--ink-2)").encode(y="psi:Q")
    names = bands.mark_text(align="left", dx=4, dy=-6, fontSize=11).encode(
        x=alt.value(0), y="psi:Q", text="text:N", color=alt.value("var(--ink-2)")
    )
    return spec_of(alt.layer(rules, names, *period_marks(frame), line))


def feature_stability(rows: Sequence[Row], frame: Frame, names: Sequence[str]) -> Spec:
    """Draw the PSI of the features that moved most: a row each, coloured by the usual bands."""
    tiles = (
        alt.Chart(data_of(rows))
        .mark_rect(stroke="var(--paper)", strokeWidth=1)
        .encode(
            x=frame.x(),
            x2="end_ms",
            y=alt.Y(
                "name:N", title=None, sort=list(names), axis=alt.Axis(labelLimit=FEATURE_NAME_WIDTH)
            ),
            color=alt.Color(
                "band:O",
                title=None,
                # One below the other: beside the names a telephone has no room for more.
                legend=alt.Legend(columns=1, labelExpr="'PSI ' + datum.label"),
                scale=alt.Scale(
                    domain=list(PSI_BANDS),
                    range=[f"var(--band-{place})" for place in range(len(PSI_BANDS))],
                ),
            ),
            tooltip=tooltip(name="feature", period=frame.stretch, psi_text="PSI", band="band"),
        )
    )
    return spec_of(tiles, height=ROW_HEIGHT * max(1, len(names)))


def actions(rows: Sequence[Row], frauds: Sequence[Row], frame: Frame) -> Spec:
    """Draw reviews and declines as stacked bars, and the frauds known of as points."""
    bars = (
        alt.Chart(data_of(rows))
        .mark_bar()
        .encode(
            x=frame.x(),
            x2="bar_end_ms",
            y=alt.Y("low:Q", title="events"),
            y2="high",
            color=alt.Color(
                "action:N",
                title=None,
                scale=alt.Scale(
                    domain=["review", "decline", "known fraud"],
                    range=["var(--series-1)", "var(--alarm)", "var(--ink)"],
                ),
                legend=alt.Legend(symbolType="square", symbolOpacity=1),
            ),
            tooltip=tooltip(
                period=frame.stretch, action="action", events="events", approve="approved",
                frauds="frauds of that time",
            ),
        )
    )  # fmt: skip
    points = (
        alt.Chart(data_of(frauds))
        .mark_tick(thickness=2, orient="horizontal", width=8)
        .encode(
            x=frame.x("middle_ms"),
            y="frauds:Q",
            color="action:N",
            tooltip=tooltip(period=frame.stretch, frauds="known frauds"),
        )
    )
    return spec_of(alt.layer(bars, points))


def delays(rows: Sequence[Row], bins: Sequence[str], sources: Sequence[str]) -> Spec:
    """Draw how long labels took, by who gave them."""
    bars = (
        alt.Chart(data_of(rows))
        .mark_bar()
        .encode(
            x=alt.X("bin:O", title="label delay", sort=list(bins), axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("labels:Q", title="labels", axis=alt.Axis(format="~s")),
            color=alt.Color(
                "source:N",
                title="source",
                sort=list(sources),
                scale=alt.Scale(domain=list(sources), range=list(SERIES_COLOURS[: len(sources)])),
            ),
            tooltip=tooltip(source="source", bin="delay", labels="labels"),
        )
    )
    return spec_of(bars)
