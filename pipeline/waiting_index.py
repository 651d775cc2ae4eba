"""The index of decisions that wait for a label: where each stands in `decisions`, in few bytes.

The features of a decision are in the log that holds it, so an entry need only say where: the
decision's offset, what is known of its outcome, and, once a label came, the verdict in force. An
entry is found by 62 bits of a hash of the transaction id: 14 choose the bucket, 48 name the entry
in it. Whoever reads the decision back compares its id, so that two ids of one hash are noticed.

    entry   offset (6 bytes)   outcome (1 byte)   verdict in force (none, or 20 bytes and more)

>>> place_of("t-1")
IndexPlace(bucket=451, field=b'Q\\x15\\xf0\\x9b\\x0b\\xc2')
>>> entry = IndexEntry(offset=513, is_decided=True, outcome="settled", verdict=None)
>>> entry.packed(), IndexEntry.unpacked(entry.packed()) == entry
(b'\\x01\\x02\\x00\\x00\\x00\\x00\\x03', True)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from pipeline.label_words import OUTCOME_KINDS, OutcomeKind
from pipeline.verdicts import KnownVerdict, is_packed_verdict

OFFSET_BYTES = 6
# Beyond this the outcome of an event is known and its decision is not yet.
UNDECIDED = 128
BUCKET_BITS = 14
# A million entries are 61 in a bucket, and Redis packs up to 512 into one allocation.
BUCKETS = 1 << BUCKET_BITS
FIELD_BYTES = 6


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where the entry of an id is looked for."""

    bucket: int
    field: bytes


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """What is kept of one event; `is_decided` is false where its outcome came before it."""

    offset: int
    is_decided: bool
    outcome: OutcomeKind | None
    verdict: KnownVerdict | None

    def packed(self) -> bytes:
        """Give the bytes that `unpacked` reads."""
        outcome = outcome_code(self.outcome) | (0 if self.is_decided else UNDECIDED)
        verdict = self.verdict.packed() if self.verdict else b""
        return self.offset.to_bytes(OFFSET_BYTES, "little") + bytes([outcome]) + verdict

    @classmethod
    def unpacked(cls, data: bytes) -> "IndexEntry":
        """Read an entry as the store holds it."""
        if not (len(data) == OFFSET_BYTES + 1 or is_packed_verdict(data[OFFSET_BYTES + 1 :])):
            raise ValueError("its length is that of no entry")
        outcome, verdict = data[OFFSET_BYTES], data[OFFSET_BYTES + 1 :]
        return cls(
            offset=int.from_bytes(data[:OFFSET_BYTES], "little"),
            is_decided=outcome < UNDECIDED,
            outcome=(None, *OUTCOME_KINDS)[outcome % UNDECIDED],
            verdict=KnownVerdict.unpacked(verdict) if verdict else None,
        )


def outcome_code(outcome: OutcomeKind | None) -> int:
    """Give the number of an outcome; 0 is none."""
    return 0 if outcome is None else 1 + OUTCOME_KINDS.index(outcome)


def place_of(transaction_id: str) -> IndexPlace:
    """Give where the entry of a transaction is looked for."""
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=2 + FIELD_BYTES).digest()
    return IndexPlace(int.from_bytes(digest[:2], "little") % BUCKETS, digest[2:])


def packed_place(key: bytes) -> bytes:
    """Give the place of a transaction as the store's scripts read it.

    >>> packed_place(b"t-1") == (451).to_bytes(2, "little") + place_of("t-1").field
    True
    """
    digest = hashlib.blake2b(key, digest_size=2 + FIELD_BYTES).digest()
    # The two highest bits of the first two bytes, which are little-endian, name no bucket.
    return b"%c%c%b" % (digest[0], digest[1] & (BUCKETS - 1) >> 8, digest[2:])


def packed_entries(keys: Sequence[bytes], offsets: Sequence[int]) -> bytes:
    """Give the places of many transactions, each with the offset of its decision behind it.

    >>> packed = packed_entries([b"t-1", b"t-2"], [513, 514])
    >>> place, offset = place_of("t-2"), (514).to_bytes(OFFSET_BYTES, "little")
    >>> packed[14:] == place.bucket.to_bytes(2, "little") + place.field + offset
    True
    """
    size = 2 + FIELD_BYTES
    digests = b"".join([hashlib.blake2b(key, digest_size=size).digest() for key in keys])
    entries = np.empty((len(keys), size + OFFSET_BYTES), dtype=np.uint8)
    entries[:, :size] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, size)
    # The two highest bits of the first two bytes, which are little-endian, name no bucket.
    entries[:, 1] &= (BUCKETS - 1) >> 8
    bytes_of = np.array(offsets, dtype="<i8").view(np.uint8).reshape(-1, 8)
    entries[:, size:] = bytes_of[:, :OFFSET_BYTES]
    return entries.tobytes()
