"""The plots of a report, as Vega-Lite specifications made with Altair.

A plot gets rows of plain values and says how they are drawn. Colours are CSS variables of the
page (`templates/report.css`), so that light, dark and print need no second drawing; a series has
its own dash and shape beside its colour, for those who do not see the difference in colour. Every
plot is as wide as its place; times are UTC.

>>> rows = [{"model": "additive", "start_ms": 0, "value": 0.5}]
>>> spec = over_time(rows, "value", "log loss (nats)", Frame((0, 1), "day", ("additive",)))
>>> spec["width"], "#" in str(spec["layer"])
('container', False)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from pipeline.feature_drift import PSI_DRIFT_MIN, PSI_WARNING_MIN

Row = Mapping[str, object]
Spec = dict[str, Any]

# The usual bands of PSI, and one for features that count history and so must move.
PSI_EDGES = (PSI_WARNING_MIN, PSI_DRIFT_MIN, 1.0)
PSI_BANDS = ("below 0.1", "0.1 to 0.25", "0.25 to 1", "1 and above")
BAND_COLOURS = tuple(f"var(--band-{place})" for place in range(len(PSI_BANDS)))
SERIES_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3])
SERIES_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
SERIES_COLOURS = tuple(f"var(--series-{place})" for place in range(len(SERIES_SHAPES)))
PLOT_HEIGHT = 220
ROW_HEIGHT = 24
FEATURE_NAME_WIDTH = 175
# A bar covers its stretch but for a small gap.
BAR_GAP_SHARE = 0.12
COUNTS = {"events", "frauds", "labels", "arrived", "alerts", "approve"}
SCORE_DOMAIN = (1e-5, 1.0)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CONFIG: Spec = {
    "background": "transparent",
    "font": FONT,
    "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "titlePadding": 8,
        "labelFontSize": 11,
        "gridColor": "var(--grid)",
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
    },
    "axisX": {"grid": False},
    "legend": {
        "orient": "top",
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink-2)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleOrient": "left",
        "symbolSize": 90,
        "symbolDash": [1, 0],
    },
}
_LOG_AXIS = alt.Axis(
    values=[1e-5, 1e-4, 1e-3, 0.01, 0.1, 1], format="~g", labelOverlap=True, tickCount=6
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What plots over time have in common: the time shown, the stretch's name, the models.

    `marks` are the ends of the measured period that lie inside.
    """

    domain_ms: tuple[int, int]
    stretch: str
    models: tuple[str, ...]
    marks: tuple[Row, ...] = ()

    @property
    def axis_title(self) -> str:
        """What the time axis says."""
        return "day (UTC)" if self.stretch == "day" else f"{self.stretch} beginning (UTC)"

    def x(self, field: str = "start_ms") -> alt.X:
        """Give the time axis."""
        return alt.X(
            f"{field}:T",
            # As expressions: the interpreter takes a plain number of milliseconds for a year.
            scale=alt.Scale(
                type="utc",
                domainMin=alt.ExprRef(str(self.domain_ms[0])),
                domainMax=alt.ExprRef(str(self.domain_ms[1])),
            ),
            axis=alt.Axis(title=self.axis_title, labelOverlap=True, labelSeparation=8, tickCount=6),
        )


def over_time(
    rows: Sequence[Row], field: str, title: str, frame: Frame, *, top: float | None = None
) -> Spec:
    """Draw a line for each model; a point that stands on few frauds is hollow.

    What lies above `top` is drawn there.
    """
    scale = alt.Scale(zero=True) if top is None else alt.Scale(domain=[0, top], clamp=True)
    base = alt.Chart(_data(row for row in rows if row[field] is not None)).encode(
        x=frame.x(),
        y=alt.Y(f"{field}:Q", title=title, scale=scale),
        color=_models(frame.models),
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=_dashes(frame.models))
    points = base.mark_point(size=46, opacity=1, strokeWidth=1.5).encode(
        fill=_fills(frame.models),
        shape=_shapes(frame.models),
        fillOpacity=alt.condition("datum.few", alt.value(0), alt.value(1)),
        tooltip=_tooltip(
            period=frame.stretch, model="model", value_text=title, events="labelled events",
            frauds="frauds",
        ),
    )  # fmt: skip
    return _spec(alt.layer(*_marks(frame), line, points))


def labels_over_time(rows: Sequence[Row], frame: Frame) -> Spec:
    """Draw how many events of each stretch had a label when the run ended."""
    base = alt.Chart(_data(rows)).encode(
        x=frame.x(),
        x2="bar_end_ms",
        tooltip=_tooltip(
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
    return _spec(alt.layer(*_marks(frame), bars))


def precision_recall(
    rows: Sequence[Row], points: Sequence[Row], share: float, models: tuple[str, ...]
) -> Spec:
    """Draw precision over recall, the thresholds in force, and what a guess would give."""
    unit = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    x = alt.X("recall:Q", title="recall: share of all frauds that is found", scale=unit)
    y = alt.Y("precision:Q", title="precision: share of fraud", scale=unit, axis=percent)
    base = alt.Chart(_data(rows)).encode(x=x.axis(percent), y=y)
    line = base.mark_line(strokeWidth=2, interpolate="step-before").encode(
        color=_models(models),
        strokeDash=_dashes(models),
        order="order:Q",
    )
    touch = base.mark_point(size=60, opacity=0, filled=True).encode(
        tooltip=_tooltip(
            model="model", score_min="score from", precision_text="precision", recall_text="recall"
        )
    )
    guess = (
        alt.Chart(_data([{"precision": share}]))
        .mark_rule(strokeDash=[3, 3], color="var(--ink-2)")
        .encode(y="precision:Q")
    )
    threshold = alt.Chart(_data(points)).encode(x="recall:Q", y="precision:Q")
    dots = threshold.mark_point(
        size=130, filled=True, opacity=1, shape="diamond", stroke="var(--paper)", strokeWidth=1.5
    ).encode(
        color=alt.value("var(--ink)"),
        tooltip=_tooltip(
            action="threshold", score_min="score from", alerts="events above", frauds="frauds",
            precision_text="precision", recall_text="recall",
        ),
    )  # fmt: skip
    names = threshold.mark_text(align="right", dx=-10, dy=12, fontWeight=600).encode(
        text="action:N", color=alt.value("var(--ink)")
    )
    return _spec(alt.layer(guess, line, touch, dots, names), height=320)


def reliability(rows: Sequence[Row], models: tuple[str, ...]) -> Spec:
    """Draw fraud rates over scores; on the diagonal a score is the fraud rate."""
    scale = alt.Scale(type="log", domain=list(SCORE_DOMAIN), clamp=True)
    x = alt.X("score_mean:Q", title="mean score of the bin", scale=scale, axis=_LOG_AXIS)
    y = alt.Y("rate:Q", title="share of fraud in the bin", scale=scale, axis=_LOG_AXIS)
    diagonal = (
        alt.Chart(_data([{"score_mean": end, "rate": end} for end in SCORE_DOMAIN]))
        .mark_line(strokeDash=[3, 3], strokeWidth=1, color="var(--ink-2)")
        .encode(x=x, y=y)
    )
    base = alt.Chart(_data(rows)).encode(x=x, color=_models(models))
    intervals = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("rate_low:Q", title="share of fraud in the bin"), y2="rate_high:Q"
    )
    points = base.mark_point(size=60, opacity=1, strokeWidth=1.5).encode(
        y=y,
        fill=_fills(models),
        shape=_shapes(models),
        fillOpacity=alt.condition("datum.few", alt.value(0), alt.value(1)),
        tooltip=_tooltip(
            model="model", bin="score", mean_text="mean score", rate_text="share of fraud",
            interval="95 % interval", events="events", frauds="frauds",
        ),
    )  # fmt: skip
    return _spec(alt.layer(diagonal, intervals, points), height=320)


def score_counts(rows: Sequence[Row], models: tuple[str, ...], bins: Sequence[str]) -> Spec:
    """Draw how many events fell into each bin of scores."""
    bars = (
        alt.Chart(_data(rows))
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
            color=_models(models),
            tooltip=_tooltip(model="model", bin="score", events="events", frauds="frauds"),
        )
    )
    return _spec(bars)


def errors(rows: Sequence[Row], moments: Sequence[Row], frame: Frame) -> Spec:
    """Draw the error day by day, and the moments at which a detector found a change."""
    line = (
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=1.5, color="var(--series-0)", point=_dots(14))
        .encode(
            x=frame.x(),
            y=alt.Y("error:Q", title="mean squared error", scale=alt.Scale(zero=True)),
            tooltip=_tooltip(period="day", error_text="error", events="labelled events"),
        )
    )
    found = alt.Chart(_data(moments)).encode(
        x="start_ms:T",
        color=alt.Color(
            "direction:N",
            title="change found",
            scale=alt.Scale(
                domain=["rise", "fall"], range=["var(--alarm)", "var(--series-2)"]
            ),
        ),
        tooltip=_tooltip(
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
    layers = [*_marks(frame), line, rules] if moments else [*_marks(frame), line]
    return _spec(alt.layer(*layers))


def score_stability(rows: Sequence[Row], frame: Frame) -> Spec:
    """Draw the PSI of the score, with the usual bands."""
    line = (
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=2, color="var(--series-0)", point=_dots(40))
        .encode(
            x=frame.x(),
            y=alt.Y("psi:Q", title="PSI of the score", scale=alt.Scale(zero=True)),
            tooltip=_tooltip(period=frame.stretch, psi_text="PSI", band="band"),
        )
    )
    words = zip(PSI_EDGES, ("watch", "changed"), strict=False)
    bands = alt.Chart(_data([{"psi": value, "text": f"{value} {word}"} for value, word in words]))
    rules = bands.mark_rule(strokeDash=[3, 3], color="var(--ink-2)").encode(y="psi:Q")
    names = bands.mark_text(align="left", dx=4, dy=-6, fontSize=11).encode(
        x=alt.value(0), y="psi:Q", text="text:N", color=alt.value("var(--ink-2)")
    )
    return _spec(alt.layer(rules, names, *_marks(frame), line))


def feature_stability(rows: Sequence[Row], frame: Frame, names: Sequence[str]) -> Spec:
    """Draw the PSI of the features that moved most: a row each, coloured by the usual bands."""
    tiles = (
        alt.Chart(_data(rows))
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
            tooltip=_tooltip(name="feature", period=frame.stretch, psi_text="PSI", band="band"),
        )
    )
    return _spec(tiles, height=ROW_HEIGHT * max(1, len(names)))


def actions(rows: Sequence[Row], frauds: Sequence[Row], frame: Frame) -> Spec:
    """Draw reviews and declines as stacked bars, and the frauds known of as points."""
    bars = (
        alt.Chart(_data(rows))
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
            tooltip=_tooltip(
                period=frame.stretch, action="action", events="events", approve="approved",
                frauds="frauds of that time",
            ),
        )
    )  # fmt: skip
    points = (
        alt.Chart(_data(frauds))
        .mark_tick(thickness=2, orient="horizontal", width=8)
        .encode(
            x=frame.x("middle_ms"),
            y="frauds:Q",
            color="action:N",
            tooltip=_tooltip(period=frame.stretch, frauds="known frauds"),
        )
    )
    return _spec(alt.layer(bars, points))


def delays(rows: Sequence[Row], bins: Sequence[str], sources: Sequence[str]) -> Spec:
    """Draw how long labels took, by who gave them."""
    bars = (
        alt.Chart(_data(rows))
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
            tooltip=_tooltip(source="source", bin="delay", labels="labels"),
        )
    )
    return _spec(bars)


def _marks(frame: Frame) -> list[alt.LayerChart | alt.Chart]:
    """Draw where the measured period begins and ends."""
    if not frame.marks:
        return []
    base = alt.Chart(_data(frame.marks)).encode(x=frame.x())
    rule = base.mark_rule(strokeDash=[2, 3], color="var(--ink-2)")
    text = base.mark_text(align="left", dx=4, fontSize=11).encode(
        y=alt.value(-6), text="text:N", color=alt.value("var(--ink-2)")
    )
    return [rule, text]


def _dots(size: int) -> alt.OverlayMarkDef:
    return alt.OverlayMarkDef(size=size, filled=True, color="var(--series-0)")


def _models(names: tuple[str, ...]) -> alt.Color:
    return alt.Color("model:N", title="model", scale=_scale(names, SERIES_COLOURS))


def _fills(names: tuple[str, ...]) -> alt.Fill:
    return alt.Fill("model:N", title="model", scale=_scale(names, SERIES_COLOURS))


def _dashes(names: tuple[str, ...]) -> alt.StrokeDash:
    return alt.StrokeDash("model:N", title="model", scale=_scale(names, SERIES_DASHES))


def _shapes(names: tuple[str, ...]) -> alt.Shape:
    return alt.Shape("model:N", title="model", scale=_scale(names, SERIES_SHAPES))


def _scale(names: tuple[str, ...], values: Sequence[Any]) -> alt.Scale:
    return alt.Scale(
        domain=list(names), range=[values[place % len(values)] for place in range(len(names))]
    )


def _tooltip(**titles: str) -> list[alt.Tooltip]:
    """Name what a hover shows; the page writes numbers as text, but for counts."""
    return [
        alt.Tooltip(f"{field}:Q", title=title, format=",")
        if field in COUNTS
        else alt.Tooltip(f"{field}:N", title=title)
        for field, title in titles.items()
    ]


def _data(rows: Any) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])  # type: ignore[no-untyped-call]


def _spec(chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, height: int = PLOT_HEIGHT) -> Spec:
    """Give the specification as plain values; the page brings the configuration."""
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)
    return spec
