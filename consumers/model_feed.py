"""The versions in force, as the trainer publishes them.

Every worker reads the whole `models` topic, outside of the group, and keeps the newest versions in
force. A scorer takes them at the beginning of a batch, so a version is adopted by a commit or not
at all. Before the trainer's first version, models that have learned nothing are in force.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from models import check_kept, make_model
from models.snapshot import Snapshot, decode
from pipeline.engine import Version
from pipeline.errors import SnapshotError
from pipeline.features import FeatureKernel
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import MODELS, SNAPSHOT_BYTES_MAX

logger = logging.getLogger(__name__)

CHAMPION_KEY = b"champion"
POLL_MS = 500


class WindowPlace(msgspec.Struct, frozen=True):
    """Where in the training log the window of a model begins (`pipeline/places.py`)."""

    offset: int
    learned: int
    marks: dict[str, int]


class Champion(msgspec.Struct, frozen=True):
    """The pointer record: which versions are in force, and the learner's marks at their offset.

    `window` is where a trainer begins to read, to hand these versions what they need again.
    """

    version: str
    challengers: list[str]
    training_offset: int
    marks: dict[str, int]
    window: WindowPlace | None = None


class ModelFeed:
    """Follows the `models` topic; `in_force` is the champion and its challengers."""

    def __init__(self, servers: str, schema: Schema, settings: Settings) -> None:
        self._servers = servers
        kernel = FeatureKernel(schema)
        self._schema_hash = kernel.schema_hash
        self._snapshots: dict[str, Snapshot] = {}
        self._pointer: Champion | None = None
        self._consumer: AIOKafkaConsumer | None = None
        names = (settings.model, *settings.challenger_names)
        options = settings.model_options
        check_kept(names, options)
        self._river_pickle = settings.river_pickle
        champion, *challengers = (
            Version(make_model(name, kernel.names, options), 0) for name in names
        )
        self.in_force: tuple[Version, Sequence[Version]] = (champion, challengers)
        self._missed = ""
        self.refused = 0

    async def start(self) -> None:
        """Connect, and read what was published until now."""
        place = TopicPartition(MODELS, 0)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=SNAPSHOT_BYTES_MAX,
            fetch_max_wait_ms=POLL_MS,
        )
        await self._consumer.start()
        self._consumer.assign([place])
        end = (await self._consumer.end_offsets([place]))[place]
        while await self._consumer.position(place) < end:
            await self._read()

    async def follow(self) -> None:
        """Read what is published from now on, until cancelled."""
        while True:
            await self._read()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self) -> None:
        assert self._consumer is not None, "the feed was not started"
        for records in (await self._consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                self.take(record.key, record.value)
            await asyncio.sleep(0)
        self._adopt()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the topic: a snapshot, a retired version, or the pointer."""
        if key is None:
            return
        try:
            if key == CHAMPION_KEY:
                self._point(msgspec.json.decode(value or b"", type=Champion))
            elif value is None:
                self._snapshots.pop(key.decode(), None)
            else:
                self._snapshots[key.decode()] = decode(value, river_pickle=self._river_pickle)
        except (SnapshotError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.refused += 1
            logger.error("snapshot refused: key=%r reason=%s", key, error)

    def _point(self, pointer: Champion) -> None:
        # A trainer that starts publishes its last outbox again, perhaps behind a newer version.
        if self._pointer is None or pointer.training_offset >= self._pointer.training_offset:
            self._pointer = pointer

    def _adopt(self) -> None:
        pointer = self._pointer
        if pointer is None:
            return
        names = (pointer.version, *pointer.challengers)
        found = [self._snapshots[name] for name in names if name in self._snapshots]
        fitting = [item for item in found if item.schema_hash == self._schema_hash]
        if len(fitting) < len(names):
            if self._missed != pointer.version:
                logger.error("version not adopted: version=%s is incomplete", pointer.version)
            self._missed = pointer.version
            return
        champion, *challengers = (Version(item.model, item.training_offset) for item in fitting)
        self.in_force = (champion, challengers)
