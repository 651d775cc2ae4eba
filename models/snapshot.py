"""A model as bytes and back, without pickle: what is read is numbers, never code.

The bytes are: MAGIC, the header's length (4 bytes, little-endian), the header (JSON with sorted
keys), the arrays in the header's order (little-endian, row by row), SHA-256 of all before it. The
same model gives the same bytes.

>>> from models import make_model
>>> model = make_model("additive", ("amount",))
>>> taken = encode(model, version="additive@7", training_offset=7, schema_hash="5c6e")
>>> snapshot = decode(taken)
>>> snapshot.version, snapshot.training_offset, snapshot.model.feature_names
('additive@7', 7, ('amount',))
>>> decode(taken[:-1])
Traceback (most recent call last):
pipeline.errors.SnapshotError: snapshot: SHA-256 must be ... (got ...): damaged or cut short
"""

import hashlib
import json
import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import MODELS, is_known, restored
from models.contract import Arrays, Model
from pipeline.errors import SnapshotError

MAGIC = b"FRAUDMDL"
# 1 was never signed.
FORMAT = 2

# A topic's record must hold it with room to spare; our models take well under 1 MiB.
SNAPSHOT_BYTES_MAX = 32 * 1024 * 1024

LENGTH_BYTES = 4
HASH_BYTES = 32
FRAME_BYTES = len(MAGIC) + LENGTH_BYTES + HASH_BYTES

DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("i1", "<i4", "<i8", "<f4", "<f8")}
DIMENSIONS_MAX = 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model and where it stands.

    Parameters
    ----------
    version
        The model's version as stamped on decisions, `additive@1234`.
    training_offset
        How far in the training log it had learned.
    schema_hash
        Names and order of the features that it takes.
    model
        The model, as it was.
    """

    version: str
    training_offset: int
    schema_hash: str
    model: Model


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    dtype: str
    shape: list[int]


class _Format(msgspec.Struct, frozen=True):
    format: int


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    model: str
    version: str
    training_offset: int
    schema_hash: str
    arrays: list[_Array]
    state: dict[str, object]


def encode(model: Model, *, version: str, training_offset: int, schema_hash: str) -> bytes:
    """Give a model's bytes; refuse one whose weights are no longer numbers."""
    state, arrays = model.state()
    _check_finite(arrays)
    header = {"format": FORMAT, "model": model.name, "version": version, "state": state}
    header |= {"training_offset": training_offset, "schema_hash": schema_hash}
    header["arrays"] = [_described(name, arrays[name]) for name in sorted(arrays)]
    head = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join(_little(arrays[name]).tobytes() for name in sorted(arrays))
    framed = MAGIC + len(head).to_bytes(LENGTH_BYTES, "little") + head + body
    _check_size(len(framed) + HASH_BYTES)
    return framed + hashlib.sha256(framed).digest()


def decode(data: bytes, *, river_pickle: bool = False) -> Snapshot:
    """Give the model that the bytes hold, or say in one line why there is none.

    `river_pickle` as in the settings: without it the pickle in a River model is never read.
    """
    _check_frame(data)
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    if length > len(data) - FRAME_BYTES:
        raise SnapshotError(f"snapshot: header must end in {len(data)} bytes (got {length} bytes)")
    header = _header(data[start : start + length])
    arrays = _arrays(header.arrays, data[start + length : -HASH_BYTES])
    _check_finite(arrays)
    model = restored(header.model, header.state, arrays, river_pickle=river_pickle)
    return Snapshot(header.version, header.training_offset, header.schema_hash, model)


def format_of(data: bytes) -> int | None:
    """Give the format that bytes say they are of; `None` where they are no snapshot."""
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    try:
        found = msgspec.json.decode(data[start : start + length], type=_Format)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.format if data.startswith(MAGIC) else None


def _check_size(size: int) -> None:
    if size > SNAPSHOT_BYTES_MAX:
        raise SnapshotError(
            f"snapshot: at most {SNAPSHOT_BYTES_MAX} bytes (got {size})", "too_large"
        )


def _check_frame(data: bytes) -> None:
    _check_size(len(data))
    if len(data) < FRAME_BYTES:
        raise SnapshotError(f"snapshot: at least {FRAME_BYTES} bytes (got {len(data)})")
    if not data.startswith(MAGIC):
        raise SnapshotError(f"snapshot: must begin with {MAGIC!r} (got {data[: len(MAGIC)]!r})")
    computed, given = hashlib.sha256(data[:-HASH_BYTES]).hexdigest(), data[-HASH_BYTES:].hex()
    if computed != given:
        raise SnapshotError(
            f"snapshot: SHA-256 must be {computed} (got {given}): damaged or cut short"
        )


def _header(head: bytes) -> _Header:
    try:
        header = msgspec.json.decode(head, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"snapshot: header is not understood: {error}") from error
    if header.format != FORMAT:
        raise SnapshotError(
            f"snapshot: format must be {FORMAT} (got {header.format}): let the trainer publish "
            "anew",
            "format",
        )
    if not is_known(header.model):
        known = ", ".join(sorted(MODELS))
        raise SnapshotError(
            f"snapshot: model must be one of {known} (got {header.model!r})", "unknown_model"
        )
    return header


def _arrays(described: list[_Array], body: bytes) -> Arrays:
    sizes = [_size(item) for item in described]
    if sum(sizes) != len(body):
        raise SnapshotError(f"snapshot: arrays must take {sum(sizes)} bytes (got {len(body)})")
    arrays: Arrays = {}
    start = 0
    for item, size in zip(described, sizes, strict=True):
        flat = np.frombuffer(body[start : start + size], dtype=DTYPES[item.dtype])
        arrays[item.name] = flat.reshape(item.shape).astype(flat.dtype.newbyteorder("="))
        start += size
    return arrays


def _size(item: _Array) -> int:
    if item.dtype not in DTYPES:
        known = ", ".join(sorted(DTYPES))
        raise SnapshotError(f"snapshot: dtype must be one of {known} (got {item.dtype!r})")
    if len(item.shape) > DIMENSIONS_MAX or min(item.shape, default=0) < 0:
        raise SnapshotError(f"snapshot: {item.name} cannot have the shape {item.shape}")
    return math.prod(item.shape) * DTYPES[item.dtype].itemsize


def _described(name: str, found: NDArray[np.generic]) -> dict[str, object]:
    return {"name": name, "dtype": _little(found).dtype.str, "shape": list(found.shape)}


def _little(found: NDArray[np.generic]) -> NDArray[np.generic]:
    return found.astype(found.dtype.newbyteorder("<"))


def _check_finite(arrays: Arrays) -> None:
    for name, found in arrays.items():
        if found.dtype == np.float64 and not np.isfinite(found).all():
            raise SnapshotError(
                f"snapshot: {name} must be finite numbers (got NaN or infinity)", "not_finite"
            )
