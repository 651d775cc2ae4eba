"""Card testing: many small amounts or declines, many cards at one place, many places for one card.

Who bought a list of card numbers tries which of them still work, for next to nothing, many at one
terminal or one at many. What a schema with `[card_testing]` remembers of each entity is a row of
`PROBES` (`profiles.py`): small amounts and declined attempts by hour, and a sketch of the different
counterparts of each hour. That of the first entity is the second, that of all others the first.

How many different counterparts there were is estimated by how many bits of the sketch are not set
(linear counting: Whang, Vander-Zanden, Taylor 1990), rounded to a whole number: up to ten it is
exact in more than nine cases of ten, and at 100 the standard error is 3 (`docs/card-testing.md`).

>>> bits = np.zeros((1, SEEN_BITS // 8), np.uint8)
>>> for place in places_of(["c1", "c2", "c3", "c2"]).tolist():
...     bits[0, place // 8] |= 128 >> place % 8
>>> estimated(int(SET_BITS[bits].sum()))
3.0
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.durations import HOUR_MS
from pipeline.profiles import (
    HOUR_SLOTS,
    SEEN_BITS,
    SEEN_SLOTS,
    Record,
    Structured,
    counterpart_hashes,
)

SEEN_BYTES = SEEN_BITS // 8
# How many bits of each byte are set.
SET_BITS = np.array([value.bit_count() for value in range(256)], dtype=np.int64)


def places_of(ids: Sequence[str]) -> NDArray[np.int64]:
    """Give the bit of each id in a sketch, evenly spread, however alike the ids are."""
    return spread(counterpart_hashes(ids))


@kernel
def spread(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the bit of each id by its hash (`counterpart_hashes`).

    It is the end of MurmurHash3: a CRC gives ids that differ in their last digit places of a
    pattern.
    """
    places = np.empty(len(hashes), np.int64)
    low = np.uint64(0xFFFFFFFF)
    for row in range(len(hashes)):
        found = np.uint64(hashes[row]) & low
        found ^= found >> np.uint64(16)
        found = (found * np.uint64(0x85EBCA6B)) & low
        found ^= found >> np.uint64(13)
        found = (found * np.uint64(0xC2B2AE35)) & low
        found ^= found >> np.uint64(16)
        places[row] = found % np.uint64(SEEN_BITS)
    return places


@kernel
def probe_kernel(
    hours: Structured,
    seen: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    small: NDArray[np.bool_],
    declined: NDArray[np.bool_],
    places: NDArray[np.int64],
    out: NDArray[np.float32],
    column: int,
) -> None:
    """Fill the columns of an entity's card testing, and record each event after reading."""
    for row in range(times.size):
        slot = slots[row]
        hour = times[row] // HOUR_MS
        _read_hours(hours[slot], hour, out[row, column:])
        out[row, column + 4] = _different(seen[slot], hour)
        add_probe(hours[slot], seen[slot], hour, small[row], declined[row], places[row])


@kernel
def record_probes(
    hours: Structured,
    seen: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    small: NDArray[np.bool_],
    declined: NDArray[np.bool_],
    places: NDArray[np.int64],
) -> None:
    """Record events as `probe_kernel` does, without reading; a slot below 0 is passed over."""
    for row in range(times.size):
        slot = slots[row]
        if slot >= 0:
            hour = times[row] // HOUR_MS
            add_probe(hours[slot], seen[slot], hour, small[row], declined[row], places[row])


@kernel
def add_probe(
    hours: Record, seen: Record, hour: int, small: int, declined: int, place: int
) -> None:
    """Record an event; where a newer hour stands in its place, nothing."""
    slot = hour % HOUR_SLOTS
    if hours[slot].bucket < hour:
        hours[slot].bucket = hour
        hours[slot].count = 0
        hours[slot].small = 0
        hours[slot].declined = 0
    if hours[slot].bucket == hour:
        hours[slot].count += 1
        hours[slot].small += small
        hours[slot].declined += declined
    slot = hour % SEEN_SLOTS
    if seen[slot].bucket < hour:
        seen[slot].bucket = hour
        for byte in range(SEEN_BYTES):
            seen[slot].bits[byte] = 0
    if seen[slot].bucket == hour:
        seen[slot].bits[place // 8] |= 128 >> (place % 8)


@kernel
def _read_hours(hours: Record, hour: int, out: NDArray[np.float32]) -> None:
    hour_count, hour_small, hour_declined = 0, 0, 0
    day_count, day_small, day_declined = 0, 0, 0
    for slot in range(HOUR_SLOTS):
        # Only hours up to the event's own: others may come from other partitions.
        age = hour - hours[slot].bucket
        if 0 <= age < HOUR_SLOTS:
            day_count += hours[slot].count
            day_small += hours[slot].small
            day_declined += hours[slot].declined
            if age <= 1:
                hour_count += hours[slot].count
                hour_small += hours[slot].small
                hour_declined += hours[slot].declined
    out[0] = hour_small
    out[1] = day_small
    out[2] = hour_small / hour_count if hour_count else math.nan
    out[3] = day_small / day_count if day_count else math.nan
    # Behind them stands how many counterparts there were.
    out[5] = hour_declined
    out[6] = day_declined
    out[7] = hour_declined / hour_count if hour_count else math.nan
    out[8] = day_declined / day_count if day_count else math.nan


@kernel
def _different(seen: Record, hour: int) -> float:
    bits = 0
    this, before = hour % SEEN_SLOTS, (hour - 1) % SEEN_SLOTS
    for byte in range(SEEN_BYTES):
        both = 0
        if seen[this].bucket == hour:
            both |= seen[this].bits[byte]
        if seen[before].bucket == hour - 1:
            both |= seen[before].bits[byte]
        bits += SET_BITS[both]
    return estimated(bits)


@kernel
def estimated(bits: int) -> float:
    """Give how many different ones set so many bits, rounded; all bits mean some 3,000 or more."""
    left = max(SEEN_BITS - bits, 1)
    return float(round(-SEEN_BITS * math.log(left / SEEN_BITS)))
