"""`fraudstream rules`: list the rules, check a file of them, and say what they have caught."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.table import Table

from consumers.log_reader import LogReader
from pipeline.records import ACTIONS
from pipeline.rules import Rules, load_rules, parse_rules, read_rules
from pipeline.schema import load_schema
from pipeline.topics import DECISIONS, TRAINING
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of

if TYPE_CHECKING:
    from pipeline.monitoring import Monitor

HEADER = (
    *("rule", "state", "action", "hits", "labelled", "frauds", "precision"),
    *("money_caught", "money_of_false_alarms"),
)


@click.group()
def rules() -> None:
    """List and check rules, and say what they have caught (docs/rules.md)."""


@rules.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_rules(as_json: bool) -> None:
    """List the rules of the settings: code, state, action, conditions."""
    settings = current_settings()
    found = load_rules(settings, load_schema(settings.schema))
    rows: list[dict[str, object]] = [
        {
            "rule": rule.code,
            "state": rule.state,
            "action": ACTIONS[rule.action],
            "when": list(rule.when),
            "description": rule.description,
            "rules_version": found.version,
        }
        for rule in found.rules
    ]
    if as_json:
        _as_json(rows)
        return
    table = Table("rule", "state", "action", "when", box=None)
    for rule in found.rules:
        table.add_row(rule.code, rule.state, ACTIONS[rule.action], " and ".join(rule.when))
    _console().print(table)
    click.echo(f"version {found.version}")


@rules.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Say whether a worker would take FILE, and if not, where it is wrong."""
    schema = load_schema(current_settings().schema)
    found = parse_rules(read_rules(file), schema, place=str(file))
    count = {
        state: sum(rule.state == state for rule in found.rules)
        for state in ("act", "shadow", "fallback")
    }
    said = ", ".join(f"{number} {state}" for state, number in count.items())
    click.echo(f"{file}: {len(found.rules)} rules ({said}), version {found.version}")


@rules.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def stats(as_json: bool) -> None:
    """Say for each rule how often it held, and what the labels say of it.

    Reads all that `decisions` and `training` hold. Hits of a rule that watches count as well: so
    is seen what it would have done.
    """
    # Its detectors take seconds to import, and only this needs them.
    from consumers.monitor import observe  # noqa: PLC0415
    from pipeline.monitoring import Monitor  # noqa: PLC0415

    settings = current_settings()
    schema = load_schema(settings.schema)
    found = load_rules(settings, schema)
    monitor = Monitor(window_events=1, rule_codes=[rule.code for rule in found.rules])
    for topic in (DECISIONS, TRAINING):
        with LogReader(kafka_servers_of(settings), topic) as reader:
            for chunk in reader.chunks():
                observe(monitor, topic, chunk)
    rows = _rows(monitor, found, 10**schema.minor_digits)
    if as_json:
        _as_json(rows)
        return
    table = Table(*(name.replace("_", " ") for name in HEADER), box=None)
    for row in rows:
        table.add_row(*(_text(row[name]) for name in HEADER))
    _console().print(table)


def _rows(monitor: "Monitor", rules: Rules, major: int) -> list[dict[str, object]]:
    known = {rule.code: (rule.state, ACTIONS[rule.action]) for rule in rules.rules}
    rows: list[dict[str, object]] = []
    for item in monitor.rules.numbers:
        state, action = known.get(item.rule, ("not in the file", ""))
        values = (
            *(item.rule, state, action, item.hits, item.frauds + item.genuine, item.frauds),
            *(item.precision, item.fraud_minor / major, item.genuine_minor / major),
        )
        rows.append(dict(zip(HEADER, values, strict=True)))
    return rows


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _as_json(rows: list[dict[str, object]]) -> None:
    for row in rows:
        click.echo(msgspec.json.encode(row).decode())


def _console() -> Console:
    console = Console(highlight=False)
    return Console(highlight=False, width=max(console.width, 160))
