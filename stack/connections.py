"""Which servers a command talks to: those of the settings, else the embedded ones."""

from pathlib import Path

from pipeline.errors import SettingError
from pipeline.settings import Settings
from stack.servers import Endpoints, find_endpoints


def endpoints_of(settings: Settings) -> Endpoints:
    """Give the servers that the settings name, or the embedded ones that run."""
    embedded = find_endpoints(Path(settings.state_dir))
    kafka = settings.kafka_servers or (embedded.kafka_servers if embedded else "")
    redis = settings.redis_url or (embedded.redis_url if embedded else "")
    for name, value in (("kafka_servers", kafka), ("redis_url", redis)):
        if not value:
            raise SettingError(
                f"{name} is not set and no embedded servers run: "
                "set it, or start them with `fraudstream up`"
            )
    return Endpoints(kafka, redis, embedded.prometheus_url if embedded else None)
