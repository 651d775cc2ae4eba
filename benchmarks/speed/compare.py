"""What has changed since the committed figures, in words: the guard against getting slower.

Machines differ and neighbours disturb, so a rate is compared as a multiple of what the naive rival
did in the same run. Counts and memory are compared as they are; waits have a wide margin.

>>> said(Change("worker_events_per_second", 15.0, 12.0, is_rate=True, margin=0.1))
'worker_events_per_second: 12 times the naive rival, was 15: 20 % worse'
>>> said(Change("warm_start_seconds", 4.0, 2.0, is_rate=False, margin=0.2))
'warm_start_seconds: 2, was 4: 50 % better'
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.results import Results, middle

NAIVE = "naive-faust"
# Each rate: row, figure, and by how much it may fall without a word.
RATES = {
    "worker events a CPU second": ("worker", "events_per_cpu_second", 0.1),
    "worker events a second": ("worker", "events_per_second", 0.15),
    "replay events a CPU second": ("replay", "events_per_cpu_second", 0.1),
    "trainer labels a CPU second": ("trainer", "events_per_cpu_second", 0.1),
    "publisher events a second": ("publisher", "events_per_second", 0.15),
    "simulator events a second": ("simulator", "events_per_second", 0.15),
}
# What is better when it is less.
COSTS = {
    "function calls of the worker an event": ("counts", "calls_per_event", 0.05),
    "commands of Redis in 1,000 events": ("counts", "redis_commands_per_1000_events", 0.05),
    "bytes to Redis an event": ("counts", "redis_bytes_in_per_event", 0.05),
    "p99 in ms at 1,000 events/s": ("latency-1k", "p99_ms", 0.3),
    "p99 in ms at 5,000 events/s": ("latency-5k", "p99_ms", 0.3),
    "seconds of a warm start": ("start", "warm_start_seconds", 0.2),
    "MB of 100,000 cards in a worker": ("memory", "worker_mb", 0.1),
    "MB of 100,000 cards in Redis": ("memory", "redis_mb", 0.1),
    "peak MB of a worker": ("worker", "worker_peak_mb", 0.1),
}
# Seconds of one machine say nothing of another's.
TIMED = ("latency-1k", "latency-5k", "start")


@dataclass(frozen=True, slots=True)
class Change:
    """A figure then and now; a rate is a multiple of the naive rival's."""

    name: str
    before: float
    now: float
    is_rate: bool
    margin: float

    @property
    def worse(self) -> float:
        """By which share it is worse; below zero it is better."""
        return 1 - self.now / self.before if self.is_rate else self.now / self.before - 1


def changes(before: Results, now: Results) -> Iterator[Change]:
    """Give every figure that both have."""
    for name, (row, figure, margin) in RATES.items():
        values = [_multiple(found.get("rows", {}), row, figure) for found in (before, now)]
        if values[0] and values[1]:
            yield Change(name, values[0], values[1], is_rate=True, margin=margin)
    is_same = before.get("machine") == now.get("machine")
    for name, (row, figure, margin) in COSTS.items():
        if not is_same and row in TIMED:
            continue
        values = [middle(found.get("rows", {}), row, figure) for found in (before, now)]
        if values[0] and values[1]:
            yield Change(name, values[0], values[1], is_rate=False, margin=margin)


def _multiple(rows: Mapping[str, Any], row: str, figure: str) -> float | None:
    """Give a rate beside the naive rival's; `None` where the two are not of one run."""
    if row not in rows or NAIVE not in rows or _run(rows[row]) != _run(rows[NAIVE]):
        return None
    naive, value = middle(rows, NAIVE, figure), middle(rows, row, figure)
    return value / naive if naive and value else None


def _run(row: Mapping[str, Any]) -> object:
    return row["about"].get("run")


def said(change: Change) -> str:
    """Say a change in words."""
    unit = " times the naive rival" if change.is_rate else ""
    way = "worse" if change.worse > 0 else "better"
    return (
        f"{change.name}: {change.now:,.4g}{unit}, was {change.before:,.4g}: "
        f"{abs(change.worse):.0%} {way}".replace("%", " %")
    )


def verdict(before: Results, now: Results) -> tuple[list[str], bool]:
    """Say what changed by more than its margin, and whether anything became worse so."""
    if not before:
        return ["nothing is committed yet to compare with"], False
    found = list(changes(before, now))
    moved = [change for change in found if abs(change.worse) > change.margin]
    lines = [said(change) for change in moved]
    quiet = len(found) - len(moved)
    return [*lines, f"{quiet} figures are as they were"], any(item.worse > 0 for item in moved)
