"""What the commands of our services share: their parts, endpoint, and the word "ready"."""

from contextlib import AbstractContextManager

import click
from prometheus_client import CollectorRegistry

from consumers.endpoint import metrics_endpoint
from pipeline.health import Health
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from stack.command_settings import current_settings
from stack.connections import endpoints_of
from stack.servers import Endpoints


def parts() -> tuple[Settings, Schema, Endpoints]:
    """Give the settings, the schema and the servers of the command that runs."""
    settings = current_settings()
    return settings, load_schema(settings.schema), endpoints_of(settings)


def serving(
    registry: CollectorRegistry, job: str, settings: Settings, health: Health
) -> AbstractContextManager[int]:
    """Serve a registry and the health of a process, where the settings say."""
    return metrics_endpoint(
        registry,
        job=job,
        state_dir=settings.state_dir,
        host=settings.metrics_host,
        port=settings.metrics_port,
        health=health,
    )


def say_ready(name: str, port: int, settings: Settings) -> None:
    """Say that a process works, and where its metrics are."""
    click.echo(f"{name} ready: metrics http://{settings.metrics_host}:{port}/metrics", err=True)
