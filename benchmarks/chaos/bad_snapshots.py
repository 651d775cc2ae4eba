"""Snapshots that no worker may adopt, made of one that it did adopt.

Each is a row of one table: what is wrong, and the bytes that are. A pointer makes it champion, a
little ahead of what is in force, so that the trainer's next version is newer again.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from kafka import KafkaProducer

from consumers.model_pointer import CHAMPION_KEY, Champion
from consumers.model_topic import SEND_SECONDS_MAX, read_models
from models.snapshot import HASH_BYTES, SNAPSHOT_BYTES_MAX
from pipeline.keys import init_keys
from pipeline.sealing import opened, seal
from pipeline.settings import Settings
from pipeline.signing import ModelSigner, ModelVerifier
from pipeline.topics import MODELS
from pipeline.topics import SNAPSHOT_BYTES_MAX as RECORD_BYTES_MAX

NUMBER_BYTES = 8
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Signers:
    """The trainer's key, and one of somebody else under the same name."""

    ours: ModelSigner
    forger: ModelSigner


@dataclass(frozen=True, slots=True)
class BadSnapshot:
    """What is wrong with a snapshot, and how it is made of the bytes of a good one."""

    name: str
    made_of: Callable[[bytes, Signers], bytes]


def _flipped(good: bytes, by: Signers) -> bytes:
    """Flip one bit in the middle of the weights, behind the signature's back."""
    place, signed = len(good) // 2, seal(good, by.ours)
    return signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]


def _not_a_number(good: bytes, by: Signers) -> bytes:
    """Put NaN into the last weight, with a hash and a signature that fit."""
    body = good[: -HASH_BYTES - NUMBER_BYTES] + np.array([np.nan], dtype="<f8").tobytes()
    return seal(body + hashlib.sha256(body).digest(), by.ours)


def _too_large(good: bytes, by: Signers) -> bytes:
    """Fill up to more than a snapshot may hold, as far as the topic takes it."""
    return seal(good, by.ours).rjust(SNAPSHOT_BYTES_MAX + 1, b"\0")


BAD_SNAPSHOTS: tuple[BadSnapshot, ...] = (
    BadSnapshot("a flipped bit", _flipped),
    BadSnapshot("a weight that is no number", _not_a_number),
    BadSnapshot("more than 32 MiB", _too_large),
    BadSnapshot("a signature of another key", lambda good, by: seal(good, by.forger)),
    BadSnapshot("no signature", lambda good, by: good),
)


def publish_bad_snapshots(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Publish each as champion; gives what is wrong with it, and the key that is refused."""
    servers, verifier = settings.kafka_servers, ModelVerifier(settings)
    producer = KafkaProducer(
        bootstrap_servers=servers.split(","),
        acks="all",
        max_request_size=RECORD_BYTES_MAX + 1024 * 1024,
        compression_type="lz4",
    )
    with tempfile.TemporaryDirectory() as folder, closing(producer):
        init_keys(Path(folder))
        by = Signers(ModelSigner(settings), ModelSigner(replace(settings, keys_dir=folder)))
        for number, bad in enumerate(BAD_SNAPSHOTS):
            champion, snapshot = _good(servers, verifier)
            good = opened(snapshot, verifier)
            key = f"bad-{number}@{champion.training_offset + 1 + number}".encode()
            _send(producer, key, bad.made_of(good, by), ())
            pointer = _pointer_to(champion, key.decode(), champion.training_offset + 1 + number)
            _send(producer, CHAMPION_KEY, pointer, by.ours.headers(CHAMPION_KEY, pointer))
            yield bad.name, key
        # A version that was in force once, put there again by somebody else.
        champion, _ = _good(servers, verifier)
        back = _pointer_to(champion, champion.version, champion.training_offset + 100)
        _send(producer, CHAMPION_KEY, back, by.forger.headers(CHAMPION_KEY, back))
        yield "a pointer of somebody else", CHAMPION_KEY


def _good(servers: str, verifier: ModelVerifier) -> tuple[Champion, bytes]:
    """Give what the trainer made champion, once it has done so after us, and its snapshot."""
    deadline = time.monotonic() + SEND_SECONDS_MAX
    while time.monotonic() < deadline:
        published = read_models(servers)
        champion = published.champion(verifier)
        if champion is not None and not champion.version.startswith("bad-"):
            return champion, published.snapshots[champion.version]
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"the trainer published no champion within {SEND_SECONDS_MAX:.0f} s")


def _pointer_to(champion: Champion, version: str, offset: int) -> bytes:
    """Give a pointer to another version, as if it were further on."""
    return msgspec.json.encode(Champion(version, [], offset, champion.marks))


def _send(producer: Any, key: bytes, value: bytes, headers: Any) -> None:
    sent = producer.send(MODELS, key=key, value=value, headers=list(headers))
    sent.get(timeout=SEND_SECONDS_MAX)
