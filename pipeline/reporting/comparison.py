"""The page of a comparison: its verdict, its tables and its plots, in one file as a report is.

Everything on it is in the `Comparison`, which the terminal and the JSON give as well.
"""

import re
from collections.abc import Iterator, Sequence

from pipeline.comparison.compare import Comparison
from pipeline.comparison.parts import FRAUDS_MIN, Part
from pipeline.comparison.words import (
    CAUGHT_BY,
    SIDES,
    money_text,
    notes,
    overlap_table,
    parts_table,
    ranking_table,
    side_table,
    value_text,
    verdict,
    views_of,
)
from pipeline.durations import DAY_MS
from pipeline.reporting import plots, question_plots
from pipeline.reporting.drawing import Frame, Row
from pipeline.reporting.figures import Figure
from pipeline.reporting.page import Section, render_page
from pipeline.reporting.words import number, period_text, stretch_text
from pipeline.schema import Schema

NOTHING = ("No fraud of the period is labelled.",)
WEEK_MS = 7 * DAY_MS


def render_comparison(found: Comparison, schema: Schema) -> str:
    """Give the page; the same comparison gives the same bytes."""
    digits = schema.minor_digits
    views = [(part.name.capitalize(), side_table("", part, digits)) for part in views_of(found)]
    return render_page(
        "comparison.html",
        verdict=verdict(found),
        notes=list(notes(found)),
        lines=_facts(found, schema),
        quality=side_table("at equal budget", found.equal_budget, digits),
        sections=(
            Section(
                "catches", "Who catches what?", (_overlap(found, digits),),
                tables=(
                    *views[1:],
                    ("How well the scores order events", ranking_table(found)),
                ),
            ),
            Section("weeks", "Week by week", (_weeks(found, digits),)),
            *_segments(found, digits),
        ),
    )  # fmt: skip


def _facts(found: Comparison, schema: Schema) -> list[tuple[str, str]]:
    return [
        ("schema", schema.name),
        ("period", period_text(found.first_ms, found.last_ms) + ", UTC"),
        ("decisions", f"{found.decisions:,}, compared {found.equal_budget.decisions:,}"),
        ("labelled frauds", f"{found.equal_budget.frauds:,}"),
        ("currencies", ", ".join(found.currencies) or "none"),
    ]


def _overlap(found: Comparison, digits: int) -> Figure:
    views = [part for part in (found.equal_budget, found.acted) if part is not None]
    views = list({part.name: part for part in views}.values())
    rows: list[Row] = [
        {
            "name": title, "model": part.name,
            "value": getattr(part.overlap, f"{key}_minor") / 10**digits,
            "value_text": f"{money_text(getattr(part.overlap, f'{key}_minor'), digits)} of "
            f"{number(getattr(part.overlap, key))} frauds",
        }
        for part in views
        for key, title in CAUGHT_BY
    ]  # fmt: skip
    overlap = found.equal_budget.overlap
    says = (
        f"At equal budget {overlap.only_we:,} labelled frauds are caught by us alone, "
        f"{overlap.only_they:,} by the incumbent alone, {overlap.both:,} by both."
    )
    names = [title for _, title in CAUGHT_BY]
    frauds = found.equal_budget.frauds
    return Figure(
        key="overlap",
        title="Fraud money by who stops it",
        reading="A fraud that only one system stops is what the other misses. Frauds without a "
        "label are in no bar, above all those that the incumbent blocked.",
        says=(says,) if frauds else NOTHING,
        table=overlap_table(found, digits),
        plot=question_plots.bars(rows, "fraud money", tuple(part.name for part in views), names)
        if frauds
        else None,
    )


def _weeks(found: Comparison, digits: int) -> Figure:
    rows = [
        row
        for week in found.weeks
        for row in _rows(week.part, week.start_ms)
        if row["value"] is not None
    ]
    first, last = found.weeks[0].start_ms, found.weeks[-1].start_ms + WEEK_MS
    few = sum(week.part.frauds < FRAUDS_MIN for week in found.weeks)
    return Figure(
        key="value-detected",
        title="Share of the fraud money that is caught, at equal budget",
        reading="The same number of alerts each day. A hollow point stands on fewer than "
        f"{FRAUDS_MIN} labelled frauds and is mostly chance; young weeks still lack labels.",
        says=(f"{few:,} of {len(found.weeks):,} weeks have fewer than {FRAUDS_MIN} frauds.",)
        if rows
        else NOTHING,
        table=parts_table("week from", [week.part for week in found.weeks], digits),
        plot=plots.over_time(
            rows, "value", "share of fraud money", Frame((first, last), "week", SIDES)
        )
        if rows
        else None,
        wide=True,
    )


def _rows(part: Part, start_ms: int) -> Iterator[Row]:
    for model, side in zip(SIDES, (part.we, part.they), strict=True):
        yield {
            "model": model, "start_ms": start_ms, "value": side.value_detected,
            "value_text": value_text(side), "few": part.frauds < FRAUDS_MIN,
            "period": stretch_text(start_ms, start_ms + WEEK_MS), "events": part.labelled,
            "frauds": part.frauds,
        }  # fmt: skip


def _segments(found: Comparison, digits: int) -> Iterator[Section]:
    fields = list(dict.fromkeys(item.field for item in found.segments))
    figures = tuple(
        _segment(field, [item.part for item in found.segments if item.field == field], digits)
        for field in fields
    )
    if figures:
        yield Section("segments", "Where does each do better?", figures)


def _segment(field: str, parts: Sequence[Part], digits: int) -> Figure:
    rows: list[Row] = [
        {"name": part.name, "model": model, "value": side.value_detected,
         "value_text": value_text(side)}
        for part in parts
        for model, side in zip(SIDES, (part.we, part.they), strict=True)
        if side.value_detected is not None
    ]  # fmt: skip
    names = [part.name for part in parts if part.frauds]
    return Figure(
        key=f"segment-{re.sub(r'[^a-z0-9]', '-', field.lower())}",
        title=f"Share of the fraud money that is caught, by {field}",
        reading="At equal budget over all events: a system may spend more of its alerts here. "
        "Values without a labelled fraud have no bar.",
        says=(f"{len(names):,} of {len(parts):,} values have a labelled fraud.",),
        table=parts_table(field, parts, digits),
        plot=question_plots.bars(rows, "share of fraud money", SIDES, names) if rows else None,
    )
