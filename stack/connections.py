"""Which servers a command talks to: those of the settings, else the embedded ones."""

from pathlib import Path

from pipeline.errors import SettingError
from pipeline.settings import Settings
from stack.kafka_address import Kafka
from stack.redis_clients import RedisServer
from stack.servers import Endpoints, find_endpoints


def endpoints_of(settings: Settings) -> Endpoints:
    """Give the servers that the settings name, or the embedded ones that run."""
    kafka, embedded = kafka_servers_of(settings), find_endpoints(Path(settings.state_dir))
    redis_url = _given("redis_url", settings.redis_url, embedded.redis_url if embedded else "")
    return Endpoints(
        kafka,
        RedisServer.of(settings, redis_url),
        embedded.prometheus_url if embedded else None,
    )


def kafka_servers_of(settings: Settings) -> Kafka:
    """Give the Kafka that the settings name, or the embedded one that runs."""
    embedded = None if settings.kafka_servers else find_endpoints(Path(settings.state_dir))
    found = embedded.kafka_servers if embedded else ""
    return Kafka.of(settings, _given("kafka_servers", settings.kafka_servers, found))


def _given(name: str, configured: str, embedded: str) -> str:
    if not (configured or embedded):
        raise SettingError(
            f"{name} is not set and no embedded servers run: "
            "set it, or start them with `fraudstream up`"
        )
    return configured or embedded
