"""Writes the Grafana dashboard: `python -m dashboards.build` prints `dashboards/fraudstream.json`.

The screens come from `screens.py`; a test compares the file with what is made here. It is written
in Grafana's classic form, which versions since 9 read.
"""

from collections.abc import Callable
from itertools import count

import click
from grafana_foundation_sdk.builders import bargauge, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    TimeZoneUtc,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

from dashboards.screens import SCREENS, Kind, PanelRow, Query

TITLE = "fraudstream"
UID = "fraudstream"
# The uid that provisioning gives to the data source.
SOURCE = DataSourceRef(type_val="prometheus", uid="fraudstream-prometheus")
# Three panels beside each other in Grafana's grid of 24.
PANEL_WIDTH, PANEL_HEIGHT = 8, 7
GREEN, YELLOW, RED = "green", "yellow", "red"

Panel = timeseries.Panel | stat.Panel | bargauge.Panel


def dashboard() -> str:
    """Give the dashboard as JSON."""
    built = (
        Dashboard(TITLE)
        .uid(UID)
        .description("Made by `make dashboards` from dashboards/screens.py: change it there.")
        .tags(["fraudstream"])
        .timezone(TimeZoneUtc)
        .time("now-6h", "now")
        .refresh("30s")
        .readonly()
    )
    numbers = count(1)
    for screen in SCREENS:
        built.with_row(Row(screen.title).id(next(numbers)))
        for row in screen.panels:
            built.with_panel(_panel(row).id(next(numbers)))
    return f"{JSONEncoder(sort_keys=True, indent=2).encode(built.build())}\n"


def _panel(row: PanelRow) -> Panel:
    panel = _KINDS[row.kind]()
    panel.title(row.title).description(row.meaning).unit(row.unit).datasource(SOURCE)
    panel.span(PANEL_WIDTH).height(PANEL_HEIGHT)
    if row.bands is not None:
        panel.thresholds(_bands(*row.bands))
    for number, query in enumerate(row.queries):
        panel.with_target(_target(query, chr(ord("A") + number), row.kind))
    return panel


def _target(query: Query, name: str, kind: Kind) -> Dataquery:
    target = Dataquery().expr(query.expression).legend_format(query.legend).ref_id(name)
    target.datasource(SOURCE)
    return target.range() if kind == "lines" else target.instant()


def _lines() -> Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)
    return timeseries.Panel().legend(legend.placement(LegendPlacement.BOTTOM)).fill_opacity(5)


def _number() -> Panel:
    return stat.Panel().reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))


def _bars() -> Panel:
    bars = bargauge.Panel().orientation(VizOrientation.HORIZONTAL).min(0)
    return bars.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))


_KINDS: dict[Kind, Callable[[], Panel]] = {"lines": _lines, "number": _number, "bars": _bars}


def _bands(warning: float, drift: float) -> ThresholdsConfig:
    steps = [Threshold(None, GREEN), Threshold(warning, YELLOW), Threshold(drift, RED)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    click.echo(dashboard(), nl=False)
