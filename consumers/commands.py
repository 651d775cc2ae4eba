"""`fraudstream worker`, `trainer`, `monitor`, `alerts` and `label`."""

import asyncio
import getpass
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import click
import msgspec
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rich.console import Console
from rich.table import Table

from consumers.endpoint import metrics_endpoint
from consumers.monitor import run_monitor
from consumers.review_queue import ReviewQueue, send_label
from consumers.trainer import Trainer
from consumers.watchdog import end_soon
from consumers.worker import Worker
from pipeline.card_numbers import holds_card_number
from pipeline.errors import CommitError, SettingError
from pipeline.health import Health
from pipeline.keys import init_keys
from pipeline.metrics import trainer_registry, worker_registry
from pipeline.records import DecisionRecord
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from stack.check_kafka import demand_permissions
from stack.connections import current_settings, endpoints_of
from stack.redis_clients import redis_client
from stack.roles import ROLES
from stack.servers import Endpoints


def _parts() -> tuple[Settings, Schema, Endpoints]:
    settings = current_settings()
    return settings, load_schema(settings.schema), endpoints_of(settings)


def _serving(
    registry: CollectorRegistry, job: str, settings: Settings, health: Health
) -> AbstractContextManager[int]:
    return metrics_endpoint(
        registry,
        job=job,
        state_dir=settings.state_dir,
        host=settings.metrics_host,
        port=settings.metrics_port,
        health=health,
    )


def _ready(name: str, port: int, settings: Settings) -> None:
    click.echo(f"{name} ready: metrics http://{settings.metrics_host}:{port}/metrics", err=True)


@click.command()
def worker() -> None:
    """Score transactions, and join labels to their decisions.

    Run as many as you like: they share the partitions. Each is stopped by SIGTERM or Ctrl-C, and
    safe to kill: what it had not committed is done by another.
    """
    settings, schema, endpoints = _parts()
    demand_permissions(endpoints.kafka_servers, settings, ROLES["worker"])
    servers = {"kafka_servers": endpoints.kafka_servers, "redis_url": endpoints.redis_url}
    process = Worker(settings, schema, **servers)
    health = Health(live=process.stalls, ready=process.problems)
    with _serving(worker_registry(process.counts), "worker", settings, health) as port:
        asyncio.run(process.run(lambda: _ready("worker", port, settings)))


@click.command()
def trainer() -> None:
    """Learn from labels, one by one, and publish versions of the models.

    One at a time: a second trainer stands by, and goes on where the first ends.
    """
    settings, schema, endpoints = _parts()
    if not settings.kafka_servers and (made := init_keys(settings.keys_path)):
        # Servers that were started by a version without keys.
        click.echo(f"keys made in {settings.keys_path}: {', '.join(made)}", err=True)
    demand_permissions(endpoints.kafka_servers, settings, ROLES["trainer"])
    servers = {"kafka_servers": endpoints.kafka_servers, "redis_url": endpoints.redis_url}
    process = Trainer(settings, schema, **servers)
    health = Health(ready=process.problems)
    with _serving(trainer_registry(process.counts), "trainer", settings, health) as port:
        asyncio.run(_until_stopped(process, lambda: _ready("trainer", port, settings)))


async def _until_stopped(process: Trainer, on_ready: Callable[[], None]) -> None:
    stop = asyncio.Event()

    def end() -> None:
        stop.set()
        end_soon()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await process.run(stop, on_ready)
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise CommitError(f"Redis does not answer: {error}") from error


@click.command()
@click.option("--from-end", is_flag=True, help="Know nothing of what came before the start.")
def monitor(from_end: bool) -> None:
    """Measure quality and drift of what was decided, and serve them as metrics.

    It reads the logs from their beginning, and changes nothing. With --from-end the references of
    drift are pinned anew: that of the scores at once, that of the features after a month.
    """
    settings, _, endpoints = _parts()
    demand_permissions(endpoints.kafka_servers, settings, ROLES["monitor"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_monitor(
        settings,
        kafka_servers=endpoints.kafka_servers,
        stop=stop,
        on_ready=lambda port: _ready("monitor", port, settings),
        from_start=not from_end,
    )


@click.command()
@click.option(
    "--limit", default=20, show_default=True, help="At most so many, highest score first."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def alerts(limit: int, as_json: bool) -> None:
    """List what waits for review, with its reasons.

    Answer with `fraudstream label ID fraud` or `fraudstream label ID genuine`.
    """
    queue = _queue()
    found = queue.alerts(limit)
    if as_json:
        for decision in found:
            click.echo(msgspec.json.encode(_alert(decision)).decode())
        return
    Console().print(_alert_table(found, 10**queue.schema.minor_digits))
    click.echo(f"{len(found)} of {queue.count()} alerts")


@click.command()
@click.argument("transaction_id")
@click.argument("verdict", type=click.Choice(["fraud", "genuine"]))
@click.option("--by", default=getpass.getuser, help="Who says so [default: the user's name].")
@click.option("--json", "as_json", is_flag=True, help="The label as one JSON object.")
def label(transaction_id: str, verdict: str, by: str, as_json: bool) -> None:
    """Say that a transaction was fraud or genuine; the model learns from it."""
    if holds_card_number(by):
        raise SettingError("--by: expected a name, got a card number")
    queue = _queue()
    answer = queue.label(queue.find(transaction_id), is_fraud=verdict == "fraud", by=by)
    settings, schema, endpoints = _parts()
    send_label(answer, schema, endpoints.kafka_servers, LabelSigner.of(settings))
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    else:
        click.echo(f"sent {answer.label_id}: {transaction_id} is {verdict}, says {by}")


def _queue() -> ReviewQueue:
    settings, schema, endpoints = _parts()
    redis = redis_client(endpoints.redis_url)
    return ReviewQueue(redis, endpoints.kafka_servers, schema, settings.partitions)


def _alert(decision: DecisionRecord) -> dict[str, object]:
    return {
        "transaction_id": decision.transaction_id,
        "event_time": decision.event_time,
        "keys": decision.keys,
        "amount": decision.amount,
        "currency": decision.currency,
        "score": decision.score,
        "reasons": decision.reasons,
        "model_version": decision.model_version,
    }


def _alert_table(decisions: list[DecisionRecord], minor_units: int) -> Table:
    table = Table("transaction", "score", "amount", "keys", "reasons", box=None)
    for decision in decisions:
        table.add_row(
            decision.transaction_id,
            f"{decision.score:.3f}",
            f"{decision.amount / minor_units:.2f} {decision.currency}",
            " ".join(decision.keys.values()),
            ", ".join(f"{code} {value:+.1f}" for code, value in decision.reasons),
        )
    return table
