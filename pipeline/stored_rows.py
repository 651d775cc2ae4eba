"""What the store keeps, with a version and a checksum at its end, so that damage is noticed.

The checksum is of the key as well: a row that was copied to another key fits neither.

>>> stored = sealed("c:0:c1", b"row")
>>> unsealed("c:0:c1", stored), len(stored)
(b'row', 8)
>>> unsealed("c:0:c2", stored)
Traceback (most recent call last):
pipeline.errors.CommitError: c:0:c2 in the store is damaged: its checksum does not fit ...
"""

import zlib

from pipeline.errors import CommitError

# Counted up when a row's layout changes.
VERSION = b"\x01"
CHECKSUM_BYTES = 4
SEAL_BYTES = len(VERSION) + CHECKSUM_BYTES


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


def _checksum(key: str, content: bytes, version: bytes = VERSION) -> bytes:
    return zlib.crc32(version, zlib.crc32(content, zlib.crc32(key.encode()))).to_bytes(4, "little")
