"""A set of 64-bit keys in the order in which they came, as arrays: a replay has millions.

A key is an entry, a row of numbers of which the key is the first; a hash table finds it. The oldest
entries are the first, and what is no longer needed is left out when the table is made anew.

>>> table = KeyTable(width=1)
>>> table.add_new(np.array([7, 9])), table.add_new(np.array([8, 7])), len(table)
(True, False, 3)
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.texts import Numerals, worked_out

Entries = NDArray[np.int64]
Places = NDArray[np.int32]

KEY = 0
CAPACITY_MIN = 1_024
# Whole numbers of up to 18 digits are keys themselves; of other texts the key is a hash, below 0.
DIGITS_MAX = 18
HASH_BYTES = 8


class KeyTable:
    """Keys with `width` numbers each, the key among them.

    Parameters
    ----------
    entries
        The first `end` rows are taken; those before `first` are forgotten.
    places
        One more than the row of the key that hashes there, or 0.
    """

    def __init__(self, width: int) -> None:
        self.first = self.end = 0
        self.entries: Entries = np.empty((CAPACITY_MIN, width), np.int64)
        self.places: Places = np.zeros(2 * CAPACITY_MIN, np.int32)

    def __len__(self) -> int:
        return self.end - self.first

    def add_new(self, keys: NDArray[np.int64]) -> bool:
        """Add keys, up to one that is there already: `False` if there was one."""
        self.make_room(len(keys))
        added = _add(keys, self.first, self.end, self.entries, self.places)
        self.end += added
        return added == len(keys)

    def forget(self, count: int) -> None:
        """Forget so many of the oldest."""
        self.first += count

    def make_room(self, count: int) -> None:
        """Make sure that so many more entries fit."""
        if self.end + count > len(self.entries):
            self._renew(self.entries[self.first : self.end], count)

    def _renew(self, entries: Entries, count: int) -> None:
        """Go on with these entries alone; of those with one key the latest is found."""
        capacity = CAPACITY_MIN
        while capacity < len(entries) + len(entries) // 2 + count:
            capacity *= 2
        kept = np.empty((capacity, entries.shape[1]), np.int64)
        kept[: len(entries)] = entries
        self.entries, self.first, self.end = kept, 0, len(entries)
        self.places = np.zeros(2 * capacity, np.int32)
        _place_all(self.end, self.entries, self.places)


@kernel
def spread(key: int) -> int:
    """Spread keys evenly, however alike they are (the end of SplitMix64)."""
    mixed = np.uint64(key)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.int64(mixed)  # type: ignore[return-value]


@kernel
def place_of(key: int, entries: Entries, places: Places) -> int:
    """Give where a key stands in the hash table, or where it would."""
    last = len(places) - 1
    place = spread(key) & last
    while places[place] != 0 and entries[places[place] - 1, KEY] != key:
        place = (place + 1) & last
    return place


@kernel
def _add(
    keys: NDArray[np.int64], first: int, end: int, entries: Entries, places: Places
) -> int:  # fmt: skip
    for row in range(len(keys)):
        place = place_of(keys[row], entries, places)
        if places[place] > first:
            return row
        entries[end + row, KEY] = keys[row]
        places[place] = end + row + 1
    return len(keys)


@kernel
def _place_all(end: int, entries: Entries, places: Places) -> None:
    for row in range(end):
        places[place_of(entries[row, KEY], entries, places)] = row + 1


def keys_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Give the key of each text: a whole number is its own, of all others it is a hash of 63 bits.

    >>> keys_of(["7", "007", "18", "-7"]).tolist()[::2], keys_of(Numerals(np.array([7]))).tolist()
    ([7, 18], [7])
    >>> (keys_of(["007", "-7", "t1"]) < 0).tolist()
    [True, True, True]
    """
    if isinstance(texts, Numerals):
        values = texts.values
        if len(values) and values.min() >= 0 and values.max() < 10**DIGITS_MAX:
            return values
    return worked_out(texts, _keys_of)


def hashes_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Hash each text to 64 bits."""
    return worked_out(texts, _hashes_of)


def _keys_of(texts: Sequence[str]) -> NDArray[np.int64]:
    keys = _hashes_of(texts) | np.int64(-(1 << 63))
    for row, text in enumerate(texts):
        # No other text reads as the same number.
        if text.isdigit() and text.isascii() and len(text) <= DIGITS_MAX:
            number = int(text)
            if text == str(number):
                keys[row] = number
    return keys


def _hashes_of(texts: Sequence[str]) -> NDArray[np.int64]:
    digests = (blake2b(text.encode(), digest_size=HASH_BYTES).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)
