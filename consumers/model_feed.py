"""The versions in force, as the trainer publishes them.

Every worker reads the whole `models` topic, outside of the group, and keeps the newest versions in
force. A scorer takes them at the beginning of a batch, so a version is adopted by a commit or not
at all. Before the trainer's first version, models that have learned nothing are in force.

Nothing is taken that the trainer has not signed, snapshot and pointer alike, nor what cannot score
the canary: it is counted, and the version before stays in force. A freeze or a rollback of the
operators (`pipeline/controls.py`) holds a version, and the pointer counts nothing until it ends:
this is the one way back to a version that has learned less. Where none was, the newest valid
version of the topic is taken; where there is none of that either, rules decide until one comes.
"""

import asyncio
import logging
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.model_pointer import CHAMPION_KEY, Champion, read_pointer
from models import check_kept, make_model
from models.snapshot import Snapshot
from pipeline.canary import canary_rows, check_canary
from pipeline.counts import WorkerCounts
from pipeline.engine import Version
from pipeline.errors import SnapshotError
from pipeline.features import FeatureKernel
from pipeline.schema import Schema
from pipeline.sealing import read_version
from pipeline.settings import Settings
from pipeline.signing import Headers, ModelVerifier
from pipeline.topics import MODELS, SNAPSHOT_BYTES_MAX
from pipeline.version_names import split_version
from stack import async_clients
from stack.kafka_address import kafka_of

logger = logging.getLogger(__name__)

POLL_MS = 500

Versions = tuple[Version, Sequence[Version]]
"""A champion and its challengers."""


class ModelFeed:
    """Follows the `models` topic.

    Attributes
    ----------
    in_force
        The champion and its challengers; `None` where no model can be had and rules decide.
    floor
        No pointer to a version that has learned less is taken: the store knows what was in force.
    pinned
        The version that operators hold; `None` while the pointer counts.
    """

    def __init__(
        self, servers: str, schema: Schema, settings: Settings, counts: WorkerCounts
    ) -> None:
        self._servers, self._counts = servers, counts
        kernel = FeatureKernel(schema)
        self._schema_hash = kernel.schema_hash
        self._canary = canary_rows(kernel)
        self._verifier = ModelVerifier(settings)
        self._snapshots: dict[str, Snapshot] = {}
        # Those that have scored the canary.
        self._proven: dict[str, Snapshot] = {}
        self._pointer: Champion | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._names = names = (settings.model, *settings.challenger_names)
        options = settings.model_options
        check_kept(names, options)
        self._river_pickle = settings.river_pickle
        champion, *challengers = (
            Version(make_model(name, kernel.names, options), 0) for name in names
        )
        self.in_force: Versions | None = (champion, challengers)
        self._is_published = False
        self.floor = 0
        self.pinned: str | None = None
        self._missed = ""

    async def start(self) -> None:
        """Connect, read what was published until now, and take what is to be in force."""
        place = TopicPartition(kafka_of(self._servers).topic(MODELS), 0)
        self._consumer = async_clients.async_consumer(
            self._servers,
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
        self.adopt()

    async def follow(self) -> None:
        """Read what is published from now on, until cancelled."""
        while True:
            await self._read()
            self.adopt()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self) -> None:
        assert self._consumer is not None, "the feed was not started"
        for records in (await self._consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                self.take(record.key, record.value, record.headers)
            await asyncio.sleep(0)

    def take(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Take one record of the topic: a snapshot, a retired version, or the pointer."""
        if key is None:
            return
        try:
            if key == CHAMPION_KEY:
                self._point(read_pointer(value, headers, self._verifier))
            elif value is None:
                self._snapshots.pop(key.decode(errors="replace"), None)
            else:
                version = key.decode(errors="replace")
                self._snapshots[version] = read_version(
                    version, value, self._verifier, river_pickle=self._river_pickle
                )
        except SnapshotError as error:
            self._refuse(key, error)

    def _refuse(self, key: bytes | str, error: SnapshotError) -> None:
        self._counts.models_refused[error.fault] += 1
        logger.error("snapshot refused: key=%r reason=%s", key, error)

    def _point(self, pointer: Champion) -> None:
        # A trainer that starts publishes its last outbox again, perhaps behind a newer version; and
        # whoever can write the topic may send an old pointer again, signed as it is.
        if self._pointer is None or pointer.training_offset >= self._pointer.training_offset:
            self._pointer = pointer

    def adopt(self) -> None:
        """Take into force what was published; what decides already stays where that fails."""
        pointer, pinned = self._pointer, self.pinned
        if pinned is not None:
            found = self._held(pinned)
        else:
            found = self._pointed(pointer) if pointer is not None else None
        if found is not None:
            self.in_force, self._is_published = found, True
        elif not self._is_published and (pointer or pinned or self.floor > 0):
            # A version was in force once, here or elsewhere: one that learned nothing is no answer.
            self._fall_back()
        self._counts.rules_in_force = self.in_force is None

    def _held(self, pinned: str) -> Versions | None:
        """Give the version that operators hold, and its challengers that can be had."""
        champion = self._version(pinned)
        if champion is None:
            if self._missed != pinned:
                logger.error("version not adopted: version=%s is held and cannot be had", pinned)
            self._missed = pinned
            return None
        return champion, self._beside(champion)

    def _beside(self, champion: Version) -> list[Version]:
        """Give the versions of the other models that were learned to the same offset."""
        names = [name for name in self._names if name != champion.model.name]
        found = (self._version(f"{name}@{champion.offset}") for name in names)
        return [version for version in found if version is not None]

    def _pointed(self, pointer: Champion) -> Versions | None:
        """Give the versions of the pointer, if it is no older than what was in force, and all are
        good.
        """
        names = (pointer.version, *pointer.challengers)
        if pointer.training_offset < self.floor:
            said = f"less was learned than at {self.floor}, which was in force"
            if self._missed != pointer.version:
                self._refuse(CHAMPION_KEY, SnapshotError(f"pointer: {said}", "stale"))
            self._missed = pointer.version
            return None
        found = [version for name in names if (version := self._version(name)) is not None]
        if len(found) < len(names):
            if self._missed != pointer.version:
                logger.error("version not adopted: version=%s is incomplete", pointer.version)
            self._missed = pointer.version
            return None
        champion, *challengers = found
        return champion, challengers

    def _version(self, name: str) -> Version | None:
        """Give a version that was published, has our features, and can score the canary."""
        snapshot = self._snapshots.get(name)
        if snapshot is None or snapshot.schema_hash != self._schema_hash:
            return None
        if self._proven.get(name) is not snapshot:
            try:
                check_canary(snapshot.model, self._canary)
            except SnapshotError as error:
                del self._snapshots[name]
                self._refuse(name, error)
                return None
            self._proven = {
                key: self._snapshots[key] for key in self._proven if key in self._snapshots
            }
            self._proven[name] = snapshot
        return Version(snapshot.model, snapshot.training_offset)

    def _fall_back(self) -> None:
        """Take the newest valid version that is left, or none: then rules decide.

        While operators hold a version, none that has learned more is taken.
        """
        champion = self._names[0]
        held = split_version(self.pinned) if self.pinned else None
        offsets = sorted({item.training_offset for item in self._snapshots.values()}, reverse=True)
        for offset in offsets:
            if held is not None and offset > held[1]:
                continue
            found = self._version(f"{champion}@{offset}")
            if found is None:
                continue
            self.in_force = found, self._beside(found)
            self._is_published = True
            logger.error("an older version is in force: version=%s", found.name)
            return
        if self.in_force is not None:
            logger.error("no model can be had: rules decide until one is published")
        self.in_force = None
