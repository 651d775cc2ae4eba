"""What decided events add to the rows of their entities, packed: one entry of a log for each batch.

Whoever folds the log gets, bit for bit, the rows that the feature kernels left of the same events,
since it records them by the same kernels, in the same order, without the reading.

>>> from pipeline.schema import load_schema
>>> batch = Transactions(["t1"], np.array([900]), (["c1"], ["m1"]), np.array([5]), ["EUR"],
...     np.empty((1, 0), np.float32))
>>> added = additions_of(batch, np.zeros(1, np.int8), load_schema("card"), partition=3)
>>> found = unpacked(packed(added))
>>> found.partition, found.keys, found.columns["amount_minor"].tolist()
(3, (['c1'], ['m1']), [5])
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.card_testing import places_of, record_probes
from pipeline.events import Transactions
from pipeline.feature_kernels import record_shared, record_traffic
from pipeline.profiles import (
    BUCKET,
    BUCKET_SLOTS,
    PROBES,
    TRAFFIC,
    Structured,
    counterpart_hashes,
)
from pipeline.schema import Schema

# Of each event. `place` is the bit of the first entity's id in a sketch of counterparts, and
# `other_place` that of the second's, which is also the first's counterpart.
COLUMNS: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(form)
    for name, form in (
        ("event_time_ms", "<i8"),
        ("amount_minor", "<i8"),
        ("counterpart", "<i8"),
        ("unusual", "i1"),
        ("small", "?"),
        ("declined", "?"),
        ("place", "<i8"),
        ("other_place", "<i8"),
    )
}


@dataclass(frozen=True, slots=True)
class Additions:
    """Events of one batch of a partition, in their order: their ids, a list for each entity."""

    partition: int
    keys: tuple[list[str], ...]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.keys[0])


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    partition: int
    keys: tuple[list[str], ...]
    columns: bytes


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)


def additions_of(
    decided: Transactions, unusual: NDArray[np.int8], schema: Schema, *, partition: int
) -> Additions:
    """Give what decided events add; `unusual` is of their amounts."""
    none = np.zeros(len(decided), np.int64)
    small, keys = schema.small_amount_minor, decided.keys
    columns: dict[str, NDArray[Any]] = {
        "event_time_ms": decided.event_time_ms,
        "amount_minor": decided.amount_minor,
        "counterpart": counterpart_hashes(keys[1]) if len(keys) > 1 else none,
        "unusual": unusual,
        "small": none if small is None else decided.amount_minor <= small,
        "declined": none if decided.declined is None else decided.declined,
        "place": places_of(keys[0]) if schema.probed else none,
        "other_place": places_of(keys[1]) if schema.probed else none,
    }
    return Additions(
        partition,
        tuple(map(list, keys)),
        {name: columns[name].astype(COLUMNS[name]) for name in COLUMNS},
    )


def packed(added: Additions) -> bytes:
    """Give the bytes that `unpacked` reads."""
    columns = b"".join(added.columns[name].tobytes() for name in COLUMNS)
    return _ENCODER.encode(_Wire(added.partition, added.keys, columns))


def unpacked(data: bytes) -> Additions:
    """Read what `packed` gave; a ValueError says that it is something else."""
    found = _DECODER.decode(data)
    count, at = len(found.keys[0]), 0
    width = sum(form.itemsize for form in COLUMNS.values())
    if len(found.columns) != count * width or any(len(ids) != count for ids in found.keys):
        raise ValueError("its columns are not of one length")
    # The kernels are compiled for arrays that may be written to.
    buffer, columns = bytearray(found.columns), dict[str, NDArray[Any]]()
    for name, form in COLUMNS.items():
        columns[name] = np.frombuffer(buffer, form, count, at)
        at += count * form.itemsize
    return Additions(found.partition, found.keys, columns)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row of an entity.

    Parameters
    ----------
    name
        Begins the key of such a row in the store.
    """

    name: str
    dtype: np.dtype[Any]
    width: int = 0
    is_first: bool = False

    def empty(self, count: int) -> Structured:
        """Give so many rows of nothing."""
        return np.zeros((count, self.width) if self.width else count, self.dtype)

    def record(
        self, rows: Structured, slots: NDArray[np.int32], columns: Mapping[str, NDArray[Any]]
    ) -> None:
        """Record events in the rows of their ids; one whose slot is below 0 is passed over."""
        times, amounts = columns["event_time_ms"], columns["amount_minor"]
        if self.dtype == TRAFFIC:
            record_traffic(rows, slots, times, amounts, columns["counterpart"], columns["unusual"])
        elif self.dtype == BUCKET:
            record_shared(rows, slots, times, amounts, columns["unusual"])
        else:
            places = columns["other_place" if self.is_first else "place"]
            record_probes(
                rows["hours"], rows["seen"], slots, times, columns["small"], columns["declined"],
                places,
            )  # fmt: skip


def kinds_of(schema: Schema, number: int) -> tuple[Kind, ...]:
    """List the kinds of rows that events change of an entity of the schema, by its number."""
    traffic = Kind("r", BUCKET, BUCKET_SLOTS) if number else Kind("c", TRAFFIC)
    is_probed = number < len(schema.probed)
    return (traffic, Kind("p", PROBES, is_first=number == 0)) if is_probed else (traffic,)
