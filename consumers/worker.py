"""The worker: a Faust application that scores `transactions`, joins `feedback`, reads `outcomes`.

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
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from consumers.backfill_run import check_no_run
from consumers.chunks import ChunkConsumer, Extent
from consumers.control_feed import ControlFeed
from consumers.labeller import Labeller
from consumers.lane import Lane
from consumers.model_feed import ModelFeed
from consumers.outbox_publisher import OutboxPublisher
from consumers.outcome_reader import OutcomeReader
from consumers.redis_profiles import ProfileCache
from consumers.redis_store import RedisStore
from consumers.rules_file import RulesFile
from consumers.scorer import Parts, Scorer
from consumers.watchdog import (
    Progress,
    Watchdog,
    end_soon,
    keep_watching_the_loop,
)
from pipeline.commit import OutboxRecord
from pipeline.controls import Controls
from pipeline.counts import WorkerCounts
from pipeline.errors import CommitError, ControlFault
from pipeline.memory import collect_seldom
from pipeline.schema import Schema
from pipeline.settings import ACT, Settings
from pipeline.signing import LabelVerifier
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from pipeline.warm_up import warm_up
from stack.kafka_address import faust_connection, kafka_of
from stack.plain_errors import said

logger = logging.getLogger(__name__)

# What works on a partition of each input.
INPUTS: dict[str, type[Scorer] | type[Labeller] | type[OutcomeReader]] = {
    TRANSACTIONS: Scorer,
    FEEDBACK: Labeller,
    OUTCOMES: OutcomeReader,
}
# The last decisions are indexed, labels that wait and decisions that mature looked at, this often.
TICK_SECONDS = 0.5
# Kafka is asked how much lies unread this often; a client that has not answered then hangs.
UNREAD_SECONDS, CLIENT_SECONDS_MAX = 5.0, 10.0
# Two threads take turns for every fetch; Python's own 5 ms would be felt in every latency.
SWITCH_SECONDS = 0.0005
# Records fetched at once; a batch is cut from them.
FETCHED_RECORDS_MAX = 8192


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
        self._feed = ModelFeed(kafka_servers, schema, settings, self.counts)
        self._controls = ControlFeed(
            kafka_servers,
            schema,
            settings,
            refused=self._control_refused,
            changed=self._hold,
        )
        self._store = RedisStore(redis_url, retry_seconds_max=settings.retry_seconds_max)
        self._parts = Parts(
            settings=settings,
            schema=schema,
            store=self._store,
            profiles=ProfileCache(self._store, schema),
            publish=self._publish,
            kafka_servers=kafka_servers,
            feed=self._feed,
            controls=self._controls,
            label_verifier=LabelVerifier.of(settings),
            rules=RulesFile(settings, schema, self.counts),
            counts=self.counts,
            owner=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        )
        self._lanes: dict[TP, Lane] = {}
        self._running: list[asyncio.Task[None]] = []
        # Lanes come and go with assignments and with ticks, which must not interleave.
        self._handing_over = asyncio.Lock()
        self._watchdog = Watchdog()
        self._extents: Mapping[TP, Extent] = {}
        self._unread_is_known, self._unread_at = True, -UNREAD_SECONDS
        self._has_begun = self._is_stopping = False
        self._kafka = kafka_of(kafka_servers)
        self._app = self._build_app()

    @property
    def partitions(self) -> list[int]:
        """The partitions of `transactions` that are ours now."""
        return sorted(tp.partition for tp in self._lanes if tp.topic == TRANSACTIONS)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Work until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # Nothing was begun that another does not do as well.
            end_soon()
            starting.cancel()
            await asyncio.wait([starting])
            await self._stop()
            return
        starting.result()
        on_ready()
        crashed = asyncio.create_task(self._app.wait_until_stopped())
        await asyncio.wait([crashed, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            self.end_process(self._app.crash_reason or CommitError("Faust has stopped"))
        end_soon()
        await self._stop()

    async def _start(self) -> None:
        """Compile, connect, join the group."""
        sys.setswitchinterval(SWITCH_SECONDS)
        warm_up(self._parts.schema, self._settings, learns=False)
        collect_seldom()
        await self._store.check()
        await check_no_run(self._store)
        await self._publisher.start()
        await self._publisher.check_partitions(tuple(INPUTS), self._settings.partitions)
        self._feed.floor = await self._store.adopted_offset(self._settings.partitions)
        # What operators said before anything is decided, and before a version is taken.
        await self._controls.start()
        await self._feed.start()
        self._run(keep_watching_the_loop())
        self._run_beside(self._controls.follow(), self._feed.follow(), self._parts.rules.follow())
        await self._app.start()
        # It asks the consumer, which has no thread before.
        self._run_beside(self._tick())

    def _run(self, *tasks: Coroutine[Any, Any, None]) -> None:
        self._running += [asyncio.create_task(task) for task in tasks]

    def _run_beside(self, *tasks: Coroutine[Any, Any, None]) -> None:
        self._run(*(self._guarded(task, is_beside=True) for task in tasks))

    def _control_refused(self, fault: ControlFault) -> None:
        self.counts.controls_refused[fault] += 1

    def _hold(self, state: Controls) -> None:
        self._feed.pinned = state.pinned
        counts = self.counts
        counts.control_offset, counts.is_pinned = state.offset, state.pinned is not None
        counts.is_acting = state.mode == ACT

    async def _publish(self, records: Sequence[OutboxRecord]) -> Awaitable[Sequence[int]]:
        started = time.perf_counter()
        landed = await self._publisher.publish(records)
        # However late it is awaited, the stage ends with the acknowledgement.
        stage = self.counts.stage_seconds["publish"]
        landed.add_done_callback(lambda _: stage.observe(time.perf_counter() - started))
        return landed

    async def _stop(self) -> None:
        self._is_stopping = True
        for task in self._running:
            task.cancel()
        await self._app.stop()
        # Batches under way are finished; those that waited are read again by whoever is next.
        await asyncio.gather(*(lane.end() for lane in self._lanes.values()))
        await self._parts.profiles.end()
        await self._publisher.stop()
        await self._feed.stop()
        await self._controls.stop()
        await self._store.close()

    def _build_app(self) -> faust.App:
        session, group = self._settings.kafka_session_seconds, self._settings.consumer_group
        app = faust.App(
            group,
            **faust_connection(self._kafka),
            store="memory://",
            datadir=str(Path(self._settings.state_dir).absolute() / "faust"),
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
        for name in INPUTS:
            topic = app.topic(self._kafka.topic(name), schema=_ChunkSchema(), acks=False)
            app.agent(topic, name=f"{group}-{name}")(self._agent())
        return app

    def _agent(self) -> Any:
        # Faust wants a function of its own for each agent.
        async def agent(stream: Any) -> None:
            await self._guarded(self._dispatch(stream))

        return agent

    async def _dispatch(self, stream: Any) -> None:
        """Hand each chunk to its lane; what happens there is not waited for."""
        async for event in stream.events():
            tp = self._ours(event.message.tp)
            lane = self._lanes.get(tp)
            if lane is None:
                self._finished(tp, len(event.message.value.records))
            else:
                lane.put(event.message.value, self._guarded)

    @property
    def _consumer(self) -> ChunkConsumer:
        return cast(ChunkConsumer, self._app.consumer)

    def _finished(self, tp: TP, records: int) -> None:
        self._consumer.finished(self._theirs(tp), records)

    async def _read_again(self, tp: TP, offset: int) -> None:
        await self._consumer.read_again(self._theirs(tp), offset)

    @property
    def inputs(self) -> Collection[str]:
        """What Kafka calls the topics that others write."""
        return self._kafka.inputs

    @property
    def gathering_seconds(self) -> float:
        """Where much comes, the broker gathers for so long before it answers a fetch."""
        return self._settings.batch_gathering_seconds

    def _ours(self, tp: Any) -> TP:
        """Give a partition by our own name of its topic."""
        return TP(self._kafka.names.logical(tp.topic), tp.partition)

    def _theirs(self, tp: TP) -> TP:
        """Give a partition by Kafka's name of its topic."""
        return TP(self._kafka.topic(tp.topic), tp.partition)

    async def _guarded(self, work: Awaitable[None], *, is_beside: bool = False) -> None:
        try:
            await work
        except Exception as error:  # whatever it is, the next owner begins at the last commit
            # What runs beside the lanes may find anything closed once all is being stopped.
            if not (is_beside and self._is_stopping):
                self.end_process(error)

    def end_process(self, error: BaseException) -> None:
        """End at once: what was not committed is read again, by whoever is next."""
        # What the servers do wrong is no fault of ours: a trace would tell nobody anything.
        plain = said(error)
        logger.error("worker ends: %s", plain or error, exc_info=None if plain else error)
        logging.shutdown()
        os._exit(1)

    async def take_over(self, partitions: Iterable[TP]) -> Mapping[TP, int | None]:
        """Recover assigned partitions; give the offset to read each from."""
        assigned = sorted(tp for tp in map(self._ours, partitions) if tp.topic in INPUTS)
        async with self._handing_over:
            await self._let_go_of_all_but(assigned)
            for tp in assigned:
                if tp not in self._lanes:
                    self._lanes[tp] = self._lane(tp)
            offsets = {self._theirs(tp): await self._lanes[tp].recover() for tp in assigned}
        self._has_begun = True
        logger.info("assigned: partitions=%s", self.partitions)
        return offsets

    async def _let_go_of_all_but(self, owned: Collection[TP]) -> None:
        for tp in [tp for tp in self._lanes if tp not in owned]:
            await self._lanes.pop(tp).end()
            if tp.topic == TRANSACTIONS:
                self.counts.watermark_ms.pop(tp.partition, None)
                self.counts.breaker_open.pop(tp.partition, None)

    def begin(self, offsets: Mapping[TP, int]) -> None:
        """Take note of where reading begins: a labeller may commit before its first label."""
        for tp, offset in offsets.items():
            lane = self._lanes.get(self._ours(tp))
            # One that is gone by now went to another.
            if lane is not None and isinstance(lane.part, Labeller):
                lane.part.begin(offset)

    def positions(self) -> Mapping[TP, int]:
        """Give the committed position of each partition owned."""
        found = {self._theirs(tp): lane.part.position for tp, lane in self._lanes.items()}
        return {tp: position for tp, position in found.items() if position is not None}

    def _lane(self, tp: TP) -> Lane:
        is_scorer = tp.topic == TRANSACTIONS
        return Lane(
            tp,
            INPUTS[tp.topic](self._parts, tp.partition),
            batch_events_max=self._settings.batch_events_max,
            # The broker gathers what is decided together; labels have time.
            interval_seconds=0.0 if is_scorer else self._settings.label_linger_seconds,
            read_again=self._read_again,
            finished=self._finished,
        )

    def problems(self) -> list[str]:
        """Say what speaks against giving work to this worker now."""
        return self._watchdog.problems() if self._has_begun else ["no partitions were assigned yet"]

    def stalls(self) -> list[str]:
        """Say what has got nowhere for so long that the process had better end."""
        return self._watchdog.stalled()

    async def _watch(self) -> None:
        """End a process that has work and gets nowhere; another takes over."""
        if time.monotonic() - self._unread_at >= UNREAD_SECONDS:
            await self._count_unread()
        partitions = {
            f"{tp.topic}:{tp.partition}": Progress(lane.part.position, self._has_work(tp, lane))
            for tp, lane in list(self._lanes.items())
        }
        partitions["the client of Kafka"] = Progress(None, not self._unread_is_known)
        self._watchdog.look(partitions, is_rebalancing=self._app.rebalancing)
        for stall in self._watchdog.stalled():
            self.end_process(CommitError(stall))

    def _has_work(self, tp: TP, lane: Lane) -> bool:
        extent = self._extents.get(tp)
        is_behind = extent is not None and extent.unread > 0
        return not lane.is_full and (lane.is_working or is_behind)

    async def _count_unread(self) -> None:
        self._unread_at = time.monotonic()
        try:
            extents = await asyncio.wait_for(self._consumer.extents(), CLIENT_SECONDS_MAX)
        except (TimeoutError, KafkaError) as error:
            self._unread_is_known = False
            logger.warning("Kafka did not say what lies unread: %r", error)
            return
        self._extents = {self._ours(tp): extent for tp, extent in extents.items()}
        self._unread_is_known = True
        self.counts.unread = {
            (tp.topic, tp.partition): extent.unread for tp, extent in self._extents.items()
        }

    def _label_end(self, tp: TP, lane: Lane) -> int | None:
        """Give the offset that a labeller comes to when it has read all, as far as is known."""
        end, extent = self._consumer.log_end(self._theirs(tp)), self._extents.get(tp)
        # What lies at the very end may be markers of transactions, which nobody is handed.
        if extent is not None and extent.fetched == extent.end == end and not lane.is_working:
            return lane.part.position or 0
        return end

    async def _tick(self) -> None:
        # A cancellation may be lost to an answer that comes at the same moment.
        while not self._is_stopping:
            await asyncio.sleep(TICK_SECONDS)
            # Whoever is left with no partition is not told so by Faust.
            async with self._handing_over:
                await self._let_go_of_all_but(set(map(self._ours, self._consumer.assignment())))
            for tp, lane in list(self._lanes.items()):
                if isinstance(lane.part, Labeller):
                    lane.part.log_end = self._label_end(tp, lane)
                await lane.tick()
            await self._watch()
            await self._look()

    async def _look(self) -> None:
        """Look at the numbers that Redis keeps."""
        waiting, expired = 0, 0
        for partition in self.partitions:
            waiting += int(await self._store.redis.hget(f"index:{partition}", "entries") or 0)
            expired += int(await self._store.redis.hget(f"ledger:{partition}", "expired") or 0)
        self.counts.feedback_waiting, self.counts.feedback_expired = waiting, expired
        remembered, dropped = await self._store.redis.hmget("ids", "entries", "dropped")
        self.counts.ids_remembered, self.counts.ids_dropped = (
            int(remembered or 0),
            int(dropped or 0),
        )
        labellers = [lane.part for lane in self._lanes.values() if isinstance(lane.part, Labeller)]
        self.counts.labels_pending = sum(labeller.pending for labeller in labellers)
