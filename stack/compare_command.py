"""`fraudstream compare`: what we decided beside what the system did that a team has."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import click
import msgspec
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Column
from rich.table import Table as DrawnTable

from consumers.log_reader import LogReader
from pipeline.comparison.columns import ComparisonLog
from pipeline.comparison.compare import Comparison, compare
from pipeline.comparison.reading import AMOUNT, check_segments, decided_of, take_labels
from pipeline.comparison.words import notes, tables, verdict
from pipeline.errors import DataError
from pipeline.mistakes import Costs
from pipeline.quality.budget import ALERTS_A_DAY
from pipeline.reporting.words import Table, period_text
from pipeline.schema import Schema, load_schema
from pipeline.topics import DECISIONS, TRAINING
from producers.commands import moment_ms, progress_bar
from producers.comparison_files import read_decision_file, read_label_file
from producers.datasets import count_rows
from producers.report_file import ReportFile
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of

# What the widest table takes.
WIDTH_MIN = 150


@click.command(name="compare")
@click.option("--from", "start", type=click.DateTime(), help="Only events from this moment (UTC).")
@click.option("--to", "end", type=click.DateTime(), help="Only events before this moment (UTC).")
@click.option(
    "--decisions", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Decisions from this file (.parquet of `replay --decisions`, or .jsonl), not from Kafka.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --decisions: labels from this file (.csv, .parquet, .jsonl). "
    "[default: the truth beside the decisions]",
)  # fmt: skip
@click.option(
    "--segment", "segments", multiple=True, metavar="NAME",
    help=f"Also by this entity or category, or by {AMOUNT} (bands); may be repeated.",
)  # fmt: skip
@click.option(
    "--alerts-a-day", type=click.IntRange(min=1), default=ALERTS_A_DAY, show_default=True,
    help="k: how many of the highest scores of a day are looked at where scores are compared.",
)  # fmt: skip
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def compare_command(
    start: datetime | None,
    end: datetime | None,
    decisions: Path | None,
    labels: Path | None,
    segments: tuple[str, ...],
    alerts_a_day: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Compare our decisions with those of the incumbent, the system that you have.

    Events carry what it said in the fields of [incumbent] of the schema. Decisions and labels are
    read from Kafka, or from files. Exit 1 where no decision says what the incumbent thought.
    """
    if labels is not None and decisions is None:
        raise click.UsageError("--labels needs --decisions: Kafka has its own")
    settings = current_settings()
    schema = load_schema(settings.schema)
    check_segments(schema, segments)
    page = None if html is None else ReportFile(html)
    log = ComparisonLog(moment_ms(start), moment_ms(end))
    if decisions is None:
        _read_topics(log, kafka_servers_of(settings), schema, segments)
    else:
        _read_files(log, decisions, labels, schema, segments)
    costs = Costs(settings.decline_cost_minor, settings.decline_cost_share)
    found = compare(log.columns(), costs, k=alerts_a_day)
    if as_json:
        click.echo(msgspec.json.encode(answer(found)).decode())
    else:
        _show(found, schema.minor_digits)
    if page is not None:
        # The plotting library takes a second to import, and only this needs it.
        from pipeline.reporting.comparison import render_comparison  # noqa: PLC0415

        page.save(render_comparison(found, schema))
        click.echo(f"report: {page.path}", err=True)


def answer(found: Comparison) -> dict[str, object]:
    """Give all that was found, and what it says in words, as one object."""
    said = {"verdict": verdict(found), "notes": list(notes(found))}
    return {**said, **msgspec.to_builtins(found)}


def _read_topics(log: ComparisonLog, servers: str, schema: Schema, segments: Sequence[str]) -> None:
    def decide(values: list[bytes | None]) -> None:
        log.decide(decided_of(values, segments, schema.minor_digits))

    try:
        # Labels first: each label's decision was there before it.
        _read_topic(servers, TRAINING, lambda values: take_labels(log, values))
        _read_topic(servers, DECISIONS, decide)
    except KafkaError as error:
        raise DataError(f"Kafka at {servers} does not answer: {error}") from error


def _read_topic(servers: str, topic: str, take: Callable[[list[bytes | None]], None]) -> None:
    with LogReader(servers, topic) as reader:
        begins, ends = reader.begins, reader.ends
        count, total = 0, sum(ends[number] - begins[number] for number in ends)
        with progress_bar(total) as show:
            for records in reader.chunks(ends):
                take([record.value for record in records])
                count += len(records)
                show(count, f"{topic} {count:,}")


def _read_files(
    log: ComparisonLog, decisions: Path, labels: Path | None, schema: Schema,
    segments: Sequence[str],
) -> None:  # fmt: skip
    if labels is not None:
        read_label_file(log, labels, schema)
    with progress_bar(count_rows(decisions)) as show:
        read_decision_file(
            log, decisions, schema, segments, truth=labels is None,
            show=lambda count: show(count, f"{count:,}"),
        )  # fmt: skip


def _show(found: Comparison, minor_digits: int) -> None:
    console = Console(highlight=False)
    wide = Console(highlight=False, width=max(console.width, WIDTH_MIN))
    console.print(f"period     {period_text(found.first_ms, found.last_ms)}")
    compared = found.equal_budget.decisions
    console.print(f"decisions  {found.decisions:,}, compared {compared:,}\n")
    console.print(f"[bold]{verdict(found)}[/]\n")
    for table in tables(found, minor_digits):
        if table.rows:
            wide.print(_drawn(table))
            console.print()
    for note in notes(found):
        console.print(f"Note: {note}")


def _drawn(table: Table) -> DrawnTable:
    # Lines are never broken: a table that is cut into pieces can be neither read nor searched.
    first, *others = table.header
    drawn = DrawnTable(
        Column(first, no_wrap=True),
        *(Column(head, no_wrap=True, justify="right") for head in others),
        box=None,
    )
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
