"""`fraudstream worker`."""

import asyncio

import click

from consumers.serving import parts, say_ready, serving
from consumers.worker import Worker
from pipeline.health import Health
from pipeline.metrics import worker_registry
from stack.check_kafka import demand_permissions
from stack.roles import ROLES


@click.command()
def worker() -> None:
    """Score transactions, and join labels to their decisions.

    Run as many as you like: they share the partitions. Each is stopped by SIGTERM or Ctrl-C, and
    safe to kill: what it had not committed is done by another.
    """
    settings, schema, endpoints = parts()
    demand_permissions(endpoints.kafka_servers, settings, ROLES["worker"])
    servers = {"kafka_servers": endpoints.kafka_servers, "redis_url": endpoints.redis_url}
    process = Worker(settings, schema, **servers)
    health = Health(live=process.stalls, ready=process.problems)
    with serving(worker_registry(process.counts), "worker", settings, health) as port:
        asyncio.run(process.run(lambda: say_ready("worker", port, settings)))
