"""What the store keeps, with a version and a checksum at its end, so that damage is noticed.

The checksum is of the key as well: a row that was copied to another key fits neither. Rings of
buckets are written in place by the store's own script, so they carry none; their form is checked
instead (`docs/decisions/0032-damaged-rows.md`).

>>> stored = sealed("c:0:c1", b"row")
>>> unsealed("c:0:c1", stored), len(stored)
(b'row', 8)
>>> unsealed("c:0:c2", stored)
Traceback (most recent call last):
pipeline.errors.CommitError: c:0:c2 in the store is damaged: its checksum does not fit ...
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CommitError
from pipeline.events import AMOUNT_MINOR_MAX
from pipeline.profiles import (
    BUCKET,
    BUCKET_SLOTS,
    DAY_SLOTS,
    HOUR_SLOTS,
    PROBES,
    SEEN_SLOTS,
    Structured,
)

# Counted up when a row's layout changes.
VERSION = b"\x01"
CHECKSUM_BYTES = 4
SEAL_BYTES = len(VERSION) + CHECKSUM_BYTES

_SLOTS = np.concatenate([np.arange(HOUR_SLOTS), np.arange(DAY_SLOTS)])
_WIDTHS = np.repeat([HOUR_SLOTS, DAY_SLOTS], [HOUR_SLOTS, DAY_SLOTS])


def sealed(key: str, content: bytes) -> bytes:
    """Give the stored form of what is kept under a key."""
    return content + VERSION + _checksum(key, content)


def unsealed(key: str, stored: bytes, *, size: int | None = None) -> bytes:
    """Give what was kept, or say how it is damaged; `size` is how many bytes it must be."""
    content, version = stored[:-SEAL_BYTES], stored[-SEAL_BYTES:-CHECKSUM_BYTES]
    if len(stored) < SEAL_BYTES:
        raise damaged(key, f"it has {len(stored)} bytes, fewer than a version and a checksum")
    if stored[-CHECKSUM_BYTES:] != _checksum(key, content, version):
        raise damaged(key, "its checksum does not fit")
    if version != VERSION:
        raise damaged(key, f"it has version {version[0]}, expected {VERSION[0]}")
    if size is not None and len(content) != size:
        raise damaged(key, f"it has {len(content)} bytes, expected {size}")
    return content


def damaged(key: str, what: str) -> CommitError:
    """Give the error that ends a process: it names the key, and where it is said what to do."""
    return CommitError(f"{key} in the store is damaged: {what} (docs/operations.md)")


def check_ring_bytes(key: str, stored: bytes) -> None:
    """Refuse a stored ring that is no whole number of slots."""
    size = BUCKET.itemsize
    if len(stored) % size or len(stored) > BUCKET_SLOTS * size:
        raise damaged(key, f"it has {len(stored)} bytes, expected up to {BUCKET_SLOTS} slots of 20")


def check_rings(keys: Sequence[str], rings: Structured) -> None:
    """Refuse rings that hold what no event can have written.

    A bucket of event time has one slot where it may stand, and its sums have bounds.
    """
    bucket, count = rings["bucket"], rings["count"]
    amount, unusual = rings["amount"], rings["unusual"]
    is_empty = (bucket == 0) & (count == 0) & (amount == 0) & (unusual == 0)
    fits = (bucket > 0) & (bucket % _WIDTHS == _SLOTS) & (count > 0)
    fits &= (unusual >= 0) & (unusual <= count)
    fits &= (amount >= 0) & (amount <= count * np.int64(AMOUNT_MINOR_MAX))
    wrong: NDArray[np.intp] = np.flatnonzero(~(is_empty | fits).all(axis=1))
    if len(wrong):
        raise damaged(keys[wrong[0]], "a slot holds what no event can have written")


def check_probe_bytes(key: str, stored: bytes) -> None:
    """Refuse a stored row of card testing that does not end where a sketch ends."""
    hours, seen = PROBES["hours"].itemsize, PROBES["seen"].itemsize // SEEN_SLOTS
    count, rest = divmod(len(stored) - hours, seen)
    if rest or not 1 <= count <= SEEN_SLOTS:
        raise damaged(
            key, f"it has {len(stored)} bytes, expected {hours} and 1 to {SEEN_SLOTS} times {seen}"
        )


def check_probes(keys: Sequence[str], rows: Structured) -> None:
    """Refuse rows of card testing that hold what no event can have written."""
    hours, seen = rows["hours"], rows["seen"]
    bucket, count = hours["bucket"], hours["count"]
    small, declined = hours["small"], hours["declined"]
    is_empty = (bucket == 0) & (count == 0) & (small == 0) & (declined == 0)
    fits = (bucket > 0) & (bucket % HOUR_SLOTS == np.arange(HOUR_SLOTS))
    fits &= (count > 0) & (small >= 0) & (small <= count)
    fits &= (declined >= 0) & (declined <= count)
    is_whole = (is_empty | fits).all(axis=1)
    bucket, is_set = seen["bucket"], seen["bits"].any(axis=2)
    fits = (bucket > 0) & (bucket % SEEN_SLOTS == np.arange(SEEN_SLOTS)) & is_set
    is_whole &= (((bucket == 0) & ~is_set) | fits).all(axis=1)
    wrong: NDArray[np.intp] = np.flatnonzero(~is_whole)
    if len(wrong):
        raise damaged(keys[wrong[0]], "it holds what no event can have written")


def _checksum(key: str, content: bytes, version: bytes = VERSION) -> bytes:
    return zlib.crc32(version, zlib.crc32(content, zlib.crc32(key.encode()))).to_bytes(4, "little")
