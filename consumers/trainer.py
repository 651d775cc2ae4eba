"""The trainer: the one writer of the models and of what labels teach the profiles.

It folds the `training` log: test, then train, in the order of the log. One commit holds the
training offset, the rows it changed and the snapshots to publish (`pipeline/commit.py`). A restart
reads the newest snapshot, folds again from there to the committed offset for the models alone,
since the rows hold those examples already, and goes on. Where Redis was restored from an older
copy, the snapshot is ahead of the rows: then the log is folded again from the copy's own place,
and the models, which know how much they have learned, learn nothing twice.

A second trainer stands by (`consumers/lease.py`): it folds what the first has committed, compares
its own snapshots with those, byte for byte, and goes on where the first ended. Whoever is refused,
or has lost the lease, stands by as well.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.exceptions import RedisError

from consumers.backfill_run import check_no_run
from consumers.control_feed import ControlFeed
from consumers.decision_reader import connected
from consumers.lease import Lease
from consumers.log_values import Found, Wanted
from consumers.model_pointer import CHAMPION_KEY, Champion, WindowPlace
from consumers.model_topic import read_models
from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_client import as_bytes
from consumers.redis_profiles import load_rows, taught_change
from consumers.redis_store import RedisStore
from consumers.redis_types import check_missing
from consumers.watchdog import keep_watching_the_loop
from models import check_kept, make_model
from models.contract import Model
from models.snapshot import Snapshot, encode
from pipeline.commit import Change, Input, OutboxRecord, Stored, decode_outbox, resume_at
from pipeline.counts import TrainerCounts
from pipeline.engine import Version
from pipeline.errors import SnapshotError
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.places import Place, Places
from pipeline.records import TrainingExample, decode_examples
from pipeline.schema import Schema
from pipeline.sealing import read_version, seal
from pipeline.settings import Settings
from pipeline.signing import ModelSigner, ModelVerifier
from pipeline.stored_rows import sealed
from pipeline.topics import MODELS, TRAINING
from pipeline.version_names import split_version
from pipeline.warm_up import warm_up
from stack.kafka_address import kafka_of

logger = logging.getLogger(__name__)

# Beside the position: how many examples are behind it, and the last number of each partition.
PLACE_KEY = "place:training"
POLL_MS = 100
# How often a trainer that stands by looks at what the other has done.
STANDBY_SECONDS = 1.0
BATCH_EXAMPLES_MAX = 2_000
# Beyond so many learned rows in memory the cache starts anew: a row is some 150 bytes.
CACHED_ROWS_MAX = 1_000_000
# Rows that one MSET stores, within what the script unpacks.
ROWS_OF_CHANGE_MAX = 3_000
FETCH_BYTES_MAX = 8 * 1024 * 1024


class Trainer:
    """One trainer process, put together; `run` starts it and waits for its end."""

    def __init__(self, settings: Settings, schema: Schema, *, kafka_servers: str, redis_url: str):
        self._settings, self._schema = settings, schema
        self._servers = kafka_servers
        self.counts = TrainerCounts()
        self._kernel = FeatureKernel(schema)
        self._names = (settings.model, *settings.challenger_names)
        check_kept(self._names, settings.model_options)
        self._signer, self._verifier = ModelSigner(settings), ModelVerifier(settings)
        self._controls = ControlFeed(kafka_servers, schema, settings)
        self._entities = [item.name for item in schema.keyed]
        self._store = RedisStore(redis_url, retry_seconds_max=settings.retry_seconds_max)
        self._publisher = OutboxPublisher(kafka_servers)
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._input = Input(self._store, self._publisher.publish, name=TRAINING, owner=owner)
        self._lease = Lease(self._store.redis, TRAINING, owner)
        self._learner = self._new_learner(self._fresh_models(), {})
        self._places = Places()
        self._versions: OrderedDict[str, None] = OrderedDict()
        self._steps = 0
        self._is_built = False
        self._published_at = 0.0
        self._published_offset = -1

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Fold the training log until stopped, or stand by while another does."""
        warm_up(self._schema, self._settings)
        await self._store.check()
        await check_no_run(self._store)
        await self._publisher.start()
        await self._controls.start()
        consumer = await connected_to(self._servers)
        beside = [
            asyncio.create_task(task)
            for task in (keep_watching_the_loop(), self._controls.follow())
        ]
        try:
            await self._build(consumer)
            self._is_built = True
            on_ready()
            while await self._stand_by(consumer, stop):
                await self._work(consumer, stop)
                if not stop.is_set():
                    await self._build(consumer)
        finally:
            for task in beside:
                task.cancel()
            with contextlib.suppress(RedisError):
                await self._lease.release()
            await consumer.stop()
            await self._controls.stop()
            await self._publisher.stop()
            await self._store.close()

    def problems(self) -> list[str]:
        """Say what speaks against counting on this trainer now."""
        return [] if self._is_built else ["the models are being built"]

    async def _stand_by(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> bool:
        """Follow the trainer that is at work until it is gone; `False` when stopped before."""
        while not stop.is_set():
            if await self._lease.take():
                return True
            stored = await self._store.load(TRAINING)
            await self._fold_to(consumer, _offset(stored.position))
            self._compare(stored)
            await _pause(stop, STANDBY_SECONDS)
        return False

    async def _work(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Learn and commit until stopped, or until another was before us."""
        if not await self._take_over(consumer):
            return
        keeping = asyncio.create_task(self._lease.keep())
        self.counts.at_work = 1
        logger.info("trainer at work: training_offset=%d", self._learner.offset)
        try:
            is_ours = True
            while is_ours and not (stop.is_set() or keeping.done()):
                due = time.monotonic() + self._settings.label_linger_seconds
                is_ours = await self._step(consumer)
                # A step costs a commit: what comes meanwhile is learned together.
                if self._waiting(consumer) < BATCH_EXAMPLES_MAX:
                    await _pause(stop, due - time.monotonic())
            if stop.is_set() and is_ours:
                await self._publish_if_due(at_once=True)
        finally:
            self.counts.at_work = 0
            keeping.cancel()
        if keeping.done() and not keeping.cancelled():
            keeping.result()

    async def _take_over(self, consumer: AIOKafkaConsumer) -> bool:
        """Stand where the store stands; whoever was at work before is refused from then on."""
        position = await self._input.recover() or "0:0"
        committed, self._steps = (int(part) for part in position.split(":"))
        if committed < self._learner.offset:
            return False
        await self._fold_to(consumer, committed)
        self._versions = OrderedDict.fromkeys((await asyncio.to_thread(self._read_models))[0])
        return await self._commit([], [])

    def _fresh_models(self) -> list[Model]:
        return [
            make_model(name, self._kernel.names, self._settings.model_options)
            for name in self._names
        ]

    def _new_learner(self, models: Sequence[Model], marks: dict[int, int]) -> Learner:
        return Learner(self._schema, self._kernel.schema_hash, models, marks)

    async def _build(self, consumer: AIOKafkaConsumer) -> None:
        """Make the models anew: from the newest snapshots, folded to where the store stands."""
        self._learner = self._new_learner(self._fresh_models(), {})
        self._places = Places()
        self._published_at, self._published_offset = 0.0, -1
        # The pointer first: one that is ahead of the position says that Redis is an older copy.
        snapshots, pointer = await asyncio.to_thread(self._read_models)
        found = await self._store.redis.mget(f"pos:{TRAINING}", PLACE_KEY)
        position, stored = as_bytes(found[0]).decode(), _place(as_bytes(found[1]))
        committed = _offset(position)
        [place] = consumer.assignment()
        first = (await consumer.beginning_offsets([place]))[place]
        end = (await consumer.end_offsets([place]))[place]
        # One that was published from elsewhere has no marks, and stands for more than this log.
        if pointer is not None and pointer.marks and pointer.training_offset <= end:
            self._take(snapshots, pointer, committed, stored)
        name, is_new = (
            f"{place.topic}[{place.partition}]",
            not position and self._published_offset < 0,
        )
        resume_at(name, committed if position else None, first=first, end=end)
        reading = None if is_new else self._learner.offset
        consumer.seek(place, resume_at(name, reading, first=first, end=end))
        await self._fold_to(consumer, committed)
        logger.info(
            "trainer built: training_offset=%d snapshot=%d",
            committed, max(0, self._published_offset),
        )  # fmt: skip

    async def _fold_to(self, consumer: AIOKafkaConsumer, committed: int) -> None:
        """Learn up to an offset for the models alone: the rows hold those examples already."""
        while self._learner.offset < committed:
            records = await _polled(consumer, committed - self._learner.offset)
            await self._learn(self._learner.fresh(_examples(records)), records, profiles=False)
        self.counts.training_offset = self._learner.offset

    def _compare(self, stored: Stored) -> None:
        """Compare our versions with those that the trainer at work has just committed."""
        records = decode_outbox(stored.outbox)
        published = {record.key: record.value for record in records if record.topic == MODELS}
        for name, value in self._versions_now() if published else ():
            other = published.get(name.encode())
            if other is None:
                continue
            self.counts.standby[other == value] += 1
            if other != value:
                logger.error("trainers disagree: version=%s is other bytes here", name)

    def _take(
        self,
        snapshots: dict[str, Snapshot],
        pointer: Champion,
        committed: int,
        stored: Place,
    ) -> None:
        """Take the models of the newest versions, if they are ours, with the place to fold from."""
        found = [snapshots.get(name) for name in (pointer.version, *pointer.challengers)]
        models = {item.model.name: item.model for item in found if item is not None}
        fitting = all(item and item.schema_hash == self._kernel.schema_hash for item in found)
        if not fitting or set(models) != set(self._names):
            # Other models or features than before: the log gives them from its beginning.
            return
        marks = _numbers(pointer.marks)
        self._learner = self._new_learner([models[name] for name in self._names], marks)
        start = self._first_place(pointer)
        # The rows are older than the models: whatever they miss is folded again as well.
        self._learner.go_back(start if start.offset <= committed else stored)
        self._places.note(self._learner.place)
        self._published_offset = pointer.training_offset

    def _first_place(self, pointer: Champion) -> Place:
        """Say from where on the log must be read for the models of these versions."""
        models, window = self._learner.models, pointer.window
        if all(model.window_start == model.learned for model in models):
            return replace(self._learner.place, offset=pointer.training_offset)
        if window is None:
            return Place(0, 0, {})
        return Place(window.offset, window.learned, _numbers(window.marks))

    def _read_models(self) -> tuple[dict[str, Snapshot], Champion | None]:
        published = read_models(self._servers)
        # Those that are refused are retired in their turn like all others.
        self._versions = OrderedDict.fromkeys(published.snapshots)
        snapshots: dict[str, Snapshot] = {}
        for version, data in published.snapshots.items():
            try:
                snapshots[version] = read_version(
                    version, data, self._verifier, river_pickle=self._settings.river_pickle
                )
            except SnapshotError as error:
                self.counts.models_refused[error.fault] += 1
                logger.error("snapshot refused: version=%r reason=%s", version, error)
        return snapshots, published.champion(self._verifier)

    def _waiting(self, consumer: AIOKafkaConsumer) -> int:
        """Say how many examples the log is known to hold that were not learned yet."""
        [place] = consumer.assignment()
        return int(consumer.highwater(place) or 0) - self._learner.offset

    async def _step(self, consumer: AIOKafkaConsumer) -> bool:
        """Learn what has come; `False` if the commit was refused."""
        records = await _polled(consumer)
        if not records:
            return await self._publish_if_due()
        started = time.perf_counter()
        before = self._learner.counts.copy()
        fresh = self._learner.fresh(_examples(records))
        await self._load_rows(fresh)
        await self._learn(fresh, records)
        if not await self._commit(self._row_changes(fresh), self._due_records(), fresh):
            return False
        self._count(fresh, time.perf_counter() - started)
        self.counts.duplicates += self._learner.counts["duplicate"] - before["duplicate"]
        return True

    async def _learn(
        self, fresh: list[TrainingExample], records: Sequence[Found], *, profiles: bool = True
    ) -> None:
        # In a thread: a model may wait for a fit, and connections must be tended meanwhile.
        await asyncio.to_thread(self._learner.learn, fresh, profiles=profiles)
        if records:
            self._learner.profiles.offset = records[-1][0] + 1
            self._places.note(self._learner.place)

    async def _publish_if_due(self, *, at_once: bool = False) -> bool:
        if at_once:
            self._published_at = 0.0
        records = self._due_records()
        return not records or await self._commit([], records)

    async def _commit(
        self,
        changes: list[Change],
        records: list[OutboxRecord],
        learned: Sequence[TrainingExample] = (),
    ) -> bool:
        # Every step has a position of its own, so that one that only publishes is fenced as well.
        self._steps += 1
        position = f"{self._learner.offset}:{self._steps}"
        place = msgspec.json.encode(_window_place(self._learner.place))
        # Whoever holds rows that change here hears of it, step by step.
        taught = taught_change(self._steps, self._entities, self._learner.keys(learned))
        changes = [*changes, ("SET", PLACE_KEY, place), taught]
        if not await self._input.commit(position, records, changes):
            logger.warning("another trainer is at work: this one was refused, and stands by")
            self.counts.refused += 1
            return False
        if records:
            self._published_at = time.monotonic()
            self._published_offset = self._learner.offset
            self.counts.snapshots += len(self._names)
        return True

    async def _load_rows(self, examples: Sequence[TrainingExample]) -> None:
        """Fetch the rows that are to change and are not in memory."""
        tables = self._learner.profiles.tables
        if sum(len(table) for table in tables) > CACHED_ROWS_MAX:
            for table in tables:
                table.clear()
        for table, name, ids in zip(
            tables, self._entities, self._learner.keys(examples), strict=True
        ):
            wanted = [key for key in dict.fromkeys(ids) if key not in table]
            if not wanted:
                continue
            names = [f"l:{name}:{key}" for key in wanted]
            blobs = await self._store.redis.mget(names)
            found = list(zip(wanted, names, blobs, strict=True))
            await check_missing(self._store.redis, [key for _, key, blob in found if blob is None])
            load_rows(table, [(k, n, as_bytes(b)) for k, n, b in found if b is not None])

    def _row_changes(self, examples: Sequence[TrainingExample]) -> list[Change]:
        changes: list[Change] = []
        keys = self._learner.keys(examples)
        for table, name, ids in zip(
            self._learner.profiles.tables, self._entities, keys, strict=True
        ):
            pairs = [
                word
                for key in dict.fromkeys(ids)
                for word in (f"l:{name}:{key}", sealed(f"l:{name}:{key}", table.blob(key)))
            ]
            for first in range(0, len(pairs), 2 * ROWS_OF_CHANGE_MAX):
                changes.append(("MSET", *pairs[first : first + 2 * ROWS_OF_CHANGE_MAX]))
            self.counts.profile_rows += len(pairs) // 2
        return changes

    def _due_records(self) -> list[OutboxRecord]:
        """Give the snapshots to publish, if something was learned and it is time."""
        elapsed = time.monotonic() - self._published_at
        # Models that are ahead of the rows would be named after an offset that is not theirs.
        if self._learner.offset <= max(0, self._published_offset):
            return []
        if elapsed < self._settings.snapshot_interval_seconds:
            return []
        return list(self._snapshot_records())

    def _versions_now(self) -> Iterator[tuple[str, bytes]]:
        """Give the models as they are, as versions: name and snapshot."""
        offset = self._learner.offset
        for model in self._learner.models:
            version = Version(model, offset)
            value = encode(
                model,
                version=version.name,
                training_offset=offset,
                schema_hash=self._kernel.schema_hash,
            )
            yield version.name, seal(value, self._signer)

    def _snapshot_records(self) -> Iterator[OutboxRecord]:
        offset = self._learner.offset
        versions = dict(self._versions_now())
        for name, value in versions.items():
            self._versions[name] = None
            self._versions.move_to_end(name)
            yield OutboxRecord(MODELS, 0, name.encode(), value)
        champion, *challengers = versions
        pointer = Champion(
            champion, challengers, offset, _texts(self._learner.marks), self._window_place()
        )
        value = msgspec.json.encode(pointer)
        headers = self._signer.headers(CHAMPION_KEY, value)
        yield OutboxRecord(MODELS, 0, CHAMPION_KEY, value, [*headers])
        yield from self._retired(kept=self._settings.models_kept * len(versions))

    def _retired(self, *, kept: int) -> Iterator[OutboxRecord]:
        """Retire the oldest versions, but not one that operators hold: a start must find it."""
        pinned = self._controls.state.pinned
        held = split_version(pinned) if pinned else None
        for version in list(self._versions)[: max(0, len(self._versions) - kept)]:
            parts = split_version(version)
            if held is None or parts is None or parts[1] != held[1]:
                del self._versions[version]
                yield OutboxRecord(MODELS, 0, version.encode(), None)

    def _window_place(self) -> WindowPlace | None:
        place = self._places.needed(self._learner.models)
        if place is None:
            return None
        self._places.forget_before(place)
        return _window_place(place)

    def _count(self, examples: Sequence[TrainingExample], seconds: float) -> None:
        for example in examples:
            self.counts.learned[example.source, example.verdict] += 1
        self.counts.training_offset = self._learner.offset
        self.counts.batch_seconds, self.counts.batch_events = seconds, len(examples)


def _offset(position: str | None) -> int:
    return int((position or "0").partition(":")[0])


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), max(0.0, seconds))


def _window_place(place: Place) -> WindowPlace:
    return WindowPlace(place.offset, place.learned, _texts(place.marks))


def _place(stored: bytes) -> Place:
    """Read where the rows stand; a store that does not say begins at the beginning."""
    if not stored:
        return Place(0, 0, {})
    found = msgspec.json.decode(stored, type=WindowPlace)
    return Place(found.offset, found.learned, _numbers(found.marks))


def _texts(marks: dict[int, int]) -> dict[str, int]:
    return {str(partition): seq for partition, seq in marks.items()}


def _numbers(marks: dict[str, int]) -> dict[int, int]:
    return {int(partition): seq for partition, seq in marks.items()}


async def connected_to(servers: str) -> AIOKafkaConsumer:
    """Connect to the training log outside of any group; the caller seeks."""
    return await connected(
        servers,
        TopicPartition(kafka_of(servers).topic(TRAINING), 0),
        Wanted(),
        fetch_max_wait_ms=POLL_MS,
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
    )


async def _polled(consumer: AIOKafkaConsumer, most: int = BATCH_EXAMPLES_MAX) -> Sequence[Found]:
    polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=min(most, BATCH_EXAMPLES_MAX))
    return [record for records in polled.values() for record in records]


def _examples(records: Sequence[Found]) -> list[TrainingExample]:
    examples = []
    for (offset, _), example in zip(
        records, decode_examples(value for _, value in records), strict=True
    ):
        if example is None:
            # Only labellers write here, so this is a fault of ours and never skipped unseen.
            logger.error("not a training example: offset=%d", offset)
        else:
            examples.append(example)
    return examples
