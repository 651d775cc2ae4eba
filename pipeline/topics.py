"""The Kafka topics and their settings, in one table.

Topics use LogAppendTime: with the event's own time as record time, retention would delete
historical events within minutes of their arrival.
"""

from dataclasses import dataclass, field

from pipeline.durations import DAY_MS

TRANSACTIONS = "transactions"
FEEDBACK = "feedback"
OUTCOMES = "outcomes"
DECISIONS = "decisions"
TRAINING = "training"
MODELS = "models"
DEAD_LETTERS = "dead-letters"
CONTROLS = "controls"

# Input records are small; the broker compresses them itself, whatever the producer chose.
INPUT_CONFIG = {
    "max.message.bytes": "65536",
    "compression.type": "lz4",
    "retention.ms": str(7 * DAY_MS),
}
SNAPSHOT_BYTES_MAX = 33 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's name, partition count (`None`: as the `partitions` setting says) and settings."""

    name: str
    partitions: int | None
    config: dict[str, str] = field(default_factory=dict)


def _topic(name: str, config: dict[str, str], partitions: int | None = None) -> Topic:
    return Topic(name, partitions, {"message.timestamp.type": "LogAppendTime", **config})


TOPICS: tuple[Topic, ...] = (
    _topic(TRANSACTIONS, INPUT_CONFIG),
    _topic(FEEDBACK, INPUT_CONFIG),
    _topic(OUTCOMES, INPUT_CONFIG),
    # A chargeback may take 120 days: until then the decision must be readable.
    _topic(DECISIONS, {"retention.ms": str(120 * DAY_MS), "max.message.bytes": "4194304"}),
    # The one log that the model is a fold of is never deleted.
    _topic(TRAINING, {"retention.ms": "-1", "max.message.bytes": "4194304"}, partitions=1),
    _topic(
        MODELS,
        {
            "cleanup.policy": "compact",
            "max.message.bytes": str(SNAPSHOT_BYTES_MAX),
            # Only closed segments are compacted, and every start reads what is left.
            "segment.bytes": str(64 * 1024 * 1024),
            "segment.ms": str(10 * 60 * 1000),
            "min.cleanable.dirty.ratio": "0.1",
        },
        partitions=1,
    ),
    # What operators said is never deleted either: any decision can be made again by it.
    _topic(CONTROLS, {"retention.ms": "-1", "max.message.bytes": "65536"}, partitions=1),
    _topic(DEAD_LETTERS, {"retention.ms": str(30 * DAY_MS), "max.message.bytes": "4194304"}),
)
