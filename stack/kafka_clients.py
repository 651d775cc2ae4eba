"""The one place that makes clients of Kafka: of kafka-python, aiokafka and Faust.

Whoever cannot connect is told why in plain words: the clients themselves would try again for half
a minute, and then say that there is no broker.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, SaslAuthenticationFailedError

from pipeline.errors import SettingError
from stack.kafka_address import Kafka, async_connection, kafka_of, sync_connection
from stack.reaching import NOBODY, unreachable

Client = TypeVar("Client")

SASL_MS_MAX = 10_000


def consumer(servers: str, **options: Any) -> KafkaConsumer:
    """Make a consumer of kafka-python."""
    return _made(KafkaConsumer, servers, options)


def producer(servers: str, **options: Any) -> KafkaProducer:
    """Make a producer of kafka-python."""
    return _made(KafkaProducer, servers, options)


def admin(servers: str, **options: Any) -> KafkaAdminClient:
    """Make an administrator of kafka-python."""
    return _made(KafkaAdminClient, servers, options)


def async_consumer(servers: str, **options: Any) -> AIOKafkaConsumer:
    """Make a consumer of aiokafka, which is not started yet."""
    return AIOKafkaConsumer(**async_connection(servers), **options)


def async_producer(servers: str, **options: Any) -> AIOKafkaProducer:
    """Make a producer of aiokafka, which is not started yet."""
    return AIOKafkaProducer(**async_connection(servers), **options)


def _made(make: Callable[..., Client], servers: str, options: dict[str, Any]) -> Client:
    kafka = kafka_of(servers)
    # A broker that is away is waited for by the client itself; a wrong certificate stays wrong.
    if kafka.security.has_tls and (problem := unreachable(kafka)) and NOBODY not in problem:
        raise SettingError(f"Kafka cannot be used: {problem}")
    try:
        return make(**sync_connection(kafka), **options)
    except SaslAuthenticationFailedError as error:
        raise SettingError(f"Kafka cannot be used: {sasl_problem(kafka, error)}") from error


def no_broker(servers: str) -> SettingError:
    """Give the error of a Kafka that is not there."""
    return SettingError(
        f"no Kafka broker answers at {servers}: start it (fraudstream up), or set kafka_servers"
    )


async def kafka_problem(servers: str) -> SettingError:
    """Find out why a Kafka gave a client of aiokafka no answer."""
    return await asyncio.to_thread(_problem, kafka_of(servers))


def _problem(kafka: Kafka) -> SettingError:
    problem = unreachable(kafka)
    if problem is None:
        try:
            admin(kafka, bootstrap_timeout_ms=SASL_MS_MAX).close()
        except SettingError as error:
            return error
        except KafkaError:
            problem = f"{kafka} does not answer as kafka_security says ({kafka.security.security})"
    if problem is None or NOBODY in problem:
        return no_broker(kafka)
    return SettingError(f"Kafka cannot be used: {problem}")


def sasl_problem(kafka: Kafka, error: Exception) -> str:
    """Say that a broker does not believe who we are."""
    security = kafka.security
    if "enabled" in str(error).lower():
        return f"{kafka} does not take kafka_sasl_mechanism {security.sasl_mechanism}"
    secret = f"the password of {security.username}" if security.username else "the token"
    return (
        f"{kafka} refuses {secret} ({security.sasl_mechanism}): "
        "see kafka_username, kafka_password_file and kafka_sasl_mechanism"
    )
