"""`fraudstream scan`: card numbers where none may be. Exit 0: none, 1: found, 2: could not look."""

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from kafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from pipeline.card_numbers import mask_card_numbers_in_text
from pipeline.card_scan import CardScan
from pipeline.errors import FraudstreamError
from pipeline.topics import TOPICS
from producers.commands import progress_bar
from stack.command_settings import current_settings
from stack.connections import endpoints_of, kafka_servers_of
from stack.redis_clients import RedisServer, redis_client
from stack.scan_sources import files_of, scan_file, scan_page, scan_redis, scan_topic

SHOWN_MAX = 50
FOUND, COULD_NOT = 1, 2
PAGES = ("http://", "https://")


@click.command()
@click.argument("places", nargs=-1, metavar="[FILE|FOLDER|URL]...")
@click.option("--kafka", is_flag=True, help="Look at all topics of the system.")
@click.option("--topic", "topics", multiple=True, help="Look at this topic; may be repeated.")
@click.option("--redis", is_flag=True, help="Look at all keys of the Redis.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def scan(
    places: tuple[str, ...], kafka: bool, topics: tuple[str, ...], redis: bool, as_json: bool
) -> None:
    """Look for payment card numbers where none may be, and say where they stand.

    It reads topics, a Redis, files (text, logs, Parquet, .gz, snapshots), folders and pages of
    metrics, and shows no number: only where it is, how many digits it has, and a mark that is the
    same for the same number within this run. Exit 0: none found, 1: found, 2: wrong use, or
    something could not be looked at and nothing was found elsewhere.
    """
    if not (places or kafka or topics or redis):
        raise click.UsageError("say where to look: FILE, FOLDER, URL, --kafka, --topic or --redis")
    pages = [place for place in places if place.startswith(PAGES)]
    paths = [Path(place) for place in places if place not in pages]
    for path in paths:
        if not path.exists():
            raise click.UsageError(f"{path} does not exist")
    found = CardScan(secrets.token_bytes(32))
    names = [*(topic.name for topic in TOPICS if kafka), *topics]
    try:
        _look(found, dict.fromkeys(names), pages, paths, redis=redis)
    except (FraudstreamError, KafkaError, RedisError) as error:
        _could_not(error)
    if as_json:
        click.echo(msgspec.json.encode(_as_object(found)).decode())
    else:
        _show(found)
    if found.hits or found.not_read:
        click.get_current_context().exit(FOUND if found.hits else COULD_NOT)


def _look(
    found: CardScan, topics: dict[str, None], pages: list[str], paths: list[Path], *, redis: bool
) -> None:
    settings = current_settings()
    servers = kafka_servers_of(settings) if topics else ""
    with progress_bar(None) as show:
        done = 0

        def moved(count: int, what: str) -> None:
            nonlocal done
            done += count
            show(done, mask_card_numbers_in_text(what))

        for name in topics:
            scan_topic(found, servers, name, moved)
        if redis:
            # Where it is named, no Kafka need be.
            given = RedisServer.of(settings, settings.redis_url)
            with redis_client(given or endpoints_of(settings).redis_url) as client:
                scan_redis(found, client, moved)
        for page in pages:
            scan_page(found, page, moved)
    files = files_of(paths)
    with progress_bar(sum(file.stat().st_size for file in files)) as show:
        done = 0
        for file in files:
            scan_file(found, file, moved)


def _could_not(error: Exception) -> NoReturn:
    failed = click.ClickException(f"{type(error).__name__}: {error}")
    failed.exit_code = COULD_NOT
    raise failed from error


def _as_object(found: CardScan) -> dict[str, Any]:
    return {
        "found": found.hits.total(),
        "different_numbers": len(found.marks),
        "looked_at": dict(found.looked_at),
        "by_source": dict(found.hits),
        "places": [asdict(place) for place in found.places],
        "could_not_read": found.not_read,
    }


def _show(found: CardScan) -> None:
    if found.places:
        table = Table("where", "place", "digits", "mark", box=None)
        for place in found.places[:SHOWN_MAX]:
            table.add_row(place.where, place.place, str(place.digits), place.mark)
        Console(highlight=False, markup=False).print(table)
        more = found.hits.total() - min(len(found.places), SHOWN_MAX)
        if more:
            click.echo(f"and {more:,} more (--json lists up to {len(found.places):,})")
    for text in found.not_read:
        click.echo(f"could not read {text}", err=True)
    looked = ", ".join(f"{count:,} {kind}" for kind, count in found.looked_at.items())
    click.echo(
        f"{found.hits.total():,} card numbers found, {len(found.marks):,} different; "
        f"looked at {looked or 'nothing'}"
    )
