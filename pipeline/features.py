"""The feature table, and how a batch's columns are filled (`feature_kernels.py`).

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.card_testing import places_of, probe_kernel, spread
from pipeline.errors import SchemaError
from pipeline.events import Transactions
from pipeline.feature_kernels import (
    DEVIATIONS_COLUMN,
    UNUSUAL_DEVIATIONS,
    alike_kernel,
    event_kernel,
    learned_kernel,
    shared_kernel,
    traffic_kernel,
)
from pipeline.profiles import ProfileView, counterpart_hashes
from pipeline.schema import Schema

# Bumped when a feature changes its meaning under the same name.
FEATURES_VERSION = 2


@dataclass(frozen=True, slots=True)
class Feature:
    """A named number of an event, and the reason code that its contribution counts towards."""

    name: str
    meaning: str
    unit: str
    reason_code: str


def feature_table(schema: Schema) -> tuple[Feature, ...]:
    """List the features of a schema's events, in the order of their columns."""
    computed = _computed_features(schema)
    features = (*(computed[column] for column in _kept(computed, schema)), *_own_numbers(schema))
    names = [feature.name for feature in features]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SchemaError(
            f"schema {schema.name!r}: the name of number {min(twice)!r} is that of a feature"
        )
    return features


def _computed_features(schema: Schema) -> list[Feature]:
    """List what the kernels fill, for events with an amount."""
    first, *others = (item.name for item in schema.keyed)
    features = [*_event_features(), *_traffic_features(first)]
    for other in others:
        features += _shared_features(other)
    for name in (first, *others):
        features += _learned_features(name)
    for name in (first, *others):
        features += _alike_features(name)
    for entity in schema.probed:
        features += _probe_features(entity.name, _counterpart(schema, entity.name))
    return features


def _counterpart(schema: Schema, name: str) -> str:
    """Name what is counted of an entity: of the first the second, of all others the first."""
    first, second, *_ = (entity.name for entity in schema.entities)
    return second if name == first else first


def _kept(computed: Sequence[Feature], schema: Schema) -> list[int]:
    """Give the columns that can differ: without an amount, none that is made of amounts.

    Nor is there a history of a key that never comes twice, or of answers that nobody gives.
    """
    silent: set[str] = set()
    if schema.is_keyed_by_id:
        name = schema.entities[0].name
        for of_kind in (_traffic_features, _learned_features, _alike_features):
            silent |= {feature.name for feature in of_kind(name)}
    if schema.response is None:
        for entity in schema.probed:
            silent |= {feature.name for feature in _decline_features(entity.name)}
    return [
        column
        for column, feature in enumerate(computed)
        if (schema.amount is not None or "amount" not in feature.meaning)
        and feature.name not in silent
    ]


def _own_numbers(schema: Schema) -> Iterator[Feature]:
    for number in schema.numbers:
        meaning = f"the event's {number.field}, as it stands"
        yield Feature(number.name, meaning, "its own", f"{number.name.upper()}_UNUSUAL")


def schema_hash(
    features: tuple[Feature, ...],
    small_amount_minor: int | None = None,
    declined: Sequence[str] = (),
) -> str:
    """Name a list of features: the same names in the same order have the same hash.

    Where features tell of small amounts and of declines, the hash is also of what counts as such.
    """
    names = [feature.name for feature in features]
    small = [] if small_amount_minor is None else [f"small_amount_minor={small_amount_minor}"]
    codes = [f"declined={' '.join(sorted(declined))}"] if declined else []
    text = "\n".join([str(FEATURES_VERSION), *names, *small, *codes])
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
    yield Feature(
        f"{name}_age_days", f"time since the {name}'s first event, 30 at most", "days", activity
    )
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
    for span in ("1d", "7d", "30d"):
        meaning = f"unusual amounts of the {name}, decayed with a half-life of {span}"
        yield Feature(f"{name}_unusual_{span}", meaning, "events", amount)


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
    for span in ("1d", "7d", "30d"):
        meaning = f"unusual amounts at the {name} in the {span} before"
        yield Feature(f"{name}_unusual_{span}", meaning, "events", activity)


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


def _alike_features(name: str) -> Iterator[Feature]:
    """What labels of alike amounts taught: usual ones for a usual amount, unusual for an unusual.

    So a fraud that its amount gives away does not count against the place where it happened, and
    one of a usual amount does.
    """
    code = f"{name.upper()}_FRAUD_HISTORY"
    meaning = f"share of frauds among the {name}'s labels of alike amounts, half-life 30d"
    yield Feature(f"{name}_alike_risk", meaning, "ratio", code)
    yield Feature(
        f"{name}_alike_run", f"frauds in a row of alike amounts of the {name}", "frauds", code
    )
    for since, what in (
        ("run", "run of frauds of alike amounts began"),
        ("fraud", "latest known fraud of an alike amount"),
        ("genuine", "latest known genuine of an alike amount"),
    ):
        yield Feature(
            f"{name}_alike_days_since_{since}", f"time since the {name}'s {what}", "days", code
        )


def _probe_features(name: str, other: str) -> Iterator[Feature]:
    code = f"{name.upper()}_SMALL_AMOUNTS"
    for span in ("1h", "1d"):
        meaning = f"small or zero amounts of the {name} in the {span} before, in whole hours"
        yield Feature(f"{name}_small_{span}", meaning, "events", code)
    for span in ("1h", "1d"):
        meaning = f"share of small amounts among the {name}'s events in the {span} before"
        yield Feature(f"{name}_small_share_{span}", meaning, "ratio", code)
    yield Feature(
        f"{name}_{other}s_1h", f"different {other}s of the {name} in the 1h before, estimated",
        "count", f"{name.upper()}_MANY_{other.upper()}S",
    )  # fmt: skip
    yield from _decline_features(name)


def _decline_features(name: str) -> Iterator[Feature]:
    code = f"{name.upper()}_MANY_DECLINES"
    for span in ("1h", "1d"):
        meaning = f"declined attempts of the {name} in the {span} before, in whole hours"
        yield Feature(f"{name}_declined_{span}", meaning, "events", code)
    for span in ("1h", "1d"):
        meaning = f"share of declined attempts among the {name}'s events in the {span} before"
        yield Feature(f"{name}_declined_share_{span}", meaning, "ratio", code)


EVENT_WIDTH = len(list(_event_features()))
TRAFFIC_WIDTH = len(list(_traffic_features("e")))
SHARED_WIDTH = len(list(_shared_features("e")))
LEARNED_WIDTH = len(list(_learned_features("e")))
ALIKE_WIDTH = len(list(_alike_features("e")))
PROBE_WIDTH = len(list(_probe_features("e", "f")))


def unusual_amounts(features: NDArray[np.float32], schema: Schema) -> NDArray[np.int8]:
    """Say by stored features which amounts were far above the habit of the partition key: 1 or 0.

    Labels of usual and of unusual amounts are remembered apart, since a fraud that its amount
    gives away says little of the place where it happened. Where there are no amounts, or no
    habits, none is unusual, and the table has no column to tell it by.
    """
    if schema.amount is None or schema.is_keyed_by_id:
        return np.zeros(len(features), dtype=np.int8)
    deviations = features[:, EVENT_WIDTH + DEVIATIONS_COLUMN]
    unusual: NDArray[np.int8] = (deviations > UNUSUAL_DEVIATIONS).astype(np.int8)
    return unusual


class FeatureKernel:
    """Fills the feature columns of a batch and records its events in their profiles."""

    def __init__(self, schema: Schema) -> None:
        self.table = feature_table(schema)
        self._small_minor = schema.small_amount_minor
        self._has_answers = schema.response is not None
        self.schema_hash = schema_hash(self.table, self._small_minor, schema.declined)
        self.names = tuple(feature.name for feature in self.table)
        self._has_counterpart = len(schema.keyed) > 1
        computed = _computed_features(schema)
        self._computed_width, self._kept = len(computed), _kept(computed, schema)

    def read_and_record(self, batch: Transactions, view: ProfileView) -> NDArray[np.float32]:
        """Give the features of a batch, float32 of shape (events, features), and record it.

        Each row sees the history up to, and without, itself.
        """
        out = np.empty((len(batch), self._computed_width), dtype=np.float32)
        unusual = np.empty(len(batch), dtype=np.int8)
        times, amounts = batch.event_time_ms, batch.amount_minor
        event_kernel(times, amounts, out)
        others, traffic = self._counterparts(batch), view.traffic
        column = EVENT_WIDTH
        traffic_kernel(traffic.values, traffic.slots, times, amounts, others, out, column, unusual)
        column += TRAFFIC_WIDTH
        for part in view.shared:
            shared_kernel(part.values, part.slots, times, amounts, unusual, out, column)
            column += SHARED_WIDTH
        for part in view.learned:
            learned_kernel(part.values, part.slots, times, amounts, out, column)
            column += LEARNED_WIDTH
        for part in view.learned:
            alike_kernel(part.values, part.slots, times, unusual, out, column)
            column += ALIKE_WIDTH
        if self._small_minor is not None:
            small, declined = amounts <= self._small_minor, self._declined(batch)
            places = [spread(others), places_of(batch.keys[0])]
            for number, part in enumerate(view.probes):
                of_other, rows = places[min(number, 1)], part.values
                hours, seen = rows["hours"], rows["seen"]
                probe_kernel(hours, seen, part.slots, times, small, declined, of_other, out, column)
                column += PROBE_WIDTH
        return self._with_numbers(out, batch.numbers)

    def _with_numbers(
        self, out: NDArray[np.float32], numbers: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Leave out what says nothing, and put the event's own numbers behind the rest."""
        if len(self._kept) < self._computed_width:
            out = out[:, self._kept]
        return np.hstack([out, numbers]) if numbers.shape[1] else out

    def _declined(self, batch: Transactions) -> NDArray[np.bool_]:
        if self._has_answers and batch.declined is not None:
            return batch.declined
        return np.zeros(len(batch), dtype=np.bool_)

    def _counterparts(self, batch: Transactions) -> NDArray[np.int64]:
        if self._has_counterpart:
            return counterpart_hashes(batch.keys[1])
        return np.zeros(len(batch), dtype=np.int64)
