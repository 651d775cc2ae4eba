"""What all plots of a report have in common: colours, dashes, axes of time, tooltips, the rows.

Colours are CSS variables of the page (`templates/report.css`), so that light, dark and print need
no second drawing; a series has its own dash and shape beside its colour, for those who do not see
the difference in colour. Every plot is as wide as its place; times are UTC.

>>> Frame((0, 1), "day", ("additive",)).axis_title
'day (UTC)'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

Row = Mapping[str, object]
Spec = dict[str, Any]

SERIES_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3])
SERIES_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
SERIES_COLOURS = tuple(f"var(--series-{place})" for place in range(len(SERIES_SHAPES)))
PLOT_HEIGHT = 220
# A bar covers its stretch but for a small gap.
BAR_GAP_SHARE = 0.12
COUNTS = {"events", "frauds", "labels", "arrived", "alerts", "approve"}
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


def period_marks(frame: Frame) -> list[alt.LayerChart | alt.Chart]:
    """Draw where the measured period begins and ends."""
    if not frame.marks:
        return []
    base = alt.Chart(data_of(frame.marks)).encode(x=frame.x())
    rule = base.mark_rule(strokeDash=[2, 3], color="var(--ink-2)")
    text = base.mark_text(align="left", dx=4, fontSize=11).encode(
        y=alt.value(-6), text="text:N", color=alt.value("var(--ink-2)")
    )
    return [rule, text]


def dots(size: int) -> alt.OverlayMarkDef:
    """Give points on a line of the first colour."""
    return alt.OverlayMarkDef(size=size, filled=True, color="var(--series-0)")


def model_colours(names: tuple[str, ...]) -> alt.Color:
    """Give each model its colour."""
    return alt.Color("model:N", title="model", scale=_scale(names, SERIES_COLOURS))


def model_fills(names: tuple[str, ...]) -> alt.Fill:
    """Fill points in the colour of their model."""
    return alt.Fill("model:N", title="model", scale=_scale(names, SERIES_COLOURS))


def model_dashes(names: tuple[str, ...]) -> alt.StrokeDash:
    """Give each model its dash."""
    return alt.StrokeDash("model:N", title="model", scale=_scale(names, SERIES_DASHES))


def model_shapes(names: tuple[str, ...]) -> alt.Shape:
    """Give each model its shape."""
    return alt.Shape("model:N", title="model", scale=_scale(names, SERIES_SHAPES))


def _scale(names: tuple[str, ...], values: Sequence[Any]) -> alt.Scale:
    return alt.Scale(
        domain=list(names), range=[values[place % len(values)] for place in range(len(names))]
    )


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """Name what a hover shows; the page writes numbers as text, but for counts."""
    return [
        alt.Tooltip(f"{field}:Q", title=title, format=",")
        if field in COUNTS
        else alt.Tooltip(f"{field}:N", title=title)
        for field, title in titles.items()
    ]


def data_of(rows: Any) -> alt.Data:
    """Give rows as the data of a plot."""
    return alt.Data(values=[dict(row) for row in rows])  # type: ignore[no-untyped-call]


def spec_of(
    chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, height: int = PLOT_HEIGHT
) -> Spec:
    """Give the specification as plain values; the page brings the configuration."""
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)
    return spec
