"""The plots of what was asked of a run: learning, learning by heart, thresholds, parts, features.

>>> row = {"name": "amount", "model": "additive", "value": 0.5, "value_text": "0.5"}
>>> bars([row], "mean contribution", ("additive",), ["amount"])["height"]
46
"""

from collections.abc import Sequence

import altair as alt

from pipeline.reporting.drawing import (
    SERIES_COLOURS,
    Frame,
    Row,
    Spec,
    data_of,
    model_colours,
    model_dashes,
    model_fills,
    model_shapes,
    spec_of,
    tooltip,
)

ROW_HEIGHT = 23
NAME_WIDTH = 210
LOSSES = ("before its label", "after it was learned")
STOPPED = ("frauds caught", "fraud money caught", "genuine declined or reviewed")


def learning_curve(rows: Sequence[Row], models: tuple[str, ...]) -> Spec:
    """Draw average precision by how many labels had been learned."""
    base = alt.Chart(data_of(rows)).encode(
        x=alt.X(
            "labels:Q",
            title="labels learned (logarithmic)",
            scale=alt.Scale(type="symlog", constant=100),
            axis=alt.Axis(
                values=[0, 100, 1e3, 1e4, 1e5, 1e6, 1e7],
                labelExpr="format(datum.value, '~s')",
            ),
        ),
        y=alt.Y("value:Q", title="average precision", scale=alt.Scale(domainMin=0)),
        color=model_colours(models),
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=model_dashes(models))
    points = base.mark_point(size=46, opacity=1, strokeWidth=1.5).encode(
        fill=model_fills(models),
        shape=model_shapes(models),
        fillOpacity=alt.condition("datum.few", alt.value(0), alt.value(1)),
        tooltip=tooltip(
            model="model", from_text="labels from", value_text="average precision",
            events="events", frauds="frauds",
        ),
    )  # fmt: skip
    return spec_of(alt.layer(line, points))


def overfitting(rows: Sequence[Row], frame: Frame) -> Spec:
    """Draw the loss before the label was known and after it was learned, for each model."""
    base = alt.Chart(data_of(rows)).encode(
        x=frame.x(),
        y=alt.Y("value:Q", title="log loss (nats)", scale=alt.Scale(domainMin=0)),
        color=model_colours(frame.models),
    )
    dash = alt.StrokeDash(
        "loss:N",
        title="loss",
        scale=alt.Scale(domain=list(LOSSES), range=[[1, 0], [4, 3]]),
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    points = base.mark_point(size=36, filled=True, opacity=1).encode(
        tooltip=tooltip(
            model="model", day="learned to", loss="loss", value_text="log loss", gap_text="gap",
            events="examples", frauds="frauds",
        )
    )  # fmt: skip
    return spec_of(alt.layer(line, points))


def thresholds(rows: Sequence[Row], points: Sequence[Row]) -> Spec:
    """Draw what is caught, and what genuine is stopped, by how much is stopped a day."""
    what = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(STOPPED), range=list(SERIES_COLOURS[: len(STOPPED)])),
    )
    x = alt.X(
        "stopped_a_day:Q",
        title="reviewed and declined a day (logarithmic)",
        scale=alt.Scale(type="symlog", constant=1),
        axis=alt.Axis(labelExpr="format(datum.value, '~s')"),
    )
    y = alt.Y("share:Q", title="share", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    told = tooltip(
        what="share", share_text="is", review_text="review from", decline_text="decline from",
        alerts_text="reviews a day", declined_text="declined", insulted_text="genuine declined",
    )  # fmt: skip
    base = alt.Chart(data_of(rows)).encode(x=x, y=y, color=what)
    layers = [
        base.mark_line(strokeWidth=2).encode(
            strokeDash=alt.StrokeDash(
                "what:N",
                title=None,
                scale=alt.Scale(domain=list(STOPPED), range=[[1, 0], [6, 3], [2, 2]]),
            )
        ),
        base.mark_point(size=40, filled=True, opacity=1).encode(tooltip=told),
    ]
    if points:
        asked = alt.Chart(data_of(points)).encode(x=x, y=y)
        layers.append(
            asked.mark_point(
                size=130, filled=True, opacity=1, shape="diamond", stroke="var(--paper)",
                strokeWidth=1.5,
            ).encode(color=alt.value("var(--ink)"), tooltip=told)
        )  # fmt: skip
    return spec_of(alt.layer(*layers), height=300)


def shares(rows: Sequence[Row], title: str, names: Sequence[str], models: tuple[str, ...]) -> Spec:
    """Draw a share with its interval for each name; models stand one below the other."""
    base = alt.Chart(data_of(rows)).encode(
        y=alt.Y("name:N", title=None, sort=list(names), axis=alt.Axis(labelLimit=NAME_WIDTH)),
        yOffset=alt.YOffset("model:N", sort=list(models)),
        color=model_colours(models),
    )
    percent = alt.Axis(format="~%")
    rules = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("low:Q", title=title, axis=percent, scale=alt.Scale(zero=True)), x2="high:Q"
    )
    points = base.mark_point(size=60, filled=True, opacity=1).encode(
        x=alt.X("share:Q", title=title, axis=percent),
        shape=model_shapes(models),
        tooltip=tooltip(
            name="of", model="model", share_text="share", interval="95 % interval",
            events="events", frauds="frauds",
        ),
    )  # fmt: skip
    return spec_of(alt.layer(rules, points), height=ROW_HEIGHT * (1 + len(names) * len(models)))


def bars(rows: Sequence[Row], title: str, models: tuple[str, ...], names: Sequence[str]) -> Spec:
    """Draw a number for each name, as a bar for each model."""
    chart = (
        alt.Chart(data_of(rows))
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=title),
            y=alt.Y("name:N", title=None, sort=list(names), axis=alt.Axis(labelLimit=NAME_WIDTH)),
            yOffset=alt.YOffset("model:N", sort=list(models)),
            color=model_colours(models),
            tooltip=tooltip(name="name", model="model", value_text=title),
        )
    )
    height = ROW_HEIGHT * (1 + len(names)) + 9 * len(names) * (len(models) - 1)
    return spec_of(chart, height=height)
