"""Snapshots that no worker may adopt, made of one that it did adopt.

Each is a row of one table: what is wrong, and the bytes that are. A pointer makes it champion, a
little ahead of what is in force, so that the trainer's next version is newer again.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import msgspec
import numpy as np
from kafka import KafkaProducer

from consumers.model_feed import CHAMPION_KEY, Champion
from consumers.model_topic import SEND_SECONDS_MAX, read_models
from models.snapshot import HASH_BYTES, SNAPSHOT_BYTES_MAX
from pipeline.topics import MODELS
from pipeline.topics import SNAPSHOT_BYTES_MAX as RECORD_BYTES_MAX

NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class BadSnapshot:
    """What is wrong with a snapshot, and how it is made of a good one."""

    name: str
    made_of: Callable[[bytes], bytes]


def _flipped(good: bytes) -> bytes:
    """Flip one bit in the middle of the weights."""
    place = len(good) // 2
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]


def _not_a_number(good: bytes) -> bytes:
    """Put NaN into the last weight, and a hash that fits."""
    body = good[: -HASH_BYTES - NUMBER_BYTES] + np.array([np.nan], dtype="<f8").tobytes()
    return _hashed(body)


def _too_large(good: bytes) -> bytes:
    """Fill up to more than a snapshot may hold, as far as the topic takes it."""
    return _hashed(good[:-HASH_BYTES] + bytes(SNAPSHOT_BYTES_MAX + 1 - len(good)))


def _hashed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


BAD_SNAPSHOTS: tuple[BadSnapshot, ...] = (
    BadSnapshot("a flipped bit", _flipped),
    BadSnapshot("a weight that is no number", _not_a_number),
    BadSnapshot("more than 32 MiB", _too_large),
)


def publish_bad_snapshots(servers: str) -> Iterator[tuple[str, bytes]]:
    """Publish each as champion; gives what is wrong with it, and its key."""
    producer = KafkaProducer(
        bootstrap_servers=servers.split(","),
        acks="all",
        max_request_size=RECORD_BYTES_MAX + 1024 * 1024,
        compression_type="lz4",
    )
    with closing(producer):
        for number, bad in enumerate(BAD_SNAPSHOTS):
            published = read_models(servers)
            assert published.champion is not None, "nothing was published yet"
            good = published.snapshots[published.champion.version]
            offset = published.champion.training_offset + 1 + number
            key = f"bad-{number}@{offset}".encode()
            pointer = Champion(key.decode(), [], offset, {})
            for name, value in (
                (key, bad.made_of(good)),
                (CHAMPION_KEY, msgspec.json.encode(pointer)),
            ):
                producer.send(MODELS, key=name, value=value).get(timeout=SEND_SECONDS_MAX)
            yield bad.name, key
