"""The trainer: the one writer of the models and of what labels teach the profiles.

It folds the `training` log: test, then train, in the order of the log. One commit holds the
training offset, the rows it changed and the snapshots to publish (`pipeline/commit.py`). A restart
reads the newest snapshot, folds again from there to the committed offset for the models alone,
since the rows hold those examples already, and goes on. A second trainer is refused at its first
commit and ends.
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
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition

from consumers.model_feed import CHAMPION_KEY, Champion, WindowPlace
from consumers.model_topic import read_models
from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_store import RedisStore, as_bytes
from models import check_kept, make_model
from models.contract import Model
from models.snapshot import Snapshot, encode
from pipeline.commit import Change, Input, OutboxRecord
from pipeline.counts import TrainerCounts
from pipeline.engine import Version
from pipeline.errors import CommitError, SnapshotError
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.places import Place, Places
from pipeline.records import TrainingExample, decode_examples
from pipeline.schema import Schema
from pipeline.sealing import read_version, seal
from pipeline.settings import Settings
from pipeline.signing import ModelSigner, ModelVerifier
from pipeline.topics import MODELS, TRAINING
from pipeline.warm_up import warm_up

logger = logging.getLogger(__name__)

POLL_MS = 100
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
        self._entities = [item.name for item in schema.keyed]
        self._store = RedisStore(redis_url, retry_seconds_max=settings.retry_seconds_max)
        self._publisher = OutboxPublisher(kafka_servers)
        self._input = Input(
            self._store,
            self._publisher.publish,
            name=TRAINING,
            owner=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        )
        self._learner = self._new_learner(self._fresh_models(), {})
        self._places = Places()
        self._versions: OrderedDict[str, None] = OrderedDict()
        self._steps = 0
        self._published_at = 0.0
        self._published_offset = -1

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Fold the training log until stopped."""
        warm_up(self._schema, self._settings)
        await self._store.check()
        await self._publisher.start()
        consumer = _consumer(self._servers)
        try:
            await self._restore(consumer)
            on_ready()
            while not stop.is_set():
                started = time.monotonic()
                await self._step(consumer)
                # A step costs a commit: what comes meanwhile is learned together.
                until = started + self._settings.label_linger_seconds
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.0, until - time.monotonic()))
            await self._publish_if_due(at_once=True)
        finally:
            consumer.close()
            await self._publisher.stop()
            await self._store.close()

    def _fresh_models(self) -> list[Model]:
        return [
            make_model(name, self._kernel.names, self._settings.model_options)
            for name in self._names
        ]

    def _new_learner(self, models: Sequence[Model], marks: dict[int, int]) -> Learner:
        return Learner(self._schema, self._kernel.schema_hash, models, marks)

    async def _restore(self, consumer: Any) -> None:
        """Stand where the store stands, with models folded to there."""
        position = await self._input.recover() or "0:0"
        committed, self._steps = (int(part) for part in position.split(":"))
        snapshots, pointer = await asyncio.to_thread(self._read_models)
        start = self._restored(snapshots, pointer, committed)
        place = TopicPartition(TRAINING, 0)
        end = (await asyncio.to_thread(consumer.end_offsets, [place]))[place]
        if end < committed:
            raise CommitError(
                f"the training log ends at {end}, but {committed} records of it were learned: "
                "the topic was made anew, or Redis is that of another cluster"
            )
        consumer.assign([place])
        consumer.seek(place, self._learner.offset)
        while self._learner.offset < committed:
            records = await self._poll(consumer, most=committed - self._learner.offset)
            await self._learn(self._learner.fresh(_examples(records)), records, profiles=False)
        self.counts.training_offset = self._learner.offset
        logger.info("trainer ready: training_offset=%d snapshot=%d", committed, start)

    def _restored(
        self, snapshots: dict[str, Snapshot], pointer: Champion | None, committed: int
    ) -> int:
        """Take the models of the newest versions, if they are ours; gives their offset."""
        if pointer is None or pointer.training_offset > committed:
            return 0
        found = [snapshots.get(name) for name in (pointer.version, *pointer.challengers)]
        models = {item.model.name: item.model for item in found if item is not None}
        fitting = all(item and item.schema_hash == self._kernel.schema_hash for item in found)
        if not fitting or set(models) != set(self._names):
            # Other models or features than before: the log gives them from its beginning.
            return 0
        marks = _numbers(pointer.marks)
        self._learner = self._new_learner([models[name] for name in self._names], marks)
        self._learner.go_back(self._first_place(pointer))
        self._places.note(self._learner.place)
        self._published_offset = pointer.training_offset
        return pointer.training_offset

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

    async def _poll(self, consumer: Any, most: int = BATCH_EXAMPLES_MAX) -> list[Any]:
        return await asyncio.to_thread(_polled, consumer, min(most, BATCH_EXAMPLES_MAX))

    async def _step(self, consumer: Any) -> None:
        records = await self._poll(consumer)
        if not records:
            await self._publish_if_due()
            return
        started = time.perf_counter()
        before = self._learner.counts.copy()
        fresh = self._learner.fresh(_examples(records))
        await self._load_rows(fresh)
        await self._learn(fresh, records)
        await self._commit(self._row_changes(fresh), self._due_records())
        self._count(fresh, time.perf_counter() - started)
        self.counts.duplicates += self._learner.counts["duplicate"] - before["duplicate"]

    async def _learn(
        self, fresh: list[TrainingExample], records: list[Any], *, profiles: bool = True
    ) -> None:
        # In a thread: a model may wait for a fit, and connections must be tended meanwhile.
        await asyncio.to_thread(self._learner.learn, fresh, profiles=profiles)
        if records:
            self._learner.profiles.offset = records[-1].offset + 1
            self._places.note(self._learner.place)

    async def _publish_if_due(self, *, at_once: bool = False) -> None:
        if at_once:
            self._published_at = 0.0
        records = self._due_records()
        if records:
            await self._commit([], records)

    async def _commit(self, changes: list[Change], records: list[OutboxRecord]) -> None:
        # Every step has a position of its own, so that one that only publishes is fenced as well.
        self._steps += 1
        position = f"{self._learner.offset}:{self._steps}"
        if not await self._input.commit(position, records, changes):
            raise CommitError("another trainer is at work: this one was refused, and ends")
        if records:
            self._published_at = time.monotonic()
            self._published_offset = self._learner.offset
            self.counts.snapshots += len(self._names)

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
            blobs = await self._store.redis.mget([f"l:{name}:{key}" for key in wanted])
            rows = [(key, as_bytes(blob)) for key, blob in zip(wanted, blobs, strict=True) if blob]
            if rows:
                table.load(*zip(*rows, strict=True))

    def _row_changes(self, examples: Sequence[TrainingExample]) -> list[Change]:
        changes: list[Change] = []
        keys = self._learner.keys(examples)
        for table, name, ids in zip(
            self._learner.profiles.tables, self._entities, keys, strict=True
        ):
            pairs = [
                word for key in dict.fromkeys(ids) for word in (f"l:{name}:{key}", table.blob(key))
            ]
            for first in range(0, len(pairs), 2 * ROWS_OF_CHANGE_MAX):
                changes.append(("MSET", *pairs[first : first + 2 * ROWS_OF_CHANGE_MAX]))
            self.counts.profile_rows += len(pairs) // 2
        return changes

    def _due_records(self) -> list[OutboxRecord]:
        """Give the snapshots to publish, if something was learned and it is time."""
        elapsed = time.monotonic() - self._published_at
        if self._learner.offset in {0, self._published_offset}:
            return []
        if elapsed < self._settings.snapshot_interval_seconds:
            return []
        return list(self._snapshot_records())

    def _snapshot_records(self) -> Iterator[OutboxRecord]:
        offset = self._learner.offset
        versions = [Version(model, offset) for model in self._learner.models]
        for version in versions:
            value = encode(
                version.model,
                version=version.name,
                training_offset=offset,
                schema_hash=self._kernel.schema_hash,
            )
            self._versions[version.name] = None
            self._versions.move_to_end(version.name)
            yield OutboxRecord(MODELS, 0, version.name.encode(), seal(value, self._signer))
        champion, *challengers = (version.name for version in versions)
        pointer = Champion(
            champion, challengers, offset, _texts(self._learner.marks), self._window_place()
        )
        value = msgspec.json.encode(pointer)
        headers = self._signer.headers(CHAMPION_KEY, value)
        yield OutboxRecord(MODELS, 0, CHAMPION_KEY, value, headers)
        while len(self._versions) > self._settings.models_kept * len(versions):
            retired, _ = self._versions.popitem(last=False)
            yield OutboxRecord(MODELS, 0, retired.encode(), None)

    def _window_place(self) -> WindowPlace | None:
        place = self._places.needed(self._learner.models)
        if place is None:
            return None
        self._places.forget_before(place)
        return WindowPlace(place.offset, place.learned, _texts(place.marks))

    def _count(self, examples: Sequence[TrainingExample], seconds: float) -> None:
        for example in examples:
            self.counts.learned[example.source, example.verdict] += 1
        self.counts.training_offset = self._learner.offset
        self.counts.batch_seconds, self.counts.batch_events = seconds, len(examples)


def _texts(marks: dict[int, int]) -> dict[str, int]:
    return {str(partition): seq for partition, seq in marks.items()}


def _numbers(marks: dict[str, int]) -> dict[int, int]:
    return {int(partition): seq for partition, seq in marks.items()}


def _consumer(servers: str) -> Any:
    return KafkaConsumer(
        bootstrap_servers=servers.split(","),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=POLL_MS,
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
    )


def _polled(consumer: Any, most: int) -> list[Any]:
    polled = consumer.poll(timeout_ms=POLL_MS, max_records=most)
    return [record for records in polled.values() for record in records]


def _examples(records: Sequence[Any]) -> list[TrainingExample]:
    examples = []
    for record, example in zip(
        records, decode_examples(record.value for record in records), strict=True
    ):
        if example is None:
            # Only labellers write here, so this is a fault of ours and never skipped unseen.
            logger.error("not a training example: offset=%d", record.offset)
        else:
            examples.append(example)
    return examples
