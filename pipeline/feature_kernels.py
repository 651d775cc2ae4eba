"""The compiled loops of the features: read what was known before an event, then record it.

Each fills the columns of one kind of profile, from `column` on, in the order of the feature table
(`features.py`). A kernel calls only kernels of its own file.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.profiles import (
    DAY_SLOTS,
    HOUR_SLOTS,
    RECENT_COUNTERPARTS,
    Record,
    Structured,
)

LN2 = math.log(2.0)
# Half-lives of the partition key's traffic, and of what labels teach.
TRAFFIC_HALF_LIVES_MS = np.array([HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS], dtype=np.float64)
LEARNED_HALF_LIVES_MS = np.array([7 * DAY_MS, 30 * DAY_MS, 120 * DAY_MS], dtype=np.float64)
HABIT_HALF_LIFE_MS = 60.0 * DAY_MS
ALIKE_HALF_LIFE_MS = 30.0 * DAY_MS
# An older entity is no longer a new one; without a limit, all ages of a young stream tell the date.
AGE_DAYS_MAX = 30.0
# The first day of the epoch was a Thursday, which is day 3 of a week that begins on Monday.
EPOCH_WEEKDAY = 3
# An entity without labels is taken to have seen this many, of which this share were frauds.
RISK_PRIOR_LABELS = 1.0
RISK_PRIOR_RATIO = 0.01
# A habit is a habit after a few events; from then on outliers move it only so far.
HABIT_WEIGHT_MIN = 3.0
HABIT_DEVIATIONS_MAX = 3.0
# An amount so many deviations above the habit of the partition key is unusual.
UNUSUAL_DEVIATIONS = 3.0
# Where that deviation stands among the columns of the partition key's traffic.
DEVIATIONS_COLUMN = 10


@kernel
def event_kernel(
    times: NDArray[np.int64], amounts: NDArray[np.int64], out: NDArray[np.float32]
) -> None:
    """Fill the columns that need no history."""
    for row in range(times.size):
        out[row, 0] = math.log1p(amounts[row])
        out[row, 1] = (times[row] % DAY_MS) / HOUR_MS
        out[row, 2] = (times[row] // DAY_MS + EPOCH_WEEKDAY) % 7


@kernel
def decay(elapsed_ms: float, half_life_ms: float) -> float:
    """Give the share of a count that is left after a time."""
    return math.exp(-LN2 * elapsed_ms / half_life_ms)


@kernel
def spread_of(weight: float, mean: float, squares: float) -> float:
    """Give the spread of a habit in minor units, never quite 0."""
    # The floor keeps habits of one fixed amount from making a cent a hundred deviations.
    return math.sqrt(max(squares / weight - mean * mean, 0.0)) + 0.05 * mean + 1.0


@kernel
def deviations(amount: float, weight: float, total: float, squares: float) -> float:
    """Give the distance of an amount from a habit in standard deviations, NaN without a habit."""
    if weight < HABIT_WEIGHT_MIN:
        return math.nan
    mean = total / weight
    return (amount - mean) / spread_of(weight, mean, squares)


@kernel
def log_ratio(amount: float, weight: float, total: float) -> float:
    """Give the logarithm of an amount against a mean, both in minor units; NaN without one."""
    if weight <= 0.0:
        return math.nan
    return math.log1p(amount) - math.log1p(total / weight)


@kernel
def winsorised(amount: float, weight: float, total: float, squares: float) -> float:
    """Pull an outlier to the edge of the habit, so that one fraud does not become the habit."""
    if weight < HABIT_WEIGHT_MIN:
        return amount
    mean = total / weight
    limit = mean + HABIT_DEVIATIONS_MAX * spread_of(weight, mean, squares)
    return min(amount, limit)


@kernel
def traffic_kernel(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    counterparts: NDArray[np.int64],
    out: NDArray[np.float32],
    column: int,
    unusual: NDArray[np.int8],
) -> None:
    """Fill the columns of the partition key's traffic, and record each event after reading.

    `unusual` is filled with 1 for each amount that is far above the habit, else 0.
    """
    for row in range(times.size):
        profile = profiles[slots[row]]
        _decay_traffic(profile, times[row])
        _read_traffic(
            profile, times[row], float(amounts[row]), counterparts[row], out[row, column:]
        )
        unusual[row] = out[row, column + DEVIATIONS_COLUMN] > UNUSUAL_DEVIATIONS
        _record_traffic(profile, times[row], float(amounts[row]), counterparts[row], unusual[row])


@kernel
def _decay_traffic(profile: Record, time: int) -> None:
    if profile.last_ms == 0:
        profile.first_ms = time
    else:
        # An event that comes late is counted as if it came now.
        elapsed = float(max(time - profile.last_ms, 0))
        for span in range(4):
            left = decay(elapsed, TRAFFIC_HALF_LIVES_MS[span])
            profile.counts[span] *= left
            profile.amounts[span] *= left
            if span > 0:
                profile.unusual[span - 1] *= left
        left = decay(elapsed, HABIT_HALF_LIFE_MS)
        for moment in range(3):
            profile.habit[moment] *= left


@kernel
def _read_traffic(
    profile: Record, time: int, amount: float, counterpart: int, out: NDArray[np.float32]
) -> None:
    for span in range(4):
        out[span] = profile.counts[span]
    for span in range(1, 4):
        out[3 + span] = math.log1p(profile.amounts[span])
    habit = profile.habit
    out[7] = profile.counts[1] / (profile.counts[3] / 30.0 + 0.1)
    if profile.last_ms == 0:
        out[8] = math.nan
    else:
        out[8] = math.log1p(max(time - profile.last_ms, 0) / 1000.0)
    out[9] = min(max(time - profile.first_ms, 0) / DAY_MS, AGE_DAYS_MAX)
    out[DEVIATIONS_COLUMN] = deviations(amount, habit[0], habit[1], habit[2])
    out[11] = log_ratio(amount, habit[0], habit[1])
    known = 0
    different = 0
    for place in range(RECENT_COUNTERPARTS):
        other = profile.counterparts[place]
        if other == counterpart:
            known = 1
        repeated = other == 0
        for before in range(place):
            if profile.counterparts[before] == other:
                repeated = True
        if not repeated:
            different += 1
    out[12] = 1.0 - known
    out[13] = different
    for span in range(3):
        out[14 + span] = profile.unusual[span]


@kernel
def _record_traffic(
    profile: Record, time: int, amount: float, counterpart: int, unusual: int
) -> None:
    habit = profile.habit
    usual = winsorised(amount, habit[0], habit[1], habit[2])
    habit[0] += 1.0
    habit[1] += usual
    habit[2] += usual * usual
    for span in range(4):
        profile.counts[span] += 1.0
        profile.amounts[span] += amount
    profile.last_ms = max(profile.last_ms, time)
    profile.counterparts[profile.counterparts_next % RECENT_COUNTERPARTS] = counterpart
    profile.counterparts_next += 1
    for span in range(3):
        profile.unusual[span] += unusual


@kernel
def record_traffic(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    counterparts: NDArray[np.int64],
    unusual: NDArray[np.int8],
) -> None:
    """Record events as `traffic_kernel` does, without reading; a slot below 0 is passed over."""
    for row in range(times.size):
        if slots[row] >= 0:
            profile = profiles[slots[row]]
            _decay_traffic(profile, times[row])
            amount = float(amounts[row])
            _record_traffic(profile, times[row], amount, counterparts[row], unusual[row])


@kernel
def shared_kernel(
    rings: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    unusual: NDArray[np.int8],
    out: NDArray[np.float32],
    column: int,
) -> None:
    """Fill the columns of a shared entity's traffic from its buckets, and count each event."""
    for row in range(times.size):
        ring = rings[slots[row]]
        _read_ring(ring, times[row], float(amounts[row]), out[row, column:])
        _record_shared(ring, times[row], amounts[row], unusual[row])


@kernel
def record_shared(
    rings: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    unusual: NDArray[np.int8],
) -> None:
    """Record events as `shared_kernel` does, without reading; a slot below 0 is passed over."""
    for row in range(times.size):
        if slots[row] >= 0:
            _record_shared(rings[slots[row]], times[row], amounts[row], unusual[row])


@kernel
def _record_shared(ring: Record, time: int, amount: int, unusual: int) -> None:
    hour = time // HOUR_MS
    day = time // DAY_MS
    add_to_bucket(ring, hour % HOUR_SLOTS, hour, 1, amount, unusual)
    add_to_bucket(ring, HOUR_SLOTS + day % DAY_SLOTS, day, 1, amount, unusual)


@kernel
def add_to_bucket(
    ring: Record, slot: int, bucket: int, count: int, amount: int, unusual: int
) -> None:
    """Count into a slot; the newest bucket that falls on it wins, whatever the order of events."""
    if ring[slot].bucket < bucket:
        ring[slot].bucket = bucket
        ring[slot].count = 0
        ring[slot].amount = 0
        ring[slot].unusual = 0
    if ring[slot].bucket == bucket:
        ring[slot].count += count
        ring[slot].amount += amount
        ring[slot].unusual += unusual


@kernel
def _read_ring(ring: Record, time: int, amount: float, out: NDArray[np.float32]) -> None:
    hour = time // HOUR_MS
    day = time // DAY_MS
    hour_count, day_count, day_amount, day_unusual = 0, 0, 0, 0
    for slot in range(HOUR_SLOTS):
        # Only buckets at or before the event's own time: others may come from other partitions.
        age = hour - ring[slot].bucket
        if 0 <= age < HOUR_SLOTS:
            day_count += ring[slot].count
            day_amount += ring[slot].amount
            day_unusual += ring[slot].unusual
            if age <= 1:
                hour_count += ring[slot].count
    week_count, month_count, month_amount = 0, 0, 0
    week_unusual, month_unusual = 0, 0
    for slot in range(HOUR_SLOTS, HOUR_SLOTS + DAY_SLOTS):
        age = day - ring[slot].bucket
        if 0 <= age < DAY_SLOTS:
            month_count += ring[slot].count
            month_amount += ring[slot].amount
            month_unusual += ring[slot].unusual
            if age <= 7:  # noqa: PLR2004 - today and the seven days before
                week_count += ring[slot].count
                week_unusual += ring[slot].unusual
    out[0] = hour_count
    out[1] = day_count
    out[2] = week_count
    out[3] = month_count
    out[4] = day_count / (month_count / 30.0 + 0.1)
    out[5] = log_ratio(amount, float(day_count), float(day_amount))
    out[6] = log_ratio(amount, float(month_count), float(month_amount))
    out[7] = day_unusual
    out[8] = week_unusual
    out[9] = month_unusual


@kernel
def learned_kernel(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    out: NDArray[np.float32],
    column: int,
) -> None:
    """Fill the columns of what labels taught of an entity; reading changes nothing."""
    for row in range(times.size):
        _read_learned(profiles[slots[row]], times[row], float(amounts[row]), out[row, column:])


@kernel
def _days_since(time: int, then: int) -> float:
    if then == 0:
        return math.nan
    return max(time - then, 0) / DAY_MS


@kernel
def _read_learned(profile: Record, time: int, amount: float, out: NDArray[np.float32]) -> None:
    elapsed = float(max(time - profile.reference_ms, 0))
    for span in range(3):
        left = decay(elapsed, LEARNED_HALF_LIVES_MS[span]) if profile.reference_ms else 0.0
        frauds = max(profile.frauds[span], 0.0) * left + RISK_PRIOR_LABELS * RISK_PRIOR_RATIO
        out[span] = frauds / (max(profile.labels[span], 0.0) * left + RISK_PRIOR_LABELS)
        if span == 1:
            out[3] = frauds
    out[4] = float(profile.verdict_fraud) if profile.verdict_ms else math.nan
    out[5] = profile.run_length
    out[6] = _days_since(time, profile.run_start_ms if profile.run_length > 0 else 0)
    out[7] = _days_since(time, profile.fraud_ms)
    out[8] = _days_since(time, profile.genuine_ms)
    out[9] = float(profile.genuine_since_fraud) if profile.fraud_ms else math.nan
    habit = profile.habit
    out[10] = deviations(amount, habit[0], habit[1], habit[2])
    out[11] = log_ratio(amount, habit[0], habit[1])


@kernel
def alike_kernel(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    unusual: NDArray[np.int8],
    out: NDArray[np.float32],
    column: int,
) -> None:
    """Fill the columns of what labels of alike amounts taught, usual or unusual as the event's."""
    for row in range(times.size):
        _read_alike(profiles[slots[row]], times[row], unusual[row], out[row, column:])


@kernel
def _read_alike(profile: Record, time: int, kind: int, out: NDArray[np.float32]) -> None:
    elapsed = float(max(time - profile.reference_ms, 0))
    left = decay(elapsed, ALIKE_HALF_LIFE_MS) if profile.reference_ms else 0.0
    frauds = max(profile.alike_frauds[kind], 0.0) * left + RISK_PRIOR_LABELS * RISK_PRIOR_RATIO
    labels = max(profile.alike_labels[kind], 0.0) * left + RISK_PRIOR_LABELS
    run_length = profile.alike_run_length[kind]
    out[0] = frauds / labels
    out[1] = run_length
    out[2] = _days_since(time, profile.alike_run_start_ms[kind] if run_length > 0 else 0)
    out[3] = _days_since(time, profile.alike_fraud_ms[kind])
    out[4] = _days_since(time, profile.alike_genuine_ms[kind])


@kernel
def record_verdicts(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    unusual: NDArray[np.int8],
    is_fraud: NDArray[np.int8],
    corrects: NDArray[np.bool_],
) -> None:
    """Fold labels, in the order of the training log, into what they teach of one entity.

    `corrects` marks a verdict that replaces the opposite one: its counts are taken back. The run
    of frauds is not rebuilt, for that would need every verdict; later labels put it right.
    """
    for row in range(times.size):
        profile = profiles[slots[row]]
        _record_counts(profile, times[row], is_fraud[row], corrects[row])
        _record_alike(profile, times[row], unusual[row], is_fraud[row], corrects[row])
        _record_habit(profile, times[row], float(amounts[row]), is_fraud[row], corrects[row])
        profile.reference_ms = max(profile.reference_ms, times[row])
        _record_run(profile, times[row], is_fraud[row])
        _record_alike_run(profile, times[row], unusual[row], is_fraud[row])


@kernel
def _record_counts(profile: Record, time: int, is_fraud: int, corrects: bool) -> None:
    forward = float(max(time - profile.reference_ms, 0))
    backward = float(max(profile.reference_ms - time, 0))
    for span in range(3):
        if profile.reference_ms:
            left = decay(forward, LEARNED_HALF_LIVES_MS[span])
            profile.frauds[span] *= left
            profile.labels[span] *= left
        weight = decay(backward, LEARNED_HALF_LIVES_MS[span])
        if corrects:
            profile.frauds[span] += weight if is_fraud else -weight
        else:
            profile.labels[span] += weight
            profile.frauds[span] += weight * is_fraud


@kernel
def _record_alike(profile: Record, time: int, kind: int, is_fraud: int, corrects: bool) -> None:
    if profile.reference_ms:
        left = decay(float(max(time - profile.reference_ms, 0)), ALIKE_HALF_LIFE_MS)
        for other in range(2):
            profile.alike_frauds[other] *= left
            profile.alike_labels[other] *= left
    weight = decay(float(max(profile.reference_ms - time, 0)), ALIKE_HALF_LIFE_MS)
    if corrects:
        profile.alike_frauds[kind] += weight if is_fraud else -weight
    else:
        profile.alike_labels[kind] += weight
        profile.alike_frauds[kind] += weight * is_fraud


@kernel
def _record_habit(profile: Record, time: int, amount: float, is_fraud: int, corrects: bool) -> None:
    habit = profile.habit
    if profile.reference_ms:
        left = decay(float(max(time - profile.reference_ms, 0)), HABIT_HALF_LIFE_MS)
        for moment in range(3):
            habit[moment] *= left
    weight = decay(float(max(profile.reference_ms - time, 0)), HABIT_HALF_LIFE_MS)
    if is_fraud:
        # Only a correction takes an amount out that was taken in as genuine.
        weight = -weight if corrects else 0.0
    if habit[0] + weight <= 0.0:
        habit[0], habit[1], habit[2] = 0.0, 0.0, 0.0
        return
    habit[0] += weight
    habit[1] += weight * amount
    habit[2] = max(habit[2] + weight * amount * amount, 0.0)


@kernel
def _record_run(profile: Record, time: int, is_fraud: int) -> None:
    latest = time >= profile.verdict_ms
    if is_fraud:
        if latest:
            if profile.run_length == 0:
                profile.run_start_ms = time
            profile.run_length += 1
        profile.fraud_ms = max(profile.fraud_ms, time)
        profile.genuine_since_fraud = 0 if profile.fraud_ms == time else profile.genuine_since_fraud
    else:
        if latest:
            profile.run_length = 0
        profile.genuine_ms = max(profile.genuine_ms, time)
        if time >= profile.fraud_ms:
            profile.genuine_since_fraud += 1
    if latest:
        profile.verdict_ms = time
        profile.verdict_fraud = is_fraud


@kernel
def _record_alike_run(profile: Record, time: int, kind: int, is_fraud: int) -> None:
    latest = time >= max(profile.alike_fraud_ms[kind], profile.alike_genuine_ms[kind])
    if is_fraud:
        if latest:
            if profile.alike_run_length[kind] == 0:
                profile.alike_run_start_ms[kind] = time
            profile.alike_run_length[kind] += 1
        profile.alike_fraud_ms[kind] = max(profile.alike_fraud_ms[kind], time)
    else:
        if latest:
            profile.alike_run_length[kind] = 0
        profile.alike_genuine_ms[kind] = max(profile.alike_genuine_ms[kind], time)
