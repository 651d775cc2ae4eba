"""The `models` topic as it stands: what was published, which versions are in force, one more.

The trainer writes the topic and every worker follows it (`model_feed.py`); here it is read once,
for those who list, save, publish or verify.
"""

from dataclasses import dataclass, field

import msgspec
from kafka import KafkaProducer

from consumers.log_reader import LogReader, read_topic
from consumers.model_feed import CHAMPION_KEY, Champion
from models.snapshot import Snapshot
from pipeline.errors import DataError
from pipeline.topics import MODELS, SNAPSHOT_BYTES_MAX, TRAINING

SEND_SECONDS_MAX = 30.0


@dataclass(slots=True)
class PublishedModels:
    """Snapshots by version, in the order of their publication, and the pointer."""

    snapshots: dict[str, bytes] = field(default_factory=dict)
    champion: Champion | None = None

    def role(self, version: str) -> str:
        """Say whether a version is the champion or a challenger in force."""
        if self.champion is None:
            return ""
        if version == self.champion.version:
            return "champion"
        return "challenger" if version in self.champion.challengers else ""


def read_models(servers: str) -> PublishedModels:
    """Read what is published now; a damaged pointer counts as none."""
    found = PublishedModels()
    for record in read_topic(servers, MODELS):
        if record.key is None:
            continue
        if record.key == CHAMPION_KEY:
            found.champion = _pointer(record.value) or found.champion
            continue
        version = record.key.decode(errors="replace")
        found.snapshots.pop(version, None)
        if record.value is not None:
            found.snapshots[version] = record.value
    return found


def _pointer(value: bytes | None) -> Champion | None:
    try:
        return msgspec.json.decode(value or b"", type=Champion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def publish_model(servers: str, snapshot: Snapshot, data: bytes) -> None:
    """Publish a snapshot and make it champion, without challengers.

    Workers take no version older than the one in force, so one that is not newer is refused. So is
    one within this Kafka's own training log: there its name stands for the fold of that log.
    """
    champion = read_models(servers).champion
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
    producer = KafkaProducer(
        bootstrap_servers=servers.split(","), acks="all", max_request_size=SNAPSHOT_BYTES_MAX
    )
    try:
        for key, value in (
            (snapshot.version.encode(), data),
            (CHAMPION_KEY, msgspec.json.encode(pointer)),
        ):
            producer.send(MODELS, key=key, value=value).get(timeout=SEND_SECONDS_MAX)
    finally:
        producer.close()
