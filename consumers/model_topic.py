"""The `models` topic as it stands: what was published, which versions are in force, one more.

The trainer writes the topic and every worker follows it (`model_feed.py`); here it is read once,
for those who list, save, publish or verify.
"""

import logging
from dataclasses import dataclass, field

import msgspec

from consumers.log_reader import LogReader, read_topic
from consumers.model_pointer import CHAMPION_KEY, Champion, read_pointer
from models.snapshot import Snapshot
from pipeline.errors import DataError, SnapshotError
from pipeline.sealing import opened, read_version
from pipeline.signing import Headers, ModelSigner, ModelVerifier
from pipeline.topics import MODELS, SNAPSHOT_BYTES_MAX, TRAINING
from stack import kafka_clients
from stack.kafka_address import kafka_of

logger = logging.getLogger(__name__)

SEND_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Pointed:
    """A record of the pointer as it came."""

    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class PublishedModels:
    """Sealed snapshots by version, in the order of their publication, and all pointer records."""

    snapshots: dict[str, bytes] = field(default_factory=dict)
    pointers: list[Pointed] = field(default_factory=list)

    def champion(self, verifier: ModelVerifier) -> Champion | None:
        """Give the pointer that is in force: of those whose signature is good, the newest."""
        newest: Champion | None = None
        for item in self.pointers:
            try:
                pointer = read_pointer(item.value, item.headers, verifier)
            except SnapshotError as error:
                logger.error("pointer refused: reason=%s", error)
                continue
            # As the workers do, so that an old one that was sent again changes nothing.
            if newest is None or pointer.training_offset >= newest.training_offset:
                newest = pointer
        return newest

    def checked(self, verifier: ModelVerifier) -> tuple[dict[str, bytes], dict[str, str]]:
        """Give the snapshots without their signatures, and why others were refused."""
        bodies: dict[str, bytes] = {}
        refused: dict[str, str] = {}
        for version, data in self.snapshots.items():
            try:
                bodies[version] = opened(data, verifier)
            except SnapshotError as error:
                refused[version] = str(error)
        return bodies, refused

    def check(self, version: str, verifier: ModelVerifier, *, river_pickle: bool) -> None:
        """Refuse a published version that cannot be taken into force."""
        read_version(version, self.snapshots[version], verifier, river_pickle=river_pickle)


def role(pointer: Champion | None, version: str) -> str:
    """Say whether a version is the champion or a challenger in force."""
    if pointer is None:
        return ""
    if version == pointer.version:
        return "champion"
    return "challenger" if version in pointer.challengers else ""


def read_models(servers: str) -> PublishedModels:
    """Read what is published now; nothing of it is checked yet."""
    found = PublishedModels()
    for record in read_topic(servers, MODELS):
        if record.key is None:
            continue
        if record.key == CHAMPION_KEY:
            found.pointers.append(Pointed(record.value, tuple(record.headers)))
            continue
        version = record.key.decode(errors="replace")
        found.snapshots.pop(version, None)
        if record.value is not None:
            found.snapshots[version] = record.value
    return found


def publish_model(
    servers: str, snapshot: Snapshot, data: bytes, signer: ModelSigner, verifier: ModelVerifier
) -> None:
    """Publish a signed snapshot and make it champion, without challengers.

    Workers take no version older than the one in force, so one that is not newer is refused. So is
    one within this Kafka's own training log: there its name stands for the fold of that log.
    """
    champion = read_models(servers).champion(verifier)
    if champion is not None and champion.training_offset >= snapshot.training_offset:
        raise DataError(
            f"{champion.version} is in force: a version that is not newer is not adopted "
            f"(got {snapshot.version})"
        )
    with LogReader(servers, TRAINING) as reader:
        learned = sum(reader.ends.values())
    if learned >= snapshot.training_offset:
        raise DataError(
            f"the training log here holds {learned} records: {snapshot.version} would be taken "
            "for what was learned from them"
        )
    pointer = Champion(snapshot.version, [], snapshot.training_offset, {})
    producer = kafka_clients.producer(servers, acks="all", max_request_size=SNAPSHOT_BYTES_MAX)
    topic = kafka_of(servers).topic(MODELS)
    try:
        value = msgspec.json.encode(pointer)
        headers = signer.headers(CHAMPION_KEY, value)
        for key, sent, own in (
            (snapshot.version.encode(), data, []),
            (CHAMPION_KEY, value, headers),
        ):
            future = producer.send(topic, key=key, value=sent, headers=own)
            future.get(timeout=SEND_SECONDS_MAX)
    finally:
        producer.close()
