"""About how long each row takes, in minutes on one core of the machine of the results.

>>> from benchmarks.quality.rows import Row
>>> minutes_of(Row("handbook", "handbook", "river"))
1.5
"""

from benchmarks.quality.rows import Row
from benchmarks.quality.streams import STREAMS

# Of the Handbook's stream on fifteen features.
MINUTES = {
    "river": 1.5,
    "vw": 1.5,
    "vw-pairs": 1.5,
    "forest": 8.0,
    "lightgbm-weekly-30d": 2.0,
    "lightgbm-daily-30d": 11.0,
    "lightgbm-weekly-7d": 1.5,
    "lightgbm-daily-7d": 5.0,
    "xgboost-weekly-30d": 1.5,
    "xgboost-daily-30d": 6.0,
    "xgboost-weekly-7d": 1.0,
    "xgboost-daily-7d": 3.0,
    "additive": 2.0,
    "neural": 2.0,
    "boosted": 6.0,
    "ensemble": 10.0,
    "logistic": 6.0,
}
MINUTES_OF_OTHERS = 5.0
# Our features are some six times as many. The table of them takes some minutes more, once a delay.
OWN_FACTOR = 3.0
LOOP_FACTOR = 3.0
EVENTS = STREAMS["handbook"].total


def minutes_of(row: Row) -> float:
    """Estimate a row's minutes."""
    minutes = MINUTES.get(row.model, MINUTES_OF_OTHERS) * STREAMS[row.stream].total / EVENTS
    return minutes * {"own": OWN_FACTOR, "loop": LOOP_FACTOR}.get(row.kind, 1.0)
