"""`fraudstream keys`: make, list, rotate and retire the keys of labels, models and controls."""

from collections.abc import Iterable
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.keys import (
    LABEL_SOURCES,
    LABELS,
    PAIR_OWNERS,
    PRIVATE,
    PUBLIC,
    init_keys,
    label_keys,
    owner_of,
    private_keys,
    public_keys,
    retire,
    rotate,
)
from pipeline.settings import Settings
from stack.connections import current_settings

OWNERS = (*LABEL_SOURCES, *PAIR_OWNERS)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def keys() -> None:
    """Make, list, rotate and retire the keys that labels, models and controls are signed with.

    They are files in `keys_dir`: labels/ for those who sign labels and for the workers, private/
    for the trainer (models) and those who operate (operator), public/ for all who check. Copy to a
    machine what it needs.
    """


@keys.command()
@click.option("--source", "owners", type=click.Choice(OWNERS), multiple=True, help="Only of these.")
@JSON
def init(owners: tuple[str, ...], as_json: bool) -> None:
    """Make a first key for every source, and pairs for models and operator, where there are none.

    `fraudstream up` and `fraudstream demo` do this by themselves. A production has no use for keys
    of `simulated`: name the sources that it has.
    """
    settings = current_settings()
    made = init_keys(settings.keys_path, owners or OWNERS)
    if not made and not as_json:
        click.echo(f"nothing to make: all keys are in {settings.keys_path}")
    _say(made, "made", settings, as_json=as_json)


@keys.command("list")
@JSON
def list_keys(as_json: bool) -> None:
    """List the keys that are here, and which of them sign."""
    rows = list(_rows(current_settings()))
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    table = Table("key", "of", "folders", "role", box=None)
    for row in rows:
        table.add_row(row["key"], row["of"], " ".join(row["folders"]), row["role"])
    Console(highlight=False).print(table)


@keys.command("rotate")
@click.argument("owner", metavar="SOURCE", type=click.Choice(OWNERS))
@JSON
def rotate_key(owner: str, as_json: bool) -> None:
    """Make a new key for SOURCE (or `models`, `operator`), which signs from now on.

    The old one stays valid. Copy it to those who check first (workers), then to those who sign.
    Processes that run see it by themselves; a publisher takes it at its next start. Then retire
    the old one.
    """
    settings = current_settings()
    _say([rotate(settings.keys_path, owner)], "made", settings, as_json=as_json)


@keys.command("retire")
@click.argument("key_id", metavar="KEYID")
@JSON
def retire_key(key_id: str, as_json: bool) -> None:
    """Delete a key: nothing that it signed is accepted any more, here.

    Do it on every machine that has a copy. Labels that were accepted stay. Before a key of the
    models goes, the trainer must have published a version with the new one; before one of the
    operator goes, what must hold is said again (`fraudstream controls --say-again`).
    """
    settings = current_settings()
    retire(settings.keys_path, key_id)
    _say([key_id], "retired", settings, as_json=as_json)


def _rows(settings: Settings) -> Iterable[dict[str, Any]]:
    path = settings.keys_path
    labels, private, public = label_keys(path), private_keys(path), public_keys(path)
    folders = ((LABELS, labels.ids), (PRIVATE, private.ids), (PUBLIC, public.ids))
    for key_id in dict.fromkeys((*labels.ids, *private.ids, *public.ids)):
        owner = owner_of(key_id)
        signs = private if owner in PAIR_OWNERS else labels
        current = signs.current(owner)
        yield {
            "key": key_id,
            "of": owner,
            "folders": [name for name, ids in folders if key_id in ids],
            "role": "signs" if current and current[0] == key_id else "checks",
        }


def _say(ids: list[str], what: str, settings: Settings, *, as_json: bool) -> None:
    for key_id in ids:
        if as_json:
            row = {"key": key_id, "of": owner_of(key_id), "done": what}
            click.echo(msgspec.json.encode(row).decode())
        else:
            click.echo(f"{what} {key_id} in {settings.keys_path}")
