"""The controls in force, as operators publish them.

Workers and trainers read the whole `controls` log before their first batch, and follow it from then
on. A scorer takes the state between two batches, so one commit has one state.
"""

import asyncio
import logging
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.controls import ControlLog, Controls, mode_of
from pipeline.errors import CommitError, ControlFault, SettingError
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import ControlVerifier
from pipeline.topics import CONTROLS
from stack import async_clients
from stack.kafka_address import kafka_of

logger = logging.getLogger(__name__)

POLL_MS = 500


class ControlFeed:
    """Follows the `controls` log.

    Parameters
    ----------
    refused
        Called with what is wrong with a record that does not count.
    changed
        Called with each state, the first one as well.

    Attributes
    ----------
    state
        What is in force.
    """

    def __init__(
        self,
        servers: str,
        schema: Schema,
        settings: Settings,
        *,
        refused: Callable[[ControlFault], None] = lambda fault: None,
        changed: Callable[[Controls], None] = lambda state: None,
    ) -> None:
        self._servers = servers
        entities = [item.name for item in schema.keyed]
        self._log = ControlLog(mode_of(settings), entities, ControlVerifier(settings))
        self._refused, self._changed = refused, changed
        self._consumer: AIOKafkaConsumer | None = None
        self.state = self._log.state

    async def start(self) -> None:
        """Connect, and read the log to its end."""
        topic = kafka_of(self._servers).topic(CONTROLS)
        place = TopicPartition(topic, 0)
        self._consumer = consumer = async_clients.async_consumer(
            self._servers,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=POLL_MS,
        )
        await consumer.start()
        if topic not in await consumer.topics():
            raise SettingError(f"there is no topic {topic}: make it (fraudstream topics)")
        consumer.assign([place])
        if (first := (await consumer.beginning_offsets([place]))[place]) > 0:
            raise CommitError(
                f"the {topic} log begins at {first}: what was said before was deleted, so "
                "nobody knows what is in force (docs/controls.md)"
            )
        end = (await consumer.end_offsets([place]))[place]
        consumer.seek(place, 0)
        while await consumer.position(place) < end:
            await self._read()
        self._take_over()

    async def follow(self) -> None:
        """Read what is said from now on, until cancelled."""
        while True:
            if await self._read():
                self._take_over()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self) -> int:
        assert self._consumer is not None, "the feed was not started"
        count = 0
        for records in (await self._consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                problem = self._log.take(record.offset, record.key, record.value, record.headers)
                if problem is not None:
                    fault, text = problem
                    self._refused(fault)
                    logger.error("control refused: offset=%d reason=%s", record.offset, text)
            count += len(records)
            await asyncio.sleep(0)
        return count

    def _take_over(self) -> None:
        state = self._log.state
        if state.offset != self.state.offset:
            logger.info(
                "controls in force: offset=%d mode=%s pinned=%s",
                state.offset, state.mode, state.pinned,
            )  # fmt: skip
        self.state = state
        self._changed(state)
