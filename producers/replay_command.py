"""`fraudstream replay FILE`: stored events through the core, with labels at their true delay."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from models.snapshot import Snapshot, decode
from pipeline.engine import Decisions
from pipeline.features import feature_table
from pipeline.records import ACTIONS
from pipeline.replay import Replay, ReplayOptions, ReplayResult
from pipeline.reporting.report import make_report
from pipeline.reporting.run_log import RunLog
from pipeline.reporting.words import period_text, quality_table
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from producers.batch import EventBatch
from producers.closed_loop import ClosedLoop
from producers.commands import Duration, simulated_events, world_of, world_options
from producers.datasets import count_rows, read_events
from producers.loop_options import closed_loop_option, loop_of, loop_options, report_lines
from producers.report_file import ReportFile
from stack.connections import current_settings

# Rows that a row group of the decisions file has, at least.
ROW_GROUP_EVENTS = 50_000
DECISIONS_SCHEMA = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("event_time", pa.timestamp("ms", tz="UTC")),
        ("score", pa.float64()),
        ("action", pa.string()),
        ("model_version", pa.string()),
    ]
)


class DecisionFile:
    """Decisions as Parquet; what was written until an interrupt is a whole file."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, DECISIONS_SCHEMA)
        self._columns: list[list[Any]] = [[] for _ in DECISIONS_SCHEMA]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, decisions: Decisions) -> None:
        """Take a batch of decisions."""
        batch = (
            decisions.transactions.transaction_id,
            decisions.transactions.event_time_ms.tolist(),
            decisions.scores.tolist(),
            [ACTIONS[action] for action in decisions.actions.tolist()],
            [decisions.model_version] * len(decisions),
        )
        for column, values in zip(self._columns, batch, strict=True):
            column.extend(values)
        if len(self._columns[0]) >= ROW_GROUP_EVENTS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._columns, schema=DECISIONS_SCHEMA))
        self._columns = [[] for _ in DECISIONS_SCHEMA]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one replay does, as its options say."""

    title: str
    batches: Iterable[EventBatch]
    total: int | None
    schema: Schema
    settings: Settings
    options: ReplayOptions
    decisions: Path | None
    snapshot: Snapshot | None
    world: ClosedLoop | None
    log: RunLog | None


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--simulate", "simulated", is_flag=True, help="Replay simulated events.")
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True,
    help="Event time from an event to its label: 7d, 12h, 0.",
)  # fmt: skip
@click.option("--start", type=click.DateTime(), help="Measure quality from this moment on (UTC).")
@click.option("--end", type=click.DateTime(), help="Measure quality before this moment (UTC).")
@click.option(
    "--decisions", type=click.Path(dir_okay=False, path_type=Path), help="Parquet file to write."
)
@click.option(
    "--snapshot", "snapshot_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Score with the model in this file (`fraudstream models save`); needs --no-learn.",
)  # fmt: skip
@click.option("--no-learn", is_flag=True, help="Learn nothing; needs --snapshot.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@closed_loop_option
@loop_options
@world_options
def replay(
    file: Path | None,
    simulated: bool,
    label_delay: int,
    start: datetime | None,
    end: datetime | None,
    decisions: Path | None,
    snapshot_file: Path | None,
    no_learn: bool,
    report: Path | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Run the events of FILE (CSV or Parquet), or simulated ones, through the core, and measure.

    The same engine as the worker's; each label is learned when it would have become known. In a
    closed loop what becomes known depends on what was decided, and quality is measured against the
    truth. Ctrl-C ends it early with what was measured until then.
    """
    if (file is not None) == simulated:
        raise click.UsageError("give either a FILE or --simulate")
    if others["closed_loop"] and no_learn:
        raise click.UsageError("--closed-loop and --no-learn exclude each other")
    if no_learn != (snapshot_file is not None):
        raise click.UsageError(
            "--snapshot and --no-learn go together: a file's model is not taught"
        )
    settings = current_settings()
    options = ReplayOptions(label_delay, _milliseconds(start), _milliseconds(end))
    snapshot = decode(snapshot_file.read_bytes()) if snapshot_file else None
    if snapshot is not None:
        # The one model that runs is the one that is shown.
        settings = replace(settings, model=snapshot.model.name, challengers="none")
    schema = load_schema(settings.schema)
    page = None if report is None else ReportFile(report)
    log = None if page is None else _run_log(schema, options)
    title, batches, total = _events(file, schema, others)
    plan = _Plan(
        title=title,
        batches=batches,
        total=total,
        schema=schema,
        settings=settings,
        options=options,
        decisions=decisions,
        snapshot=snapshot,
        world=_closed_loop(options, others),
        log=log,
    )
    run = _run(plan)
    result = run.result
    click.echo(_as_json(result, plan)) if as_json else _show(result, plan)
    if page is not None and log is not None:
        _save_report(page, plan, run, log)
    if not result.finished:
        raise click.Abort


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)


def _events(
    file: Path | None, schema: Schema, others: dict[str, Any]
) -> tuple[str, Iterable[EventBatch], int | None]:
    """Give what the events are called, the events, and how many there are."""
    if file is not None:
        return file.name, read_events(file, schema), count_rows(file)
    batches, total = simulated_events(schema, world_of(others))
    return f"simulated, seed {others['seed']}", batches, total


def _closed_loop(options: ReplayOptions, others: dict[str, Any]) -> ClosedLoop | None:
    loop = loop_of(others, seed=others["seed"], start_ms=options.start_ms, end_ms=options.end_ms)
    return ClosedLoop(loop) if loop else None


def _run_log(schema: Schema, options: ReplayOptions) -> RunLog:
    names = [feature.name for feature in feature_table(schema)]
    return RunLog(names, label_delay_ms=options.label_delay_ms, reference_from_ms=options.start_ms)


def _run(plan: _Plan) -> Replay:
    batches = ((batch.transactions(), batch.is_fraud) for batch in plan.batches)
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(plan.total))
        watching = [] if plan.log is None else [plan.log.add_decisions]
        if plan.decisions is not None:
            watching.append(stack.enter_context(DecisionFile(plan.decisions)).add)

        def decided(batch: Decisions) -> None:
            for watch in watching:
                watch(batch)

        run = Replay(
            plan.schema,
            plan.settings,
            plan.options,
            decided=decided,
            settled=None if plan.log is None else plan.log.add_settled,
            snapshot=plan.snapshot,
            labels=plan.world,
        )
        run.run(batches, progress)
    return run


def _save_report(page: ReportFile, plan: _Plan, run: Replay, log: RunLog) -> None:
    # The plotting library takes a second to import, and only this needs it.
    from pipeline.reporting.page import render  # noqa: PLC0415

    found = make_report(
        plan.title,
        plan.schema,
        plan.settings,
        plan.options,
        run.result,
        run.scores.columns(),
        log,
    )
    page.save(render(found))
    click.echo(f"report: {page.path}", err=True)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[ReplayResult], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} events"),
        TextColumn("{task.fields[rate]:>9,.0f} events/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=total, rate=0.0)

        def report(result: ReplayResult) -> None:
            progress.update(
                task, completed=result.events + result.duplicates, rate=result.events_per_second
            )

        yield report


def _as_json(result: ReplayResult, plan: _Plan) -> str:
    names = (plan.settings.model, *plan.settings.challenger_names)
    quality = {name: asdict(found) for name, found in result.quality.items()}
    champion = quality.get(names[0], {})
    record = {
        "events": result.events,
        "events_per_second": round(result.events_per_second, 1),
        "seconds": round(result.seconds, 3),
        "finished": result.finished,
        "duplicates": result.duplicates,
        "actions": dict(result.actions),
        "labels": dict(result.labels),
        "model": names[0],
        "model_version": result.model_version,
        **{name: value for name, value in champion.items() if name != "events"},
        "events_measured": champion.get("events", 0),
        "models": quality,
    }
    if plan.world is not None:
        record["closed_loop"] = asdict(plan.world.report())
    return msgspec.json.encode(record).decode()


def _show(result: ReplayResult, plan: _Plan) -> None:
    measured = quality_table(result.quality)
    table = Table(*measured.header, box=None)
    for row in measured.rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(f"events   {result.events:,} in {result.seconds:.1f} s", end="")
    console.print(f" ({result.events_per_second:,.0f} events/s), duplicates {result.duplicates:,}")
    console.print(f"period   {period_text(result.first_ms, result.last_ms)}")
    console.print("actions ", *(f"{name} {count:,} " for name, count in result.actions.items()))
    console.print("labels  ", *(f"{name} {count:,} " for name, count in result.labels.items()))
    if plan.world is not None:
        for line in report_lines(plan.world.report(), plan.schema.minor_digits):
            console.print(line, soft_wrap=True)
    console.print(table)
