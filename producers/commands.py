"""`fraudstream publish` and `fraudstream simulate`.

The answer goes to stdout; the progress bar to stderr, and only on a terminal. Ctrl-C ends a run
as if the stream had ended: what is in flight is waited for, and the counts are given. The
settings come as the context's object.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.durations import parse_duration
from pipeline.errors import SettingError
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from producers.batch import EventBatch
from producers.feed import LabelOptions, limited, of_share
from producers.loop_options import CLOSED_LOOP_FRAUD_SCALE
from producers.present_system import with_present_system
from producers.simulator import Drift, SimulatorOptions, expected_transactions, simulate
from producers.tokens import Tokeniser
from stack.command_settings import current_settings

LABEL_DELAY = "7d"
SIMULATED_ENTITIES = ("card", "terminal")

_DEFAULT = SimulatorOptions()


class Duration(click.ParamType):
    """A span of time such as 7d or 90m; the command gets milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_duration(str(value))
        except SettingError as error:
            self.fail(str(error), param, ctx)


def moment_ms(moment: datetime | None) -> int | None:
    """Give a moment as it was typed, in UTC, in milliseconds since 1970."""
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)


class _Share(click.ParamType):
    name = "part/parts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        part, slash, parts = str(value).partition("/")
        are_numbers = slash and part.isdecimal() and parts.isdecimal()
        if not (are_numbers and 1 <= int(part) <= int(parts)):
            self.fail(f"expected a part such as 1/2 or 2/2 (got {value!r})", param, ctx)
        return int(part), int(parts)


class _Days(click.ParamType):
    name = "day,day"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(day) for day in str(value).split(",") if day)
        except ValueError:
            self.fail(f"expected day numbers such as 30,60 (got {value!r})", param, ctx)


_WORLD = (
    click.option("--customers", default=_DEFAULT.customers, help="Simulated cards."),
    click.option("--terminals", default=_DEFAULT.terminals, help="Simulated terminals."),
    click.option("--days", default=_DEFAULT.days, help="Simulated days."),
    click.option("--seed", default=_DEFAULT.seed, help="The same seed gives the same events."),
    click.option("--drift-day", type=int, help="From this day on amounts and frauds differ."),
    click.option(
        "--burst-days", type=_Days(), default=(), help="Days with a burst of card testing, 30,60."
    ),
    click.option(
        "--fraud-scale",
        type=float,
        help="How many times as many terminals and cards are compromised. "
        f"[default: {_DEFAULT.fraud_scale}; in a closed loop {CLOSED_LOOP_FRAUD_SCALE}]",
    ),
)


def incumbent_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option of a present system beside the simulated world."""
    return click.option(
        "--incumbent",
        is_flag=True,
        help="Simulated events say what a present system, a simple rule, thought of them; what it "
        "declined has no label.",
    )(command)


def world_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the simulated world."""
    for option in reversed(_WORLD):
        command = option(command)
    return command


@click.command(name="publish")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--simulate", "simulated", is_flag=True, help="Publish simulated events.")
@click.option("--rate", type=float, help="Transactions a second; without: as fast as possible.")
@click.option("--speedup", type=float, help="Seconds of event time in a second.")
@click.option(
    "--label-delay",
    type=Duration(),
    default=LABEL_DELAY,
    show_default=True,
    help="Event time from a transaction to its label: 7d, 90m, 30s, 0.",
)
@click.option("--label-share", default=1.0, help="Share of the genuine that get a label.")
@click.option("--labels-to-end", is_flag=True, help="Publish the labels still waiting as well.")
@click.option("--no-labels", is_flag=True, help="Publish no labels.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many transactions.")
@click.option(
    "--share",
    type=_Share(),
    help="Only this part of the partitions, 1/2 or 2/2; so several processes publish one stream. "
    "A --rate is then that of the part.",
)
@click.option("--sort", is_flag=True, help="Read the whole file and put it in time order.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@incumbent_option
@world_options
def publish_command(
    file: Path | None, simulated: bool, sort: bool, limit: int | None, as_json: bool, **options: Any
) -> None:
    """Publish a file's events, or simulated ones, and their labels to Kafka.

    FILE is CSV or Parquet with the columns of the schema in the settings. Card numbers in a field
    with `tokenise` leave as tokens.
    """
    if (file is not None) == simulated:
        raise click.UsageError("give either a FILE or --simulate")
    if options["incumbent"] and not simulated:
        raise click.UsageError("--incumbent is for --simulate: a FILE brings its own columns")
    settings = current_settings()
    schema = load_schema(settings.schema)
    labels = _labels(options)
    if file is None:
        world = world_of(options)
        batches, total = simulated_events(schema, world, incumbent=options["incumbent"])
    else:
        tokeniser = Tokeniser.of(settings, schema)
        batches, total = file_events(
            file, schema, labels=labels is not None, sort=sort, tokeniser=tokeniser
        )
    if limit is not None:
        batches, total = limited(batches, limit), min(limit, total or limit)
    if options["share"] is not None:
        part, parts = options["share"]
        batches = of_share(batches, part - 1, parts, partitions=settings.partitions)
        total = None if total is None else total // parts
    _publish(batches, total, settings, schema, labels, options, as_json=as_json)


@click.command(name="simulate")
@click.argument("out", type=click.Path(path_type=Path))
@incumbent_option
@world_options
def simulate_command(out: Path, **options: Any) -> None:
    """Write simulated events to a CSV or Parquet file, with label and scenario."""
    from producers.writing import write_events  # noqa: PLC0415 - pandas takes a second to import

    schema = load_schema(current_settings().schema)
    incumbent = options["incumbent"]
    batches, total = simulated_events(schema, world_of(options), incumbent=incumbent)
    with progress_bar(total) as show:
        count = write_events(out, _counted(batches, show), schema, incumbents=incumbent)
    click.echo(f"wrote {count:,} transactions to {out}")


def _labels(options: dict[str, Any]) -> LabelOptions | None:
    if options["no_labels"]:
        return None
    return LabelOptions(
        delay_ms=options["label_delay"],
        genuine_share=options["label_share"],
        to_end=options["labels_to_end"],
    )


def world_of(options: dict[str, Any]) -> SimulatorOptions:
    """Take a command's options of the simulated world together."""
    drift_day, fraud_scale = options["drift_day"], options["fraud_scale"]
    if fraud_scale is None:
        closed_loop = options.get("closed_loop", False)
        fraud_scale = CLOSED_LOOP_FRAUD_SCALE if closed_loop else _DEFAULT.fraud_scale
    return SimulatorOptions(
        customers=options["customers"],
        terminals=options["terminals"],
        days=options["days"],
        seed=options["seed"],
        drift=None if drift_day is None else Drift(day=drift_day),
        burst_days=options["burst_days"],
        fraud_scale=fraud_scale,
    )


def simulated_events(
    schema: Schema, world: SimulatorOptions, *, incumbent: bool = False
) -> tuple[Iterable[EventBatch], int | None]:
    """Give simulated events of the schema, and about how many there will be.

    With `incumbent` each says what a present system thought of it.
    """
    names = tuple(entity.name for entity in schema.entities)
    if names != SIMULATED_ENTITIES or schema.categories:
        raise SettingError(
            f"the simulator makes events of {' and '.join(SIMULATED_ENTITIES)} without "
            f"categories: schema {schema.name!r} is of another kind (try card)"
        )
    if schema.is_tokenised:
        raise SettingError(
            f"the simulator makes no card numbers, and schema {schema.name!r} has some to tokenise "
            "(try card)"
        )
    events = simulate(world)
    if not incumbent:
        return events, expected_transactions(world)
    if schema.incumbent is None:
        raise SettingError(
            f"schema {schema.name!r} has no [incumbent]: --incumbent needs its names"
        )
    return with_present_system(events, seed=world.seed), expected_transactions(world)


def file_events(
    file: Path, schema: Schema, *, labels: bool, sort: bool, tokeniser: Tokeniser | None
) -> tuple[Iterable[EventBatch], int | None]:
    """Give the events of a file, and how many there are."""
    from producers.datasets import count_rows, read_events  # noqa: PLC0415 - as above

    batches = read_events(file, schema, labels=labels, sort=sort, tokeniser=tokeniser)
    return batches, count_rows(file) if file.is_file() else None


def _publish(
    batches: Iterable[EventBatch],
    total: int | None,
    settings: Settings,
    schema: Schema,
    labels: LabelOptions | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from producers.publisher import Pace, Progress, Watch, publish  # noqa: PLC0415 - as above
    from stack.connections import kafka_servers_of  # noqa: PLC0415 - Kafka's and Redis' clients

    with stopped_by_signal() as stop, progress_bar(total) as show:

        def report(progress: Progress) -> None:
            day = datetime.fromtimestamp(progress.event_time_ms / 1_000, UTC)
            show(progress.transactions, f"{progress.rate:,.0f}/s  {day:%Y-%m-%d %H:%M}")

        published = publish(
            batches,
            schema,
            kafka_servers_of(settings),
            pace=Pace(rate=options["rate"], speedup=options["speedup"]),
            labels=labels,
            signer=LabelSigner.of(settings),
            watch=Watch(stop=stop, progress=report, total=total),
        )
    if as_json:
        click.echo(msgspec.json.encode(published).decode())
    else:
        rate = (published.transactions + published.labels) / max(published.seconds, 1e-9)
        click.echo(
            f"published {published.transactions:,} transactions and {published.labels:,} labels "
            f"in {published.seconds:,.1f} s ({rate:,.0f}/s), failed {published.failed:,}"
        )
    if published.failed:
        click.echo(f"error: Kafka did not acknowledge: {published.reason}", err=True)
        click.get_current_context().exit(1)


@contextmanager
def stopped_by_signal() -> Iterator[Callable[[], bool]]:
    """Give a question that is answered with true after Ctrl-C; a second Ctrl-C ends at once."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, remember)
    try:
        yield stopped.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(total: int | None) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar; gives what moves it to a count, with a text beside it."""
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Bar(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda count, text: bar.update(task, completed=count, description=text)


def _counted(
    batches: Iterable[EventBatch], show: Callable[[int, str], None]
) -> Iterator[EventBatch]:
    count = 0
    for batch in batches:
        yield batch
        count += len(batch)
        show(count, f"{count:,}")
