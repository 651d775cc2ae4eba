"""Tables of what was asked of a run: the terminal and the page show the same.

>>> what_if_table((), 2).rows
()
"""

from collections.abc import Mapping, Sequence

from pipeline.quality.folds import FoldNumber
from pipeline.quality.groups import ScenarioRecall, Segment
from pipeline.quality.intervals import Interval
from pipeline.quality.what_if import WhatIf
from pipeline.reporting.words import Table, number, percent, share_text
from pipeline.rule_stats import RuleNumbers


def interval_text(found: Interval | None) -> str:
    """Write an interval of a share.

    >>> interval_text(Interval(0.5, 0.625)), interval_text(None)
    ('50 % to 62.5 %', '-')
    """
    return "-" if found is None else f"{percent(found.low)} to {percent(found.high)}"


def fold_table(folds: Mapping[str, Mapping[str, FoldNumber]], scheme: str) -> Table:
    """Give the mean of each number over the folds, and its interval."""
    names = list(next(iter(folds.values()), {}))
    rows = [
        (
            name.replace("_", " "),
            *(
                f"{found[name].mean:.4f} ({found[name].low:.4f}-{found[name].high:.4f})"
                if name in found
                else "-"
                for found in folds.values()
            ),
        )
        for name in names
    ]
    return Table((f"mean of folds, {scheme} (95 %)", *folds), tuple(rows))


def scenario_table(found: Sequence[ScenarioRecall]) -> Table:
    """Give what is found of each kind of fraud."""
    rows = [
        (
            f"{item.scenario}, {item.model}",
            number(item.frauds),
            share_text(item.caught_in_top, item.frauds),
            interval_text(item.recall_in_top),
            share_text(item.caught, item.frauds),
        )
        for item in found
    ]
    header = (
        "scenario, model", "frauds", "in the top of the frauds", "95 %", "above the threshold",
    )  # fmt: skip
    return Table(header, tuple(rows))


def segment_table(found: Sequence[Segment]) -> Table:
    """Give what the thresholds do to each segment."""
    rows = [
        (
            f"{item.field} {item.name}",
            number(item.events),
            number(item.frauds),
            share_text(item.caught, item.alerts),
            share_text(item.caught, item.frauds),
            share_text(item.genuine_alerted, item.events - item.frauds),
            interval_text(item.false_positive_rate),
            share_text(item.declined, item.events),
            interval_text(item.decline_rate),
            "differs" if item.differs else "",
        )
        for item in found
    ]
    header = (
        "segment", "events", "frauds", "precision", "recall", "false positives", "95 %", "declined",
        "95 %", "against the whole",
    )  # fmt: skip
    return Table(header, tuple(rows))


def rule_table(found: Sequence[RuleNumbers], minor_digits: int) -> Table:
    """Give what each rule caught, and whom it bothered; money in the major unit."""
    unit = 10**minor_digits
    rows = [
        (
            item.rule,
            number(item.hits),
            number(item.frauds),
            number(item.genuine),
            share_text(item.frauds, item.frauds + item.genuine),
            f"{item.fraud_minor / unit:,.2f}",
            f"{item.genuine_minor / unit:,.2f}",
        )
        for item in found
    ]
    header = (
        "rule", "hits", "frauds", "false alarms", "precision", "money caught",
        "money of false alarms",
    )  # fmt: skip
    return Table(header, tuple(rows))


def what_if_table(found: Sequence[WhatIf], minor_digits: int) -> Table:
    """Give what thresholds would have done; money in the major unit."""
    unit = 10**minor_digits
    rows = [
        (
            f"{item.review_score_min:.4g} : {item.decline_score_min:.4g}",
            f"{item.alerts_a_day:,.1f}",
            number(item.declined),
            f"{item.frauds - item.frauds_missed:,} of {item.frauds:,}",
            number(item.frauds_missed),
            number(item.genuine_declined),
            f"{item.caught_minor / unit:,.0f}",
            f"{item.missed_minor / unit:,.0f}",
            f"{item.held_up_minor / unit:,.0f}",
        )
        for item in found
    ]
    header = (
        "review : decline from", "reviews a day", "declined", "frauds caught", "missed",
        "genuine declined", "money caught", "money missed", "genuine money held up",
    )  # fmt: skip
    return Table(header, tuple(rows))
