"""The feature table, and the kernels that fill it.

Each event reads what was known before it and is then recorded, so that no feature sees its own
event or a later one. Features come from the schema: an entity named `card` gives `card_count_1d`.
A feature that has no value yet (nothing is known of the entity) is NaN, which models treat as a
value of its own.

>>> from pipeline.schema import load_schema
>>> table = feature_table(load_schema("card"))
>>> [feature.name for feature in table][:4]
['amount', 'hour', 'weekday', 'card_count_1h']
>>> next(feature for feature in table if feature.name == "card_amount_z")
Feature(name='card_amount_z', meaning="amount against the card's own mean and spread",
        unit='standard deviations', reason_code='AMOUNT_ABOVE_CARD_USUAL')
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.events import Transactions
from pipeline.profiles import (
    DAY_MS,
    DAY_SLOTS,
    HOUR_MS,
    HOUR_SLOTS,
    RECENT_COUNTERPARTS,
    RECENT_IDS,
    ProfileView,
    Record,
    Structured,
    counterpart_hashes,
    id_hashes,
)
from pipeline.schema import Schema

# Bumped when a feature changes its meaning under the same name.
FEATURES_VERSION = 1

LN2 = math.log(2.0)
# Half-lives of the partition key's traffic, and of what labels teach.
TRAFFIC_HALF_LIVES_MS = np.array([HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS], dtype=np.float64)
LEARNED_HALF_LIVES_MS = np.array([7 * DAY_MS, 30 * DAY_MS, 120 * DAY_MS], dtype=np.float64)
HABIT_HALF_LIFE_MS = 60.0 * DAY_MS
# The first day of the epoch was a Thursday, which is day 3 of a week that begins on Monday.
EPOCH_WEEKDAY = 3
# An entity without labels is taken to have seen this many, of which this share were frauds.
RISK_PRIOR_LABELS = 1.0
RISK_PRIOR_RATIO = 0.01
# A habit is a habit after a few events; from then on outliers move it only so far.
HABIT_WEIGHT_MIN = 3.0
HABIT_DEVIATIONS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Feature:
    """A named number of an event, and the reason code that its contribution counts towards."""

    name: str
    meaning: str
    unit: str
    reason_code: str


def feature_table(schema: Schema) -> tuple[Feature, ...]:
    """List the features of a schema's events, in the order of their columns."""
    first, *others = (item.name for item in schema.keyed)
    features = [*_event_features(), *_traffic_features(first)]
    for other in others:
        features += _shared_features(other)
    for name in (first, *others):
        features += _learned_features(name)
    return tuple(features)


def schema_hash(features: tuple[Feature, ...]) -> str:
    """Name a list of features: the same names in the same order have the same hash."""
    text = "\n".join([str(FEATURES_VERSION), *(feature.name for feature in features)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _event_features() -> Iterator[Feature]:
    yield Feature("amount", "amount of the event", "log(1 + minor units)", "AMOUNT_UNUSUAL")
    yield Feature("hour", "time of day, UTC", "hours", "TIME_UNUSUAL")
    yield Feature("weekday", "day of the week, Monday is 0", "days", "TIME_UNUSUAL")


def _traffic_features(name: str) -> Iterator[Feature]:
    activity = f"{name.upper()}_ACTIVITY_UNUSUAL"
    amount = f"AMOUNT_ABOVE_{name.upper()}_USUAL"
    for span in ("1h", "1d", "7d", "30d"):
        meaning = f"events of the {name}, decayed with a half-life of {span}"
        yield Feature(f"{name}_count_{span}", meaning, "events", activity)
    for span in ("1d", "7d", "30d"):
        meaning = f"sum of the {name}'s amounts, decayed with a half-life of {span}"
        yield Feature(f"{name}_amount_{span}", meaning, "log(1 + minor units)", activity)
    yield Feature(
        f"{name}_burst", f"rate of the {name}'s last day against its last month", "ratio", activity
    )
    yield Feature(
        f"{name}_seconds_since_last", f"time since the {name}'s last event", "log(s)", activity
    )
    yield Feature(f"{name}_age_days", f"time since the {name}'s first event", "days", activity)
    yield Feature(
        f"{name}_amount_z", f"amount against the {name}'s own mean and spread",
        "standard deviations", amount,
    )  # fmt: skip
    yield Feature(
        f"{name}_amount_ratio", f"amount against the {name}'s own mean", "log ratio", amount
    )
    new = f"COUNTERPART_NEW_TO_{name.upper()}"
    yield Feature(
        f"{name}_counterpart_new", f"counterpart not among the {name}'s last eight", "0 or 1", new
    )
    yield Feature(
        f"{name}_counterparts",
        f"different counterparts among the {name}'s last eight",
        "count",
        new,
    )


def _shared_features(name: str) -> Iterator[Feature]:
    activity = f"{name.upper()}_ACTIVITY_UNUSUAL"
    amount = f"AMOUNT_ABOVE_{name.upper()}_USUAL"
    for span in ("1h", "1d", "7d", "30d"):
        meaning = f"events at the {name} in the {span} before, in whole buckets"
        yield Feature(f"{name}_count_{span}", meaning, "events", activity)
    yield Feature(
        f"{name}_burst", f"rate of the {name}'s last day against its last month", "ratio", activity
    )
    for span in ("1d", "30d"):
        meaning = f"amount against the mean at the {name} in the {span} before"
        yield Feature(f"{name}_amount_ratio_{span}", meaning, "log ratio", amount)


def _learned_features(name: str) -> Iterator[Feature]:
    code = f"{name.upper()}_FRAUD_HISTORY"
    for span in ("7d", "30d", "120d"):
        meaning = (
            f"share of frauds among the {name}'s labels, decayed, half-life {span}, with a prior"
        )
        yield Feature(f"{name}_risk_{span}", meaning, "ratio", code)
    yield Feature(
        f"{name}_frauds", f"known frauds of the {name}, decayed, half-life 30d", "frauds", code
    )
    yield Feature(
        f"{name}_verdict", f"verdict on the {name}'s latest labelled event", "0 or 1", code
    )
    yield Feature(f"{name}_fraud_run", "frauds in a row up to that verdict", "frauds", code)
    yield Feature(
        f"{name}_days_since_run", f"time since the {name}'s run of frauds began", "days", code
    )
    yield Feature(
        f"{name}_days_since_fraud", f"time since the {name}'s latest known fraud", "days", code
    )
    yield Feature(
        f"{name}_days_since_genuine", f"time since the {name}'s latest known genuine", "days", code
    )
    yield Feature(
        f"{name}_genuine_since_fraud", f"genuine labels of the {name} after its latest fraud",
        "labels", code,
    )  # fmt: skip
    amount = f"AMOUNT_ABOVE_{name.upper()}_USUAL"
    yield Feature(
        f"{name}_genuine_z", f"amount against the {name}'s events known to be genuine",
        "standard deviations", amount,
    )  # fmt: skip
    yield Feature(
        f"{name}_genuine_ratio", f"amount against the mean of the {name}'s genuine events",
        "log ratio", amount,
    )  # fmt: skip


EVENT_WIDTH = len(list(_event_features()))
TRAFFIC_WIDTH = len(list(_traffic_features("e")))
SHARED_WIDTH = len(list(_shared_features("e")))
LEARNED_WIDTH = len(list(_learned_features("e")))


class FeatureKernel:
    """Fills the feature columns of a batch and records its events in their profiles."""

    def __init__(self, schema: Schema) -> None:
        self.table = feature_table(schema)
        self.schema_hash = schema_hash(self.table)
        self.names = tuple(feature.name for feature in self.table)
        self._has_counterpart = len(schema.keyed) > 1

    def find_fresh(self, batch: Transactions, view: ProfileView) -> NDArray[np.int64]:
        """Give the rows whose event id the partition key has not seen lately, and remember them."""
        fresh = np.ones(len(batch), dtype=np.bool_)
        ids = id_hashes(batch.transaction_id)
        record_ids(view.traffic.values, view.traffic.slots, ids, fresh)
        return np.flatnonzero(fresh)

    def read_and_record(self, batch: Transactions, view: ProfileView) -> NDArray[np.float32]:
        """Give the features of a batch, float32 of shape (events, features), and record it.

        Each row sees the history up to, and without, itself.
        """
        out = np.empty((len(batch), len(self.table)), dtype=np.float32)
        times, amounts = batch.event_time_ms, batch.amount_minor
        event_kernel(times, amounts, out)
        column = EVENT_WIDTH
        counterparts = self._counterparts(batch)
        traffic = view.traffic
        traffic_kernel(traffic.values, traffic.slots, times, amounts, counterparts, out, column)
        column += TRAFFIC_WIDTH
        for part in view.shared:
            shared_kernel(part.values, part.slots, times, amounts, out, column)
            column += SHARED_WIDTH
        for part in view.learned:
            learned_kernel(part.values, part.slots, times, amounts, out, column)
            column += LEARNED_WIDTH
        return out

    def _counterparts(self, batch: Transactions) -> NDArray[np.int64]:
        if self._has_counterpart:
            return counterpart_hashes(batch.keys[1])
        return np.zeros(len(batch), dtype=np.int64)


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
def record_ids(
    profiles: Structured,
    slots: NDArray[np.int32],
    hashes: NDArray[np.int64],
    fresh: NDArray[np.bool_],
) -> None:
    """Mark events whose id stands in their ring of recent ids; put the others in."""
    for row in range(slots.size):
        profile = profiles[slots[row]]
        for place in range(RECENT_IDS):
            if profile.ids[place] == hashes[row]:
                fresh[row] = False
        if fresh[row]:
            profile.ids[profile.ids_next % RECENT_IDS] = hashes[row]
            profile.ids_next += 1


@kernel
def decay(elapsed_ms: float, half_life_ms: float) -> float:
    """Give the share of a count that is left after a time."""
    return math.exp(-LN2 * elapsed_ms / half_life_ms)


@kernel
def deviations(amount: float, weight: float, total: float, squares: float) -> float:
    """Give the distance of an amount from a habit in standard deviations, NaN without a habit."""
    if weight < HABIT_WEIGHT_MIN:
        return math.nan
    mean = total / weight
    # The floor keeps habits of one fixed amount from making a cent a hundred deviations.
    spread = math.sqrt(max(squares / weight - mean * mean, 0.0)) + 0.05 * mean + 1.0
    return (amount - mean) / spread


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
    spread = math.sqrt(max(squares / weight - mean * mean, 0.0)) + 0.05 * mean + 1.0
    limit = mean + HABIT_DEVIATIONS_MAX * spread
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
) -> None:
    """Fill the columns of the partition key's traffic, and record each event after reading."""
    for row in range(times.size):
        profile = profiles[slots[row]]
        _decay_traffic(profile, times[row])
        _read_traffic(
            profile, times[row], float(amounts[row]), counterparts[row], out[row, column:]
        )
        _record_traffic(profile, times[row], float(amounts[row]), counterparts[row])


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
    out[9] = max(time - profile.first_ms, 0) / DAY_MS
    out[10] = deviations(amount, habit[0], habit[1], habit[2])
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


@kernel
def _record_traffic(profile: Record, time: int, amount: float, counterpart: int) -> None:
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


@kernel
def shared_kernel(
    rings: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
    out: NDArray[np.float32],
    column: int,
) -> None:
    """Fill the columns of a shared entity's traffic from its buckets, and count each event."""
    for row in range(times.size):
        ring = rings[slots[row]]
        _read_ring(ring, times[row], float(amounts[row]), out[row, column:])
        hour = times[row] // HOUR_MS
        day = times[row] // DAY_MS
        add_to_bucket(ring, hour % HOUR_SLOTS, hour, 1, amounts[row])
        add_to_bucket(ring, HOUR_SLOTS + day % DAY_SLOTS, day, 1, amounts[row])


@kernel
def add_to_bucket(ring: Record, slot: int, bucket: int, count: int, amount: int) -> None:
    """Count into a slot; the newest bucket that falls on it wins, whatever the order of events."""
    if ring[slot].bucket < bucket:
        ring[slot].bucket = bucket
        ring[slot].count = 0
        ring[slot].amount = 0
    if ring[slot].bucket == bucket:
        ring[slot].count += count
        ring[slot].amount += amount


@kernel
def _read_ring(ring: Record, time: int, amount: float, out: NDArray[np.float32]) -> None:
    hour = time // HOUR_MS
    day = time // DAY_MS
    hour_count, day_count, day_amount = 0, 0, 0
    for slot in range(HOUR_SLOTS):
        # Only buckets at or before the event's own time: others may come from other partitions.
        age = hour - ring[slot].bucket
        if 0 <= age < HOUR_SLOTS:
            day_count += ring[slot].count
            day_amount += ring[slot].amount
            if age <= 1:
                hour_count += ring[slot].count
    week_count, month_count, month_amount = 0, 0, 0
    for slot in range(HOUR_SLOTS, HOUR_SLOTS + DAY_SLOTS):
        age = day - ring[slot].bucket
        if 0 <= age < DAY_SLOTS:
            month_count += ring[slot].count
            month_amount += ring[slot].amount
            if age <= 7:  # noqa: PLR2004 - today and the seven days before
                week_count += ring[slot].count
    out[0] = hour_count
    out[1] = day_count
    out[2] = week_count
    out[3] = month_count
    out[4] = day_count / (month_count / 30.0 + 0.1)
    out[5] = log_ratio(amount, float(day_count), float(day_amount))
    out[6] = log_ratio(amount, float(month_count), float(month_amount))


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
def record_verdicts(
    profiles: Structured,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    amounts: NDArray[np.int64],
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
        _record_habit(profile, times[row], float(amounts[row]), is_fraud[row], corrects[row])
        profile.reference_ms = max(profile.reference_ms, times[row])
        _record_run(profile, times[row], is_fraud[row])


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
