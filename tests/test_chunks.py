"""What the consumer of chunks says while partitions are handed over, on a real client."""

import asyncio
from types import SimpleNamespace

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from consumers.chunks import ChunkConsumer


def test_where_a_log_ends_is_not_known_once_the_client_has_let_go_of_it() -> None:
    async def ask() -> tuple[int | None, int | None]:
        client = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
        client.assign([TopicPartition("feedback", 0)])
        consumer = object.__new__(ChunkConsumer)
        consumer._thread = SimpleNamespace(highwater=client.highwater)
        try:
            return consumer.log_end(TP("feedback", 0)), consumer.log_end(TP("feedback", 1))
        finally:
            await client.stop()

    # Of the first nothing was fetched; the second is not the client's.
    assert asyncio.run(ask()) == (None, None)
