"""Clients of aiokafka, which workers alone need: it takes a while to load."""

import asyncio
import sys
from typing import Any

import lz4.frame
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from pipeline.errors import SettingError
from stack.kafka_address import async_connection, kafka_of
from stack.kafka_clients import no_broker, unusable
from stack.reaching import NOBODY, unreachable


def fast_lz4(payload: bytes) -> bytes:
    """Compress the records of a batch; linked blocks no broker understands.

    aiokafka has level 9 and lets nobody choose: a tenth of the time gives batches that are an
    eighth larger (docs/decisions/0061).
    """
    compressed: bytes = lz4.frame.compress(payload, block_linked=False, store_size=False)
    return compressed


def async_consumer(servers: str, **options: Any) -> AIOKafkaConsumer:
    """Make a consumer of aiokafka, which is not started yet."""
    return AIOKafkaConsumer(**async_connection(servers), **options)


def async_producer(servers: str, **options: Any) -> AIOKafkaProducer:
    """Make a producer of aiokafka, which is not started yet."""
    # Its batches look the codec up in their own module, whether that is compiled or not.
    builder = sys.modules[DefaultRecordBatchBuilder.__module__]
    setattr(builder, "lz4_encode", fast_lz4)  # noqa: B010
    return AIOKafkaProducer(**async_connection(servers), **options)


async def kafka_problem(servers: str) -> SettingError:
    """Find out why a Kafka gave a client of aiokafka no answer."""
    problem = await asyncio.to_thread(unreachable, kafka_of(servers))
    return no_broker(servers) if problem is None or NOBODY in problem else unusable(problem)
