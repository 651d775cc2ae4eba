"""`fraudstream keys`: make, list, rotate and retire the keys of labels, models, controls and card
tokens.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.errors import KeyFileError, SettingError
from pipeline.keys import (
    LABEL_SOURCES,
    LABELS,
    PAIR_OWNERS,
    PRIVATE,
    PUBLIC,
    TOKENS,
    TOKENS_OWNER,
    KeyFolder,
    TokenKey,
    init_keys,
    label_keys,
    owner_of,
    private_keys,
    public_keys,
    retire,
    rotate,
    token_keys,
)
from pipeline.settings import Settings
from pipeline.tokens import KeysByTime
from stack.command_settings import current_settings

OWNERS = (*LABEL_SOURCES, *PAIR_OWNERS)
# Those of tokens are made only where they are asked for: who holds one and a token can try numbers.
ALL_OWNERS = (*OWNERS, TOKENS_OWNER)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def keys() -> None:
    """Make, list, rotate and retire the keys of labels, models, controls and card tokens.

    They are files in `keys_dir`: labels/ for those who sign labels and for the workers, private/
    for the trainer (models) and those who operate (operator), public/ for all who check, tokens/
    for producers that replace card numbers. Copy to a machine what it needs.
    """


@keys.command()
@click.option(
    "--source", "owners", type=click.Choice(ALL_OWNERS), multiple=True, help="Only of these."
)
@JSON
def init(owners: tuple[str, ...], as_json: bool) -> None:
    """Make a first key for every source, and pairs for models and operator, where there are none.

    `fraudstream up` and `fraudstream demo` do this by themselves. A production has no use for keys
    of `simulated`: name the sources that it has. A key of `card-tokens` is made only if named.
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
@click.argument("owner", metavar="SOURCE", type=click.Choice(ALL_OWNERS))
@click.option(
    "--from",
    "since",
    type=click.DateTime(),
    help="For card-tokens: the event time (UTC) from which on the new key is in force.",
)
@JSON
def rotate_key(owner: str, since: datetime | None, as_json: bool) -> None:
    """Make a new key for SOURCE (or `models`, `operator`); it signs from now on.

    The old one stays valid. Copy it to those who check first (workers), then to those who sign.
    Processes that run see it by themselves; a publisher takes it at its next start. Then retire the
    old one. One of `card-tokens` is for events from a moment on that is still to come: until then,
    copy it to every producer.
    """
    settings = current_settings()
    key_id = rotate(settings.keys_path, owner, from_ms=_from_ms(owner, since))
    _say([key_id], "made", settings, as_json=as_json)


@keys.command("retire")
@click.argument("key_id", metavar="KEYID")
@JSON
def retire_key(key_id: str, as_json: bool) -> None:
    """Delete a key: nothing that it signed is accepted any more, here.

    Do it on every machine that has a copy. Labels that were accepted stay. Before a key of the
    models goes, the trainer must have published a version with the new one; before one of the
    operator goes, what must hold is said again (`fraudstream controls --say-again`). Without a key
    of `card-tokens` no event of its time can be published from card numbers again.
    """
    settings = current_settings()
    is_tokens = owner_of(key_id) == TOKENS_OWNER
    if is_tokens and key_id == _in_force(token_keys(settings.keys_path)):
        raise KeyFileError(f"{key_id} makes the tokens now: retire it once another one does")
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
    tokens = token_keys(path)
    in_force = _in_force(tokens)
    for key_id in tokens.ids:
        key = tokens.get(key_id)
        assert key is not None, key_id
        role = "makes tokens" if key_id == in_force else "made tokens"
        if key.from_ms > _now_ms():
            role = f"makes tokens from {datetime.fromtimestamp(key.from_ms / 1_000, UTC):%F %T}Z on"
        yield {"key": key_id, "of": TOKENS_OWNER, "folders": [TOKENS], "role": role}


def _from_ms(owner: str, since: datetime | None) -> int:
    """Check a moment that a key is to be in force from."""
    if owner != TOKENS_OWNER:
        if since is not None:
            raise SettingError(f"--from is for {TOKENS_OWNER}: a key of {owner} signs at once")
        return 0
    if since is None:
        raise SettingError(
            f"a new key of {TOKENS_OWNER} needs --from, a moment (UTC) at which every producer "
            "has it: from then on each card has another token"
        )
    from_ms = round(since.replace(tzinfo=UTC).timestamp() * 1_000)
    if from_ms <= _now_ms():
        raise SettingError("--from must be still to come: events since then have their tokens")
    return from_ms


def _in_force(keys: KeyFolder[TokenKey]) -> str | None:
    found = [(key_id, keys.get(key_id)) for key_id in keys.ids]
    now = KeysByTime([(key_id, key) for key_id, key in found if key is not None]).at(_now_ms())
    return now[0] if now else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _say(ids: list[str], what: str, settings: Settings, *, as_json: bool) -> None:
    for key_id in ids:
        if as_json:
            row = {"key": key_id, "of": owner_of(key_id), "done": what}
            click.echo(msgspec.json.encode(row).decode())
        else:
            click.echo(f"{what} {key_id} in {settings.keys_path}")
