"""The rows of one entity that a process holds: a fold of the log of additions, up to one place.

Rows come from Redis, each with the number of the newest addition that it holds. What was added
since to an id that is not held stands aside, until its row is fetched or Redis holds it: so a row
that comes late is brought to the same place as all others, and no addition is counted twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.additions import COLUMNS, Additions, kinds_of
from pipeline.profiles import LEARNED, Rows, Structured
from pipeline.schema import Schema
from pipeline.stored_rows import sealed, unsealed

NUMBER_BYTES = 8
ABSENT = -1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ids whose rows are not held, and the keys of those: by kind, the learned ones last."""

    fresh: list[str]
    partition: int
    keys: list[str]


class EntityRows:
    """The rows of one entity, by its number in the schema."""

    def __init__(self, schema: Schema, number: int) -> None:
        self._name = schema.keyed[number].name
        self._number = number
        self._kinds = kinds_of(schema, number)
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []
        self._rows = [kind.empty(16) for kind in self._kinds]
        # Of each row: its newest addition of the log, and the partition that it came from.
        self._changed = np.zeros(16, np.int64)
        self._partitions = np.zeros(16, np.int32)
        self._aside: dict[str, list[tuple[int, Additions, int]]] = {}
        # The first learned row is that of all ids of which nothing was learned.
        self._learned = np.zeros(16, LEARNED)
        self._learned_count = 1
        self._learned_rows = np.zeros(16, np.int32)

    @property
    def nbytes(self) -> int:
        """How much memory the rows take, about."""
        row = sum(rows[:1].nbytes for rows in self._rows) + 200
        return len(self._slots) * row + self._learned_count * LEARNED.itemsize

    def wanted(self, ids: Sequence[str], partition: int) -> Wanted:
        """List what is missing of these ids, all of one partition where that matters."""
        fresh = sorted(set(ids).difference(self._slots))
        keys = [
            key for kind in range(len(self._kinds)) for key in self._keys(kind, fresh, partition)
        ]
        keys += [f"l:{self._name}:{key}" for key in fresh]
        return Wanted(fresh, partition, keys)

    def _keys(self, kind: int, ids: Sequence[str], partition: int) -> list[str]:
        name = self._kinds[kind].name
        place = partition if name == "c" else self._name
        return [f"{name}:{place}:{key}" for key in ids]

    def load(self, wanted: Wanted, values: Sequence[bytes | None], *, folded: int) -> None:
        """Take rows as Redis holds them; one that is missing there had nothing up to `folded`."""
        count = len(wanted.fresh)
        # Another partition may have loaded the same meanwhile.
        new = [place for place, key in enumerate(wanted.fresh) if key not in self._slots]
        if not new:
            return
        ids = [wanted.fresh[place] for place in new]
        slots = self._added(ids, wanted.partition)
        found = [values[first : first + count] for first in range(0, len(values), count)]
        places = []
        for kind, given in enumerate(found[:-1]):
            stored = [given[place] for place in new]
            keys = self._keys(kind, ids, wanted.partition)
            places.append(
                self._load_kind(kind, slots, list(zip(keys, stored, strict=True)), folded)
            )
        self._catch_up(slots, places)
        self.learn(ids, [found[-1][place] for place in new])

    def _added(self, ids: list[str], partition: int) -> NDArray[np.int32]:
        first = len(self._ids)
        self._ids += ids
        self._slots.update(zip(ids, range(first, len(self._ids)), strict=True))
        needed, capacity = len(self._ids), len(self._changed)
        if needed > capacity:
            more = max(capacity, needed - capacity)
            self._rows = [_longer(rows, more) for rows in self._rows]
            self._changed, self._partitions, self._learned_rows = (
                _longer(part, more)
                for part in (self._changed, self._partitions, self._learned_rows)
            )
        self._partitions[first:needed] = partition
        return np.arange(first, needed, dtype=np.int32)

    def _load_kind(
        self,
        kind: int,
        slots: NDArray[np.int32],
        found: Sequence[tuple[str, bytes | None]],
        folded: int,
    ) -> NDArray[np.int64]:
        """Set rows of one kind; gives the newest addition that each of them holds."""
        rows = self._rows[kind]
        size = rows[:1].nbytes
        places = np.full(len(slots), folded, np.int64)
        for place, (key, blob) in enumerate(found):
            if blob is not None:
                content = unsealed(key, blob, size=size + NUMBER_BYTES)
                row = np.frombuffer(content[:size], rows.dtype)
                rows[slots[place]] = row.reshape(rows.shape[1:])
                places[place] = int.from_bytes(content[size:], "little")
        return places

    def _catch_up(self, slots: NDArray[np.int32], places: Sequence[NDArray[np.int64]]) -> None:
        """Add what stood aside to rows that have come, as far as they do not hold it yet."""
        found = [
            (row, item)
            for row, slot in enumerate(slots.tolist())
            for item in self._aside.pop(self._ids[slot], ())
        ]
        if not found:
            return
        which = np.array([row for row, _ in found])
        numbers = np.array([number for _, (number, _, _) in found], np.int64)
        columns = {
            name: np.array([added.columns[name][row] for _, (_, added, row) in found], form)
            for name, form in COLUMNS.items()
        }
        for kind, rows, place in zip(self._kinds, self._rows, places, strict=True):
            behind = np.where(numbers > place[which], slots[which], ABSENT).astype(np.int32)
            kind.record(rows, behind, columns)
        np.maximum.at(self._changed, slots[which], numbers)

    def learn(self, ids: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Set what labels taught of ids, as far as they are held."""
        for key, blob in zip(ids, values, strict=True):
            slot = self._slots.get(key, ABSENT)
            if blob is None or slot == ABSENT:
                continue
            if not self._learned_rows[slot]:
                if self._learned_count == len(self._learned):
                    self._learned = _longer(self._learned, len(self._learned))
                self._learned_rows[slot] = self._learned_count
                self._learned_count += 1
            content = unsealed(f"l:{self._name}:{key}", blob, size=LEARNED.itemsize)
            self._learned[self._learned_rows[slot]] = np.frombuffer(content, LEARNED)[0]

    def fold(self, number: int, added: Additions) -> None:
        """Take an entry of the log, the next one."""
        ids, find = added.keys[self._number], self._slots.get
        slots = np.array([find(key, ABSENT) for key in ids], np.int32)
        for kind, rows in zip(self._kinds, self._rows, strict=True):
            kind.record(rows, slots, added.columns)
        is_held = slots >= 0
        self._changed[slots[is_held]] = number
        for row in np.flatnonzero(~is_held).tolist():
            self._aside.setdefault(ids[row], []).append((number, added, row))

    def settle(self, folded: int) -> None:
        """Let go of what stands aside and is in Redis by now."""
        for key, items in list(self._aside.items()):
            left = [item for item in items if item[0] > folded]
            if left:
                self._aside[key] = left
            else:
                del self._aside[key]

    def open(self, ids: Sequence[str]) -> tuple[list[Rows], Rows]:
        """Give a copy of the rows of events, of each kind, and what was learned, to be read."""
        slots = np.array(list(map(self._slots.__getitem__, ids)), np.int32)
        used, places = np.unique(slots, return_inverse=True)
        of_copy: NDArray[np.int32] = places.astype(np.int32)
        copies = [Rows(rows[used], of_copy) for rows in self._rows]
        return copies, Rows(self._learned, self._learned_rows[slots])

    def aside(self) -> dict[int, list[str]]:
        """Give the ids that are not held and were added to, by the partition of the addition."""
        found: dict[int, list[str]] = {}
        for key, items in self._aside.items():
            partition = items[-1][1].partition if self._number == 0 else 0
            found.setdefault(partition, []).append(key)
        return found

    def changed_since(self, number: int) -> NDArray[np.intp]:
        """Give the slots of rows that were added to after an entry of the log."""
        return np.flatnonzero(self._changed[: len(self._ids)] > number)

    def stored(self, slots: Sequence[int], number: int) -> Iterator[str | bytes]:
        """Give keys and stored forms of rows that hold the additions up to a number."""
        end = number.to_bytes(NUMBER_BYTES, "little")
        for slot in slots:
            for kind, rows in enumerate(self._rows):
                [key] = self._keys(kind, [self._ids[slot]], int(self._partitions[slot]))
                yield key
                yield sealed(key, rows[slot].tobytes() + end)


def _longer(rows: Structured, more: int) -> Structured:
    return np.concatenate([rows, np.zeros((more, *rows.shape[1:]), rows.dtype)])
