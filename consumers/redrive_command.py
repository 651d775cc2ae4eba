"""`fraudstream redrive`: list dead letters, show one whole, send them again after a fix."""

import getpass
import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar, get_args

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from consumers.dead_letters import DeadLetter
from consumers.redrive import (
    BATCH,
    INPUTS,
    DeadLetters,
    Filter,
    Mark,
    Marks,
    Outcome,
    Read,
    Redrive,
    Redriven,
    Sent,
    earlier_of,
)
from pipeline.durations import parse_duration
from pipeline.errors import REASON_HELP, REASONS, DataError, SettingError
from stack.command_settings import current_settings
from stack.connections import endpoints_of, kafka_servers_of
from stack.redis_clients import redis_client

# What a table shows of a message; `show` has all of it.
MESSAGE_WIDTH = 76
UNCONFIRMED_SHOWN_MAX = 20
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

Command = TypeVar("Command", bound=Callable[..., Any])


class _Moment(click.ParamType):
    """A moment in ISO 8601, UTC unless it says otherwise, or a duration before now."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return _now_ms() - parse_duration(str(value))
        except SettingError:
            pass
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"expected 2h, or 2026-11-25T13:00 (got {value!r})", param, ctx)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)


class _Place(click.ParamType):
    """Partition and offset in `dead-letters`."""

    name = "p:offset"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        partition, _, offset = str(value).partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            self.fail(f"expected partition:offset, such as 2:17 (got {value!r})", param, ctx)
        return int(partition), int(offset)


_FILTERS = (
    click.option("--reason", "reasons", multiple=True, type=click.Choice(REASONS),
                 help="Of this reason; may be repeated, as those below."),
    click.option("--topic", "topics", multiple=True, type=click.Choice(INPUTS),
                 help="Of records of this topic."),
    click.option("--id", "ids", multiple=True, help="Of this key, or with this id in the value."),
    click.option("--at", "places", multiple=True, type=_Place(), help="Where dead-letters has it."),
    click.option("--since", "since_ms", type=_Moment(),
                 help="Published from then on: 2h (ago), or 2026-11-25T13:00 (UTC)."),
    click.option("--until", "until_ms", type=_Moment(), help="Published before then."),
    click.option("--text", default="", help="Whose message holds this."),
)  # fmt: skip


def _filtered(command: Command) -> Command:
    """Give a command the options that say which dead letters are meant."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _filter(given: dict[str, Any]) -> Filter:
    sets = ("reasons", "topics", "ids", "places")
    fields: dict[str, Any] = {
        name: frozenset(value) if name in sets else value for name, value in given.items()
    }
    return Filter(**fields)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _marks() -> Marks:
    return Marks(redis_client(endpoints_of(current_settings()).redis_url))


def _servers() -> str:
    return kafka_servers_of(current_settings())


@click.group()
def redrive() -> None:
    """List dead letters, and send them again after a fix, each at most once."""


@redrive.command("list")
@_filtered
@click.option("--limit", default=20, show_default=True, help="At most so many.")
@click.option("--oldest", is_flag=True, help="The oldest first, instead of the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_letters(limit: int, oldest: bool, as_json: bool, **given: Any) -> None:
    """List dead letters, newest first; one that was published twice is listed once."""
    letters, marks = DeadLetters(_servers()), _marks()
    matched = 0

    def counted() -> Iterator[Read]:
        nonlocal matched
        for item in letters.read(_filter(given)):
            matched += 1
            yield item

    choose = heapq.nsmallest if oldest else heapq.nlargest
    shown = [(item, marks.get(item.letter.source)) for item in choose(limit, counted(), key=_order)]
    if as_json:
        for item, mark in shown:
            click.echo(_json(_described(item, mark)))
        return
    table = Table("at", "published", "topic", "reason", "message", "again", box=None)
    for item, mark in shown:
        said = item.letter.said
        row = (item.letter.place, _time(item.published_ms), said["topic"], said["reason"])
        table.add_row(*row, said.get("message", "")[:MESSAGE_WIDTH], _state(mark))
    Console(highlight=False, markup=False).print(table)
    click.echo(f"{len(shown):,} of {matched:,} dead letters")


@redrive.command()
@click.argument("place", type=_Place())
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(place: tuple[int, int], as_json: bool) -> None:
    """Show the dead letter at PLACE (partition:offset) whole: headers, bytes, what mends it."""
    item = DeadLetters(_servers()).at(*place)
    letter, mark = item.letter, _marks().get(item.letter.source)
    if as_json:
        headers = [(name, _text(value)) for name, value in letter.headers]
        whole = {"key": _text(letter.key), "value": _text(letter.value), "headers": headers}
        click.echo(_json(_described(item, mark) | whole | _hints(letter)))
        return
    table = Table(box=None, show_header=False)
    table.add_row("at", letter.place)
    table.add_row("published", _time(item.published_ms))
    for name, text in letter.said.items():
        table.add_row(name, text)
    for name, value in letter.headers:
        table.add_row(f"header {name}", _text(value))
    if earlier := earlier_of(letter):
        table.add_row("earlier", f"sent again before, as the dead letter {earlier}")
    table.add_row("again", _state(mark) or "not yet")
    table.add_row("key", _text(letter.key))
    table.add_row("value", _text(letter.value))
    for name, text in _hints(letter).items():
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)


@redrive.command()
@_filtered
@click.option("--yes", is_flag=True, help="Send without asking.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--force", is_flag=True, help="Also those that the same bytes do not mend.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--by", default=getpass.getuser, help="Who does it [default: the user's name].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, then the sum.")
def send(
    yes: bool, dry_run: bool, force: bool, limit: int | None, by: str, as_json: bool, **given: Any
) -> None:
    """Send dead letters again, each at most once, to the topic they came from.

    Mend the cause first: a record that fails again is a new dead letter. A mark in Redis is set
    before each is sent, so a second run sends nothing twice; a crash in between loses that one,
    and every run says so. Exit 0 when all that were meant are sent, now or before; else 1.
    """
    letters, wanted, marks = DeadLetters(_servers()), _filter(given), _marks()
    with Redrive(_servers(), marks, by=by, force=force, now_ms=_now_ms) as run:
        done = Redriven()
        for item in islice(letters.read(wanted), limit):
            done.add(run.plan(item))
        # What would be is an answer only where nothing is done.
        _say(done, "to be sent again", err=not dry_run, as_json=as_json and dry_run)
        if not dry_run:
            if done.outcomes["sent"] and not yes:
                click.confirm(f"Send {done.outcomes['sent']:,} again?", abort=True, err=True)
            done = _send(run, islice(letters.read(wanted), limit), done, as_json=as_json)
            marks.count(done.outcomes)
            marks.prune(letters.begins, _now_ms())
            _say(done, "sent again", err=False, as_json=as_json)
    if not done.is_clean:
        raise DataError("not all that were meant are sent: see above")


@redrive.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """Show how many records were sent again, and marks that nobody confirmed.

    A run that was killed leaves them: whether Kafka has the record is not known, and it is not
    sent again. `fraud.redrive.source` among the headers of its topic tells.
    """
    marks = _marks()
    ledger, found = marks.ledger(), marks.all()
    unconfirmed = {source: mark for source, mark in found.items() if mark.landed is None}
    if as_json:
        listed = {source: msgspec.to_builtins(mark) for source, mark in unconfirmed.items()}
        click.echo(_json({"ledger": ledger, "marked": len(found), "unconfirmed": listed}))
        return
    for name in OUTCOMES:
        click.echo(f"{name:12} {ledger.get(name, 0):,}, all runs together")
    click.echo(f"{len(found):,} records are marked as sent again, {len(unconfirmed):,} unconfirmed")
    for source, mark in islice(unconfirmed.items(), UNCONFIRMED_SHOWN_MAX):
        click.echo(f"  {source}, dead letter {mark.letter}, {_time(mark.at_ms)} by {mark.by}")


def _send(run: Redrive, items: Iterator[Read], planned: Redriven, *, as_json: bool) -> Redriven:
    done = Redriven()
    with _progress(planned.outcomes.total()) as report:
        while batch := list(islice(items, BATCH)):
            for sent in run.send(batch):
                done.add(sent)
                _say_one(sent, as_json=as_json)
            report(done.outcomes.total())
    return done


def _order(item: Read) -> tuple[int, int, int]:
    return item.published_ms, item.letter.partition, item.letter.offset


def _described(item: Read, mark: Mark | None) -> dict[str, object]:
    letter = item.letter
    return {
        "at": letter.place,
        "published_ms": item.published_ms,
        **letter.said,
        "earlier": earlier_of(letter),
        "again": None if mark is None else msgspec.to_builtins(mark),
    }


def _hints(letter: DeadLetter) -> dict[str, str]:
    hints: dict[str, str] = {}
    for reason, text in REASON_HELP.items():
        if reason == letter.said["reason"]:
            hints |= {"meaning": text.meaning, "mend": text.mend}
    if letter.is_masked:
        hints["mend"] = "never sent again: card numbers are masked, the bytes are not the original"
    return hints


def _text(data: bytes | None) -> str:
    return "(none)" if data is None else data.decode("utf-8", "backslashreplace")


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _state(mark: Mark | None) -> str:
    if mark is None:
        return ""
    return f"sent to {mark.landed}" if mark.landed else "marked, not confirmed"


def _json(record: object) -> str:
    return msgspec.json.encode(record).decode()


def _say_one(sent: Sent, *, as_json: bool) -> None:
    """Say what became of one; people are told of those alone that something is the matter with."""
    letter = sent.letter
    if as_json:
        record = {"at": letter.place, "source": letter.source, "outcome": sent.outcome}
        click.echo(_json(record | {"why": sent.why, "landed": sent.landed}))
    elif sent.outcome in ("failed", "unconfirmed"):
        click.echo(f"{letter.place} {sent.outcome}: {sent.why}", err=True)


def _say(done: Redriven, verb: str, *, err: bool, as_json: bool) -> None:
    outcomes = done.outcomes
    if as_json:
        counts: dict[str, int] = {name: outcomes[name] for name in OUTCOMES}
        record: dict[str, object] = {"matched": outcomes.total(), **counts}
        click.echo(_json(record | {"refusals": dict(done.refusals)}), err=err)
        return
    words: Sequence[tuple[int, str]] = (
        (outcomes["sent"], verb),
        (outcomes["skipped"], "sent before"),
        (outcomes["unconfirmed"], "marked and not confirmed, so perhaps lost"),
        (outcomes["failed"], "failed"),
        (outcomes["refused"], "refused"),
    )
    parts = [f"{number:,} {text}" for number, text in words if number or text == verb]
    click.echo(f"{outcomes.total():,} dead letters: {', '.join(parts)}", err=err)
    for why, number in done.refusals.most_common():
        click.echo(f"  {number:,} {why}", err=err)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("redrive"),
        BarColumn(),
        TextColumn("{task.completed:,} dead letters"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("redrive", total=total)
        yield lambda completed: progress.update(task, completed=completed)
