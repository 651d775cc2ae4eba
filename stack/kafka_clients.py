"""Clients of kafka-python; those of aiokafka, which workers alone need, are in `async_clients.py`.

Whoever cannot connect is told why in plain words: the clients themselves would try again for half
a minute, and then say that there is no broker.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from pipeline.connection_settings import PLAINTEXT
from pipeline.errors import SettingError
from stack.kafka_address import kafka_of, sync_connection
from stack.reaching import NOBODY, unreachable

Client = TypeVar("Client")


def consumer(servers: str, **options: Any) -> KafkaConsumer:
    """Make a consumer of kafka-python."""
    return _made(KafkaConsumer, servers, options)


def producer(servers: str, **options: Any) -> KafkaProducer:
    """Make a producer of kafka-python."""
    return _made(KafkaProducer, servers, options)


def admin(servers: str, **options: Any) -> KafkaAdminClient:
    """Make an administrator of kafka-python."""
    return _made(KafkaAdminClient, servers, options)


def _made(make: Callable[..., Client], servers: str, options: dict[str, Any]) -> Client:
    kafka = kafka_of(servers)
    # A broker that is away is waited for by the client itself; what is refused stays refused.
    if kafka.security.security != PLAINTEXT:
        problem = unreachable(kafka)
        if problem and NOBODY not in problem:
            raise unusable(problem)
    return make(**sync_connection(kafka), **options)


def unusable(problem: str) -> SettingError:
    """Give the error of a Kafka that does not take us."""
    return SettingError(f"Kafka cannot be used: {problem}")


def no_broker(servers: str) -> SettingError:
    """Give the error of a Kafka that is not there."""
    return SettingError(
        f"no Kafka broker answers at {servers}: start it (fraudstream up), or set kafka_servers"
    )
