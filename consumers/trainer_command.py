"""`fraudstream trainer`."""

import asyncio
import signal
from collections.abc import Callable

import click
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from consumers.serving import parts, say_ready, serving
from consumers.trainer import Trainer
from consumers.watchdog import end_soon
from pipeline.errors import CommitError
from pipeline.health import Health
from pipeline.keys import init_keys
from pipeline.metrics import trainer_registry
from stack.check_kafka import demand_permissions
from stack.roles import ROLES


@click.command()
def trainer() -> None:
    """Learn from labels, one by one, and publish versions of the models.

    One at a time: a second trainer stands by, and goes on where the first ends.
    """
    settings, schema, endpoints = parts()
    if not settings.kafka_servers and (made := init_keys(settings.keys_path)):
        # Servers that were started by a version without keys.
        click.echo(f"keys made in {settings.keys_path}: {', '.join(made)}", err=True)
    demand_permissions(endpoints.kafka_servers, settings, ROLES["trainer"])
    servers = {"kafka_servers": endpoints.kafka_servers, "redis_url": endpoints.redis_url}
    process = Trainer(settings, schema, **servers)
    health = Health(ready=process.problems)
    with serving(trainer_registry(process.counts), "trainer", settings, health) as port:
        asyncio.run(_until_stopped(process, lambda: say_ready("trainer", port, settings)))


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
