"""`fraudstream mode`, `block`, `allow`, `unlist`, `lists` and `controls`: what operators say.

`fraudstream models freeze`, `rollback` and `unfreeze` are here as well. Each word is a signed
record of the `controls` log, which every worker follows.
"""

import getpass
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from consumers.control_topic import ControlHistory, read_controls, send_control
from pipeline.controls import (
    Allow,
    Block,
    Control,
    Controls,
    Freeze,
    Listing,
    Rollback,
    SetMode,
    Unfreeze,
    Unlist,
)
from pipeline.durations import parse_duration
from pipeline.errors import DataError
from pipeline.records import MODES
from pipeline.schema import load_schema
from pipeline.signing import ControlSigner, ModelVerifier
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of

if TYPE_CHECKING:
    from consumers.model_topic import PublishedModels

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
WHY = click.option("--why", required=True, help="The reason, for those who read it later.")
BY = click.option("--by", default=getpass.getuser, help="Who says so [default: the user's name].")


def _listing_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.argument("entity"),
        click.argument("entity_id", metavar="ID"),
        click.option("--for", "span", help="How long from now, such as 7d; without: for ever."),
        click.option(
            "--until",
            type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
            help="UTC; events of this time and later are free.",
        ),
        WHY,
        BY,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("wanted", required=False, metavar="[observe|act]", type=click.Choice(MODES))
@click.option("--why", help="The reason; needed for a change.")
@BY
@JSON
def mode(wanted: str | None, why: str | None, by: str, as_json: bool) -> None:
    """Say whether decisions are acted on, or switch it: `mode observe` is the kill switch.

    Running workers follow within five seconds, between two batches.
    """
    if wanted is None:
        log = _history().log
        said = [each for _, each in log.records if isinstance(each, SetMode)]
        row: dict[str, object] = {"mode": log.state.mode, "offset": log.state.offset}
        row |= {"by": said[-1].by, "why": said[-1].why, "time": said[-1].time} if said else {}
        origin = f"by {said[-1].by}, {_day(said[-1].time)}: {said[-1].why}" if said else "settings"
        click.echo(
            msgspec.json.encode(row).decode() if as_json else f"{log.state.mode}  ({origin})"
        )
        return
    if not why:
        raise click.UsageError("a change of the mode needs --why")
    _say(SetMode(*_said(by, why), mode="act" if wanted == "act" else "observe"), as_json=as_json)


@click.command()
@_listing_options
def block(**given: Any) -> None:
    """Decline every event of an ENTITY (such as card or terminal) with this ID.

    It wins over an allow list. The score and what is learned stay as they are.
    """
    _list(Block, **given)


@click.command()
@_listing_options
def allow(**given: Any) -> None:
    """Approve every event of an ENTITY (such as card or terminal) with this ID.

    A block list wins over it. The score and what is learned stay as they are.
    """
    _list(Allow, **given)


@click.command()
@click.argument("entity")
@click.argument("entity_id", metavar="ID")
@WHY
@BY
def unlist(entity: str, entity_id: str, why: str, by: str) -> None:
    """Take an ENTITY's ID from the block list and the allow list, before its time."""
    _check_entity(entity)
    _say(_made(Unlist, *_said(by, why), entity=entity, id=entity_id))


@click.command()
@JSON
def lists(as_json: bool) -> None:
    """Show what is blocked and allowed, until when, by whom and why."""
    state = _history().log.state
    rows = [
        {"list": name, "entity": entry.entity, "id": entry.id, "until": entry.until}
        | {"by": entry.by, "why": entry.why, "time": entry.time}
        for name, entities in (("block", state.blocked), ("allow", state.allowed))
        for entries in entities.values()
        for entry in entries.values()
    ]
    _show(rows, as_json=as_json)


@click.command()
@click.option("--say-again", is_flag=True, help="Sign all that is in force with the current key.")
@click.option("--why", help="The reason; needed with --say-again.")
@BY
@JSON
def controls(say_again: bool, why: str | None, by: str, as_json: bool) -> None:
    """Show all that operators said, oldest first: who, when, why; and what was refused.

    With --say-again the mode, the lists and the version held are said once more: do this after
    `fraudstream keys rotate operator`, before the old key is retired and its words with it.
    """
    history = _history()
    if say_again:
        if not why:
            raise click.UsageError("--say-again needs --why")
        for control in _again(history.log.state, by, why):
            _say(control, as_json=as_json)
        return
    rows = [(offset, _row(offset, control)) for offset, control in history.log.records]
    rows += [
        (offset, {"offset": offset, "kind": f"refused: {fault}", "why": text})
        for offset, fault, text in history.refused
    ]
    _show([row for _, row in sorted(rows, key=lambda item: item[0])], as_json=as_json)
    if not as_json:
        click.echo(_in_force(history.log.state))


@click.command()
@WHY
@BY
def freeze(why: str, by: str) -> None:
    """Stay with the version in force: workers adopt no newer one until `unfreeze`.

    The trainer goes on learning and publishing, so nothing is lost.
    """
    settings = current_settings()
    servers = kafka_servers_of(settings)
    version = _history().log.state.pinned
    if version is None:
        pointer = _published(servers).champion(ModelVerifier(settings))
        if pointer is None:
            raise DataError("no version is published yet: there is nothing to stay with")
        version = pointer.version
    _say(Freeze(*_said(by, why), version=version))


@click.command()
@click.argument("version")
@WHY
@BY
def rollback(version: str, why: str, by: str) -> None:
    """Go back to a published VERSION, and stay with it until `unfreeze`.

    `fraudstream models list` shows which can be had; the trainer keeps the one that is held.
    """
    settings = current_settings()
    published = _published(kafka_servers_of(settings))
    if version not in published.snapshots:
        known = ", ".join(list(published.snapshots)[-3:]) or "none"
        raise DataError(f"version {version!r} is not published; the newest are: {known}")
    published.check(version, ModelVerifier(settings), river_pickle=settings.river_pickle)
    _say(Rollback(*_said(by, why), version=version))


@click.command()
@WHY
@BY
def unfreeze(why: str, by: str) -> None:
    """Follow the trainer again, after a freeze or a rollback."""
    _say(Unfreeze(*_said(by, why)))


def _again(state: Controls, by: str, why: str) -> Iterator[Control]:
    if state.mode_is_said:
        yield SetMode(*_said(by, why), mode=state.mode)
    for lists in (state.blocked, state.allowed):
        for entry in (entry for entries in lists.values() for entry in entries.values()):
            said = (*_said(by, why), entry.entity, entry.id, entry.until)
            yield type(entry)(*said)
    if state.pinned is not None:
        yield Freeze(*_said(by, why), version=state.pinned)


def _list(
    kind: type[Listing], *, entity: str, entity_id: str, span: str | None,
    until: datetime | None, why: str, by: str,
) -> None:  # fmt: skip
    if span is not None and until is not None:
        raise click.UsageError("--for and --until exclude each other")
    _check_entity(entity)
    end_ms = None if until is None else round(until.replace(tzinfo=UTC).timestamp() * 1_000)
    if span is not None:
        end_ms = _now_ms() + parse_duration(span)
    _say(_made(kind, *_said(by, why), entity=entity, id=entity_id, until=end_ms))


def _made(kind: type[Listing] | type[Unlist], *said: Any, **fields: Any) -> Control:
    """Make a record and look whether workers will understand it."""
    made = kind(*said, **fields)
    try:
        return msgspec.convert(msgspec.to_builtins(made), kind)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from error


def _said(by: str, why: str) -> tuple[str, str, str, int]:
    return f"control-{secrets.token_hex(8)}", by, why, _now_ms()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_entity(entity: str) -> None:
    names = [item.name for item in load_schema(current_settings().schema).keyed]
    if entity not in names:
        raise click.UsageError(f"ENTITY must be one of {', '.join(names)} (got {entity!r})")


def _published(servers: str) -> "PublishedModels":
    # Brings the models and their compiler, which the other commands can do without.
    from consumers.model_topic import read_models  # noqa: PLC0415

    return read_models(servers)


def _history() -> ControlHistory:
    settings = current_settings()
    return read_controls(kafka_servers_of(settings), load_schema(settings.schema), settings)


def _say(control: Control, *, as_json: bool = False) -> None:
    settings = current_settings()
    offset = send_control(kafka_servers_of(settings), control, ControlSigner(settings))
    row = _row(offset, control)
    if as_json:
        click.echo(msgspec.json.encode(row).decode())
    else:
        click.echo(f"said at {offset}: {row['kind']} {row['what']}, by {control.by}: {control.why}")


def _row(offset: int, control: Control) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(control)
    common = ("kind", "control_id", "by", "why", "time")
    what = " ".join(
        f"until {_day(value)}" if name == "until" else str(value)
        for name, value in row.items()
        if name not in common
    )
    return {"offset": offset, "kind": row["kind"], "what": what} | row


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    names = ("offset", "list", "kind", "what", "entity", "id", "until", "time", "by", "why")
    shown = [name for name in names if any(name in row for row in rows)]
    if any("kind" in row for row in rows):
        shown = ["offset", "kind", "what", "time", "by", "why"]
    table = Table(*shown, box=None)
    for row in rows:
        cells = (row.get(name) for name in shown)
        table.add_row(
            *("" if cell is None else _day(cell) if name in ("time", "until") else str(cell)
              for name, cell in zip(shown, cells, strict=True))
        )  # fmt: skip
    Console(highlight=False, soft_wrap=True).print(table)


def _in_force(state: Controls) -> str:
    origin = "" if state.mode_is_said else " (settings)"
    held = state.pinned or "none"
    counts = [sum(map(len, lists.values())) for lists in (state.blocked, state.allowed)]
    return (
        f"in force at {state.offset}: mode {state.mode}{origin}, version held {held}, "
        f"blocked {counts[0]:,}, allowed {counts[1]:,}"
    )


def _day(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S}Z"
