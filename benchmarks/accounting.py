"""What became of everything that was published: the end of a run, and its books.

Each published id must have exactly one distinct decision, each label one entry of the ledger, and
each learned label one training example.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from redis import Redis

from benchmarks.progress import Report
from benchmarks.topics import Decided, Ids, Ints
from pipeline.settings import Settings
from pipeline.topics import FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.verdicts import LABEL_PATHS
from stack.servers import Endpoints

# How long the workers and the trainer may go without a step forward before it is called an end.
STALL_SECONDS_MAX = 120.0
POLL_SECONDS = 0.5


def drain(
    settings: Settings,
    endpoints: Endpoints,
    report: Report,
    topics: Sequence[str] = (TRANSACTIONS, FEEDBACK, TRAINING),
) -> None:
    """Wait until every input stands at its end; `training` among them is the trainer's."""
    redis = Redis.from_url(endpoints.redis_url)
    consumer = KafkaConsumer(bootstrap_servers=endpoints.kafka_servers.split(","))
    moved_at, before = time.monotonic(), -1
    while time.monotonic() - moved_at < STALL_SECONDS_MAX:
        done, total = _standing(settings, consumer, redis, topics)
        report(done, total)
        if done == total:
            break
        if done != before:
            moved_at, before = time.monotonic(), done
        time.sleep(POLL_SECONDS)
    consumer.close()


def _standing(
    settings: Settings, consumer: Any, redis: Any, topics: Sequence[str]
) -> tuple[int, int]:
    """Give how many input records were committed, and how many there are."""
    places = {
        TopicPartition(topic, partition): f"pos:{topic}:{partition}"
        for topic in topics
        if topic != TRAINING
        for partition in range(settings.partitions)
    }
    if TRAINING in topics:
        places[TopicPartition(TRAINING, 0)] = f"pos:{TRAINING}"
    # The ends first: what is appended after them is not waited for twice.
    ends = consumer.end_offsets(list(places))
    stored = redis.mget(places.values())
    return sum(int((text or b"0").split(b":")[0]) for text in stored), sum(ends.values())


def ledger(settings: Settings, endpoints: Endpoints) -> dict[str, int]:
    """Give how many labels went which way."""
    redis: Any = Redis.from_url(endpoints.redis_url)
    total: Counter[str] = Counter()
    for partition in range(settings.partitions):
        for name, count in redis.hgetall(f"ledger:{partition}").items():
            total[name.decode()] += int(count)
    return {name: total[name] for name in LABEL_PATHS if total[name]}


@dataclass(frozen=True, slots=True)
class Distinct:
    """The decisions of each id.

    Parameters
    ----------
    transaction_id
        Every id once, sorted.
    row
        Where its first decision stands.
    repeated
        Decisions that were published again.
    conflicting
        Those among them that differ from the first of their id in any byte.
    """

    transaction_id: Ids
    row: Ints
    repeated: int
    conflicting: int


def distinct(decided: Decided) -> Distinct:
    """Tell first decisions from repeated ones."""
    ids, first, which = np.unique(decided.transaction_id, return_index=True, return_inverse=True)
    differs = decided.digest != decided.digest[first][which]
    return Distinct(ids, first, len(decided) - len(ids), int(differs.sum()))
