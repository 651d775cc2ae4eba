"""Which servers a command talks to: those of the settings, else the embedded ones."""

from pathlib import Path

import click

from pipeline.errors import SettingError
from pipeline.settings import Settings
from stack.servers import Endpoints, find_endpoints


def current_settings() -> Settings:
    """Give the settings of the command that runs."""
    settings = click.get_current_context().obj
    assert isinstance(settings, Settings), settings
    return settings


def endpoints_of(settings: Settings) -> Endpoints:
    """Give the servers that the settings name, or the embedded ones that run."""
    embedded = find_endpoints(Path(settings.state_dir))
    return Endpoints(
        kafka_servers_of(settings),
        _given("redis_url", settings.redis_url, embedded.redis_url if embedded else ""),
        embedded.prometheus_url if embedded else None,
    )


def kafka_servers_of(settings: Settings) -> str:
    """Give the Kafka that the settings name, or the embedded one that runs."""
    if settings.kafka_servers:
        return settings.kafka_servers
    embedded = find_endpoints(Path(settings.state_dir))
    return _given("kafka_servers", "", embedded.kafka_servers if embedded else "")


def _given(name: str, configured: str, embedded: str) -> str:
    if not (configured or embedded):
        raise SettingError(
            f"{name} is not set and no embedded servers run: "
            "set it, or start them with `fraudstream up`"
        )
    return configured or embedded
