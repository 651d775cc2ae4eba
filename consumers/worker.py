"""The worker: a Faust application that scores `transactions` and joins `feedback`.

Faust gives membership, assignment and fetching. What a partition's state is, and where it stands,
is in Redis (`pipeline/commit.py`), so Faust's acknowledgements and offsets only feed lag displays.
An error that nobody expected ends the process at once, before the batch counts as done: whoever
takes the partition over begins where the last commit ended.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import faust
from faust.types import TP

from consumers.chunks import ChunkConsumer
from consumers.dead_letters import InputRecord
from consumers.labeller import Labeller
from consumers.model_feed import ModelFeed
from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_store import RedisStore
from consumers.scorer import Parts, Scorer
from consumers.timing import timed
from pipeline.commit import OutboxRecord
from pipeline.counts import WorkerCounts
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import FEEDBACK, TRANSACTIONS
from pipeline.warm_up import warm_up

logger = logging.getLogger(__name__)

GROUP = "fraudstream-worker"
# Labels that wait and decisions that mature are looked at this often.
TICK_SECONDS = 0.5
# A stop that takes longer than this is a stop that hangs; the store makes a sudden end safe.
STOP_SECONDS_MAX = 8.0
# Records fetched at once; a batch is cut from them.
FETCHED_RECORDS_MAX = 8192

Part = Scorer | Labeller


class _ChunkSchema(faust.Schema[Any, Any]):
    """Hands the records of a chunk on as they are."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:
        return message.key

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        return message.value


class Worker:
    """One worker process, put together; `run` starts it and waits for its end."""

    def __init__(self, settings: Settings, schema: Schema, *, kafka_servers: str, redis_url: str):
        self._settings = settings
        self.counts = WorkerCounts(schema=schema.name)
        self._publisher = OutboxPublisher(kafka_servers)
        self._feed = ModelFeed(kafka_servers, schema, settings)
        self._store = RedisStore(redis_url, retry_seconds_max=settings.retry_seconds_max)
        self._parts = Parts(
            settings=settings,
            schema=schema,
            store=self._store,
            publish=self._publish,
            feed=self._feed,
            counts=self.counts,
            owner=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        )
        self._scorers: dict[int, Scorer] = {}
        self._labellers: dict[int, Labeller] = {}
        # A batch and a tick of one partition must not interleave.
        self._locks: dict[TP, asyncio.Lock] = {}
        self._gaps: dict[TP, tuple[int, int]] = {}
        self._app = self._build_app(kafka_servers)

    @property
    def partitions(self) -> list[int]:
        """The partitions of `transactions` that are ours now."""
        return sorted(self._scorers)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Work until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        warm_up(self._parts.schema, self._settings)
        await self._publisher.start()
        await self._feed.start()
        tasks = [self._guarded(self._feed.follow()), self._guarded(self._tick())]
        running = [asyncio.create_task(task) for task in tasks]
        await self._app.start()
        on_ready()
        crashed = asyncio.create_task(self._app.wait_until_stopped())
        await asyncio.wait(
            [crashed, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if not stop.is_set():
            logger.error("worker crashed: reason=%r", self._app.crash_reason)
            os._exit(1)
        await asyncio.wait_for(self._stop(running), STOP_SECONDS_MAX)

    async def _publish(self, records: Sequence[OutboxRecord]) -> None:
        with timed(self.counts, "publish"):
            await self._publisher.publish(records)

    async def _stop(self, running: Sequence[asyncio.Task[None]]) -> None:
        for task in running:
            task.cancel()
        await self._app.stop()
        await self._publisher.stop()
        await self._feed.stop()
        await self._store.close()

    def _build_app(self, kafka_servers: str) -> faust.App:
        session = self._settings.kafka_session_seconds
        app = faust.App(
            GROUP,
            broker=[f"kafka://{server}" for server in kafka_servers.split(",")],
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            broker_session_timeout=session,
            broker_heartbeat_interval=session / 4,
            broker_max_poll_records=FETCHED_RECORDS_MAX,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            producer_request_timeout=30.0,
        )
        consumer = type("WorkerConsumer", (ChunkConsumer,), {"owner": self})
        setattr(app.transport, "Consumer", consumer)  # noqa: B010 - declared as a class variable
        for name, work in ((TRANSACTIONS, self._score), (FEEDBACK, self._label)):
            topic = app.topic(name, schema=_ChunkSchema())
            app.agent(topic, name=f"{GROUP}-{name}")(self._agent(name, work))
        return app

    def _agent(self, topic: str, work: Callable[[TP, list[Any]], Awaitable[None]]) -> Any:
        async def agent(stream: Any) -> None:
            async for event in stream.events():
                await self._guarded(work(event.message.tp, event.message.value))
                cast(ChunkConsumer, self._app.consumer).finished(topic)

        return agent

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("worker ends: the batch is not done and will be read again")
            os._exit(1)

    async def take_over(self, partitions: Iterable[TP]) -> Mapping[TP, int | None]:
        """Recover assigned partitions; give the offset to read each from."""
        assigned = {tp for tp in partitions if tp.topic in (TRANSACTIONS, FEEDBACK)}
        numbers = {(tp.topic, tp.partition) for tp in assigned}
        for partition in [p for p in self._scorers if (TRANSACTIONS, p) not in numbers]:
            del self._scorers[partition]
            self.counts.watermark_ms.pop(partition, None)
        for partition in [p for p in self._labellers if (FEEDBACK, p) not in numbers]:
            del self._labellers[partition]
        offsets = {tp: await self._recovered(tp) for tp in sorted(assigned)}
        logger.info("assigned: partitions=%s", self.partitions)
        return offsets

    async def _recovered(self, tp: TP) -> int | None:
        async with self._lock(tp):
            self._gaps.pop(tp, None)
            if tp.topic == TRANSACTIONS:
                part: Part = self._scorers.setdefault(
                    tp.partition, Scorer(self._parts, tp.partition)
                )
            else:
                part = self._labellers.setdefault(tp.partition, Labeller(self._parts, tp.partition))
            return await part.recover()

    def _lock(self, tp: TP) -> asyncio.Lock:
        return self._locks.setdefault(TP(tp.topic, tp.partition), asyncio.Lock())

    async def _score(self, tp: TP, records: list[Any]) -> None:
        await self._work(self._scorers.get(tp.partition), tp, records)

    async def _label(self, tp: TP, records: list[Any]) -> None:
        await self._work(self._labellers.get(tp.partition), tp, records)

    async def _work(self, part: Part | None, tp: TP, records: list[Any]) -> None:
        """Work on a chunk, in batches, from where the store stands."""
        if part is None:
            return
        taken = [
            InputRecord(tp.topic, tp.partition, record.offset, record.key, record.value)
            for record in records
        ]
        async with self._lock(tp):
            while taken := [item for item in taken if item.offset >= (part.position or 0)]:
                if await self._is_gap(tp, part.position, taken[0].offset):
                    return
                await part.handle(taken[: self._settings.batch_events_max])

    async def _is_gap(self, tp: TP, position: int | None, offset: int) -> bool:
        """Say whether records were skipped, and go back; a gap that stays is in the log itself."""
        if position is None or offset == position or self._gaps.get(tp) == (position, offset):
            return False
        logger.warning(
            "gap: topic=%s partition=%d offset=%d expected=%d",
            tp.topic, tp.partition, offset, position,
        )  # fmt: skip
        self._gaps[tp] = (position, offset)
        await self._app.consumer.seek(tp, position)
        return True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for partition, labeller in list(self._labellers.items()):
                async with self._lock(TP(FEEDBACK, partition)):
                    if self._labellers.get(partition) is labeller:
                        await labeller.tick()
            await self._look()

    async def _look(self) -> None:
        """Look at the numbers that Redis keeps."""
        waiting, expired = 0, 0
        for partition in self.partitions:
            waiting += await self._store.redis.hlen(f"w:{partition}")
            expired += int(await self._store.redis.hget(f"ledger:{partition}", "expired") or 0)
        self.counts.feedback_waiting, self.counts.feedback_expired = waiting, expired
        self.counts.labels_pending = sum(item.pending for item in self._labellers.values())
