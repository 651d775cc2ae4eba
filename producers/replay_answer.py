"""What `fraudstream replay` answers: one JSON object, or tables for a terminal."""

from collections.abc import Iterator
from dataclasses import asdict

import msgspec
from rich.console import Console
from rich.table import Column, Table

from pipeline.quality.findings import Findings
from pipeline.replay import ReplayResult
from pipeline.reporting import words
from pipeline.reporting.question_words import (
    fold_table,
    rule_table,
    scenario_table,
    segment_table,
    what_if_table,
)
from pipeline.reporting.words import period_text, quality_table
from producers.loop_options import report_lines
from producers.replay_run import ReplayPlan

# What the widest table needs; a narrower terminal breaks its lines itself.
WIDTH_MIN = 180


def as_json(result: ReplayResult, findings: Findings, plan: ReplayPlan) -> str:
    """Give the answer as one JSON object; the champion's quality stands at its top."""
    quality = {name: asdict(found) for name, found in result.quality.items()}
    champion = quality.get(plan.settings.model, {})
    record = {
        "events": result.events,
        "events_per_second": round(result.events_per_second, 1),
        "seconds": round(result.seconds, 3),
        "finished": result.finished,
        "duplicates": result.duplicates,
        "conflicts": result.conflicts,
        "actions": dict(result.actions),
        "labels": dict(result.labels),
        "model": plan.settings.model,
        "model_version": result.model_version,
        **{name: value for name, value in champion.items() if name != "events"},
        "events_measured": champion.get("events", 0),
        "alerts_a_day": plan.options.alerts_a_day,
        "models": quality,
        **asdict(findings),
    }
    if plan.world is not None:
        record["closed_loop"] = asdict(plan.world.report())
    return msgspec.json.encode(record).decode()


def show(result: ReplayResult, findings: Findings, plan: ReplayPlan) -> None:
    """Print the answer as text."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, WIDTH_MIN))
    console.print(f"events   {result.events:,} in {result.seconds:.1f} s", end="")
    console.print(
        f" ({result.events_per_second:,.0f} events/s), duplicates {result.duplicates:,}", end=""
    )
    console.print(f", conflicts {result.conflicts:,}" if result.conflicts else "")
    console.print(f"period   {period_text(result.first_ms, result.last_ms)}")
    costs = (
        f"{item.model} {item.seconds:.2f} s ({item.cpu_seconds:.2f} s of the processor)"
        for item in findings.costs
    )
    console.print(f"models   {'  '.join(costs)}")
    console.print("actions ", *(f"{name} {count:,} " for name, count in result.actions.items()))
    console.print("labels  ", *(f"{name} {count:,} " for name, count in result.labels.items()))
    if plan.world is not None:
        for line in report_lines(plan.world.report(), plan.schema.minor_digits):
            console.print(line, soft_wrap=True)
    for table in _tables(result, findings, plan):
        if table.rows:
            console.print(_drawn(table))


def _tables(result: ReplayResult, findings: Findings, plan: ReplayPlan) -> Iterator[words.Table]:
    yield quality_table(result.quality, findings.intervals)
    if findings.folds is not None:
        yield fold_table(findings.folds, plan.fold_scheme)
    yield scenario_table(findings.scenarios)
    yield segment_table(findings.segments)
    yield rule_table(findings.rules, plan.schema.minor_digits)
    yield what_if_table(findings.what_if, plan.schema.minor_digits)


def _drawn(table: words.Table) -> Table:
    # Lines are never broken: a table that is cut into pieces can be neither read nor searched.
    drawn = Table(*(Column(head, no_wrap=True) for head in table.header), box=None)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
