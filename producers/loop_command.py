"""`fraudstream loop`: a world that answers to what the workers decide."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline.schema import load_schema
from pipeline.signing import LabelSigner
from producers.closed_loop import ClosedLoop
from producers.commands import (
    file_events,
    progress_bar,
    simulated_events,
    stopped_by_signal,
    world_of,
    world_options,
)
from producers.feed import limited
from producers.live_loop import PATIENCE_SECONDS, Closed, publish_closed
from producers.loop_options import loop_of, loop_options, report_lines
from producers.publisher import Pace, Progress, Watch
from producers.tokens import Tokeniser
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of


@click.command(name="loop")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--rate", type=float, help="Transactions a second; without: as fast as decided.")
@click.option("--speedup", type=float, help="Seconds of event time in a second.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many transactions.")
@click.option("--sort", is_flag=True, help="Read the whole file and put it in time order.")
@click.option("--labels-to-end", is_flag=True, help="Publish what is still on its way as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@loop_options
@world_options
def loop_command(
    file: Path | None,
    rate: float | None,
    speedup: float | None,
    limit: int | None,
    sort: bool,
    labels_to_end: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Publish simulated events, or those of FILE, and answer to what is decided of them.

    Reads the decisions and publishes labels and outcomes as they would come: of what was declined
    nothing is ever known, alerts are reviewed within a budget, fraud comes back as a chargeback
    after 20 to 90 days, and silence is all that the genuine give. Ctrl-C ends it.
    """
    settings, options = current_settings(), others | {"closed_loop": True}
    schema = load_schema(settings.schema)
    loop = loop_of(options, seed=options["seed"])
    assert loop is not None, "the loop of this command is closed"
    if file is None:
        batches, total = simulated_events(schema, world_of(options))
    else:
        tokeniser = Tokeniser.of(settings, schema)
        batches, total = file_events(file, schema, labels=True, sort=sort, tokeniser=tokeniser)
    if limit is not None:
        batches, total = limited(batches, limit), min(limit, total or limit)
    with stopped_by_signal() as stop, progress_bar(total) as show:
        closed = publish_closed(
            batches,
            schema,
            kafka_servers_of(settings),
            ClosedLoop(loop),
            signer=LabelSigner.of(settings),
            pace=Pace(rate=rate, speedup=speedup),
            watch=Watch(stop=stop, progress=_report_to(show), total=total),
            to_end=labels_to_end,
        )
    click.echo(_as_json(closed) if as_json else _as_text(closed, schema.minor_digits))
    _check(closed)


def _report_to(show: Callable[[int, str], None]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        day = datetime.fromtimestamp(progress.event_time_ms / 1_000, UTC)
        show(progress.transactions, f"{progress.rate:,.0f}/s  {day:%Y-%m-%d %H:%M}")

    return report


def _as_json(closed: Closed) -> str:
    return msgspec.json.encode(asdict(closed)).decode()


def _as_text(closed: Closed, minor_digits: int) -> str:
    published, report = closed.published, closed.report
    head = (
        f"published {published.transactions:,} transactions, {published.labels:,} labels and "
        f"{published.outcomes:,} outcomes in {published.seconds:,.1f} s, failed "
        f"{published.failed:,}"
    )
    decided = (
        f"decided  {report.decided + report.alerts_waiting:,}  undecided {closed.undecided:,}  "
        f"came again {closed.ignored:,}"
    )
    return "\n".join([head, decided, *report_lines(report, minor_digits)])


def _check(closed: Closed) -> None:
    """End with an error where Kafka failed, or where nobody decided."""
    if closed.published.failed:
        click.echo(f"error: Kafka did not acknowledge: {closed.published.reason}", err=True)
    elif closed.gave_up:
        click.echo(
            f"error: {closed.undecided:,} transactions got no decision within "
            f"{PATIENCE_SECONDS:.0f} s: does a worker run, and were these ids decided before?",
            err=True,
        )
    else:
        return
    click.get_current_context().exit(1)
