"""The one place that makes clients of Kafka: of kafka-python, aiokafka and Faust.

Whoever cannot connect is told why in plain words: the clients themselves would try again for half
a minute, and then say that there is no broker.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import lz4.frame
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from pipeline.connection_settings import PLAINTEXT
from pipeline.errors import SettingError
from stack.kafka_address import async_connection, kafka_of, sync_connection
from stack.reaching import NOBODY, unreachable

Client = TypeVar("Client")


def fast_lz4(payload: bytes) -> bytes:
    """Compress the records of a batch; linked blocks no broker understands.

    aiokafka has level 9 and lets nobody choose: a tenth of the time gives batches that are an
    eighth larger (docs/decisions/0061).
    """
    compressed: bytes = lz4.frame.compress(payload, block_linked=False, store_size=False)
    return compressed


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
    # Its batches look the codec up in their own module, whether that is compiled or not.
    builder = sys.modules[DefaultRecordBatchBuilder.__module__]
    setattr(builder, "lz4_encode", fast_lz4)  # noqa: B010
    return AIOKafkaProducer(**async_connection(servers), **options)


def _made(make: Callable[..., Client], servers: str, options: dict[str, Any]) -> Client:
    kafka = kafka_of(servers)
    # A broker that is away is waited for by the client itself; what is refused stays refused.
    if kafka.security.security != PLAINTEXT:
        problem = unreachable(kafka)
        if problem and NOBODY not in problem:
            raise _unusable(problem)
    return make(**sync_connection(kafka), **options)


def _unusable(problem: str) -> SettingError:
    return SettingError(f"Kafka cannot be used: {problem}")


def no_broker(servers: str) -> SettingError:
    """Give the error of a Kafka that is not there."""
    return SettingError(
        f"no Kafka broker answers at {servers}: start it (fraudstream up), or set kafka_servers"
    )


async def kafka_problem(servers: str) -> SettingError:
    """Find out why a Kafka gave a client of aiokafka no answer."""
    problem = await asyncio.to_thread(unreachable, kafka_of(servers))
    return no_broker(servers) if problem is None or NOBODY in problem else _unusable(problem)
