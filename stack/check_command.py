"""`fraudstream check`: says in plain words what is wrong with the servers, and how to mend it."""

import sys
from collections.abc import Iterator

import click
import msgspec

from pipeline.errors import FraudstreamError
from pipeline.keys import LABELS, PRIVATE, PUBLIC
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from stack.check_kafka import check_kafka
from stack.check_records import check_records
from stack.check_redis import check_redis
from stack.command_settings import current_settings
from stack.connections import endpoints_of
from stack.findings import Finding, Status, ok, problem, warning
from stack.kafka_address import Kafka
from stack.redis_clients import RedisServer
from stack.roles import READ, ROLES

COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "red"}
KEY_FOLDERS = {
    "producer": (LABELS,), "worker": (LABELS, PUBLIC), "trainer": (PRIVATE,), "console": (LABELS,),
    "backfill": (PRIVATE, PUBLIC), "operator": (PRIVATE,),
}  # fmt: skip


@click.command()
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    default="worker",
    show_default=True,
    help="What the process does that runs with these settings.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def check(role: str, as_json: bool) -> None:
    """Test settings, connections, certificates, topics, permissions, clocks and records.

    Nothing is changed. Each line is ok, a warning or a problem; with a problem the exit code is 1.
    """
    statuses = set()
    for finding in findings(current_settings(), role):
        statuses.add(finding.status)
        if as_json:
            click.echo(msgspec.json.encode(finding).decode())
            continue
        mark = click.style(f"{finding.status:<8}", fg=COLOURS[finding.status])
        click.echo(f"{mark} {finding.about}: {finding.text}")
    if "problem" in statuses:
        sys.exit(1)


def findings(settings: Settings, role: str) -> Iterator[Finding]:
    """Look at everything that a role needs."""
    try:
        schema: Schema | None = load_schema(settings.schema)
        yield ok("settings", "they fit together")
    except FraudstreamError as error:
        schema = None
        yield problem("schema", str(error))
    yield from _keys(settings, role)
    try:
        endpoints = endpoints_of(settings)
    except FraudstreamError as error:
        yield problem("settings", str(error))
        return
    kafka, redis_url = endpoints.kafka_servers, endpoints.redis_url
    assert isinstance(kafka, Kafka)
    assert isinstance(redis_url, RedisServer)
    found = list(check_kafka(kafka, settings, ROLES[role]))
    yield from found
    can_read = READ in ROLES[role].topics.get(TRANSACTIONS, ())
    name = f"topic {kafka.topic(TRANSACTIONS)}"
    is_readable = any(item.about == name for item in found) and not any(
        item.status == "problem" and item.about == name for item in found
    )
    if can_read and is_readable and schema is not None:
        yield from check_records(kafka, settings, schema)
    if ROLES[role].commands:
        yield from check_redis(redis_url, ROLES[role])


def _keys(settings: Settings, role: str) -> Iterator[Finding]:
    for folder in KEY_FOLDERS.get(role, ()):
        place = settings.keys_path / folder
        try:
            is_there = any(place.iterdir())
        except OSError:
            is_there = False
        if not is_there:
            yield warning("keys", f"{place} has none: make or copy them (docs/keys.md)")
